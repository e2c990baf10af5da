"""`forgefront validate --repeats` on a real run: further trainings, kept and taken up again, and what can be wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forgefront import load_run
from forgefront.search.cli import main
from forgefront.search.trial import TrialContext
from forgefront.search.validate import Validation, validate
from forgefront.search.validation.entries import EntryModel, entries_of
from forgefront.search.validation.protocol import protocol_of
from forgefront.studies.errors import InputError, TrialError

OPTIONS = ["--trial", "1", "--images", "24", "--corruptions", "fog", "--attack", "none"]


def brief(run: Path, repeats: int, said: list[str] | None = None) -> Validation:
    """What `OPTIONS` ask for."""
    loaded, heard = load_run(run), [] if said is None else said
    protocol = protocol_of(loaded.study, images=24, corruptions="fog", attack="none")
    return validate(loaded, [1], protocol=protocol, repeats=repeats, say=heard.append)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times differ from one measurement to the next, and what is told apart by them."""
    text = json.dumps(rows, sort_keys=True)
    return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if not k.startswith("latency")})


def kept(run: Path) -> dict[Path, int]:
    found = [file for kind in ("json", "safetensors") for file in (run / "validation").glob(f"*/**/*.{kind}")]
    return {file: file.stat().st_mtime_ns for file in found if ".attempt-" not in str(file)}


@pytest.fixture(scope="module")
def repeated(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Validation, Validation]:
    """A copy of the finished run, its validation of one training, then of two."""
    run = tmp_path_factory.mktemp("repeated") / "run"
    shutil.copytree(finished_run, run)
    return run, brief(run, 1), brief(run, 2)


def test_means_of_two_trainings_that_differ(repeated: tuple[Path, Validation, Validation]) -> None:
    run, once, twice = repeated
    assert [row["role"] for row in twice.rows] == ["control", "trial"]
    for single, row in zip(once.rows, twice.rows, strict=True):
        assert "trainings" not in single
        assert list(row["trainings"]) == ["1", "2"]
        first, second = row["trainings"].values()
        assert first["accuracy"] == single["accuracy"]
        assert row["accuracy"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)
        assert row["plain"]["accuracy"] == pytest.approx(row["accuracy"])
        assert row["corruptions"]["mean_error"] == pytest.approx(
            (first["corruptions"]["mean_error"] + second["corruptions"]["mean_error"]) / 2
        )
        folder = run / "validation" / f"trial-{row['number']}" / "repeats"
        assert [entry.name for entry in folder.iterdir()] == ["1"]
        weights = [(place / "packed.safetensors").read_bytes() for place in (folder / "1" / "candidate", run / "trials" / str(row["number"]))]  # fmt: skip
        assert weights[0] != weights[1]
    control, trial = twice.rows
    assert control["corruptions"]["mce"] == pytest.approx(100.0)
    assert trial["changes"]["macs"]["beyond"] == (trial["macs"] != control["macs"])
    assert trial["changes"]["accuracy"]["change"] == pytest.approx(trial["accuracy"] - control["accuracy"])
    assert json.dumps(twice.rows, allow_nan=False)


def test_what_is_trained_and_measured_is_not_done_again(repeated: tuple[Path, Validation, Validation]) -> None:
    run, once, twice = repeated
    before = kept(run)
    assert brief(run, 2).rows == twice.rows
    assert brief(run, 1).rows == once.rows
    assert kept(run) == before


def test_every_training_is_attacked_and_audited(repeated: tuple[Path, Validation, Validation]) -> None:
    loaded = load_run(repeated[0])
    protocol = replace(protocol_of(loaded.study, images=16, corruptions="none"), steps=2, restarts=1)
    found = validate(loaded, [1], protocol=protocol, repeats=2, say=lambda line: None)
    for row in found.rows:
        each = row["trainings"].values()
        for key in ("clean_accuracy", "direct_accuracy", "robust_accuracy"):
            mean = sum(one["attack"][key] for one in each) / 2
            assert row["attack"][key] == pytest.approx(mean)
        assert row["curve"]["0.00000"]["accuracy"] == pytest.approx(row["accuracy"])
        masked = [one["audit"] for one in each if one["audit"].startswith("masked")]
        assert row["audit"].startswith("masked") == bool(masked) == (row["audit_report"]["verdict"] == "masked")
        assert not masked or row["audit"].endswith(f"({len(masked)} of 2 trainings)")
    assert "the worst of 2 trainings" in found.text("table")


def test_trainings_of_the_search_are_named_and_not_taken(
    repeated: tuple[Path, Validation, Validation], tmp_path: Path
) -> None:
    shutil.copytree(repeated[0], tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "study.db")) as database, database:
        (trial,) = database.execute("SELECT trial_id FROM trials WHERE number = 1").fetchone()
        values = json.dumps([{"accuracy": 0.5}, {"accuracy": 0.6}])
        database.execute(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, 'repeats', ?)", (trial, values)
        )
    said: list[str] = []
    assert brief(tmp_path / "run", 2, said).rows == repeated[2].rows
    assert [line for line in said if line.startswith("the search trained trial 1 2 times")]


def test_a_plan_and_its_seed_are_all_that_a_training_depends_on(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    context = TrialContext(finished_run, 1, run.study)
    model = EntryModel(context, entries_of(run, [1])[1], tmp_path / "trial-1", 0)
    context.make(model.entry.plan, model.seed, tmp_path)
    for name in ("packed.safetensors", "latent.safetensors"):
        assert (tmp_path / name).read_bytes() == (model.home / name).read_bytes()
    seeds = [EntryModel(context, entry, tmp_path, k).seed for entry in entries_of(run, [1, 3]) for k in range(3)]
    assert len({seed.integer() for seed in seeds}) == len(seeds) == 12


@pytest.mark.parametrize("damage", ["gone", "cut", "another plan"])
def test_a_training_of_something_else_is_made_anew(
    repeated: tuple[Path, Validation, Validation], tmp_path: Path, damage: str
) -> None:
    shutil.copytree(repeated[0], tmp_path / "run")
    run = load_run(tmp_path / "run")
    context = TrialContext(tmp_path / "run", 1, run.study)
    folder = tmp_path / "run" / "validation" / "trial-1"
    made = folder / "repeats" / "1" / "candidate" / "made.json"
    known = EntryModel(context, entries_of(run, [1])[1], folder, 1).identity
    assert known is not None
    content = json.loads(made.read_text())
    content["plan"]["recipe"]["budget"] = 0.5
    {"gone": made.unlink, "cut": lambda: made.write_text("{"), "another plan": lambda: made.write_text(json.dumps(content))}[damage]()  # fmt: skip
    model = EntryModel(context, entries_of(run, [1])[1], folder, 1)
    assert model.identity is None
    if damage == "another plan":
        model.make()
        # the same seed, the same weights
        assert model.identity == known
        assert not list(folder.rglob(".attempt-*"))


def test_a_training_that_fails_is_told_whose_it_was(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    optimizer = run.study.training.optimizer.model_copy(update={"learning_rate": 1e30})
    training = run.study.training.model_copy(update={"optimizer": optimizer})
    context = TrialContext(finished_run, 1, run.study.model_copy(update={"training": training}))
    model = EntryModel(context, entries_of(run, [1])[1], tmp_path / "trial-1", 2)
    with pytest.raises(TrialError, match="trial 1, training 3 could not be trained"):
        model.make()
    assert model.identity is None


def test_killed_in_a_further_training_it_goes_on_and_finds_the_same(
    finished_run: Path, repeated: tuple[Path, Validation, Validation], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    command = [sys.executable, "-m", "forgefront", "validate", str(run), *OPTIONS, "--repeats", "2"]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((run / "validation").glob("trial-1/repeats/1/.attempt-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    before = kept(run)
    assert list((run / "validation").glob("trial-0/repeats/1/candidate/made.json"))
    found = brief(run, 2)
    assert before.items() <= kept(run).items()
    assert not list(run.rglob(".attempt-*"))
    assert without_times(found.rows) == without_times(repeated[2].rows)


# the command line


def forgefront(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["forgefront", "validate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_tables_and_csv_have_each_training(
    repeated: tuple[Path, Validation, Validation], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, twice = repeated
    code, table, err = forgefront(capsys, monkeypatch, str(run), *OPTIONS, "--repeats", "2")
    assert code == 0, err
    assert "2 trainings of each" in err
    assert "means of 2 trainings" in table
    assert "the 2 trainings one by one" in table
    assert "± standard error, * beyond 2)" in table
    assert max(map(len, table.splitlines())) <= 120
    code, text, _ = forgefront(capsys, monkeypatch, str(run), *OPTIONS, "--repeats", "2", "--format", "csv")
    read = list(csv.DictReader(io.StringIO(text)))
    for row, expected in zip(read, twice.rows, strict=True):
        for number in ("1", "2"):
            assert float(row[f"trainings_{number}_accuracy"]) == expected["trainings"][number]["accuracy"]


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_number_of_trainings_that_is_none_is_told_in_one_line(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    code, out, err = forgefront(capsys, monkeypatch, str(finished_run), *OPTIONS, "--repeats", value)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "--repeats" in err
    if value != "many":
        with pytest.raises(InputError, match="`--repeats` must be at least 1"):
            brief(finished_run, int(value))
    assert not (finished_run / "validation").exists()
