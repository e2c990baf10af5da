"""`forgefront validate` on a real run: to the end, again, stopped in the middle, and everything that can be wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forgefront import load_run
from forgefront.search.cli import main
from forgefront.search.lock import coordinator_lock
from forgefront.search.trial import TrialContext
from forgefront.search.validate import Validation, validate
from forgefront.search.validation.bench import Bench
from forgefront.search.validation.entries import EntryModel, entries_of
from forgefront.search.validation.protocol import protocol_of
from forgefront.search.validation.steps import in_order, steps_of
from forgefront.studies.errors import LockHeldError

OPTIONS = ["--trial", "1", "--images", "24", "--corruptions", "fog,contrast", "--attack", "none"]


def command(run: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "forgefront", "validate", str(run), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def quick(run: Path, **options: object) -> Validation:
    """The whole protocol, shortened."""
    loaded = load_run(run)
    given = {"images": 24, "corruptions": "fog,contrast", **options}
    protocol = replace(protocol_of(loaded.study, **given), steps=4, restarts=2)
    return validate(loaded, [1], protocol=protocol, say=lambda line: None)


def brief(run: Path) -> Validation:
    """What `OPTIONS` ask for."""
    loaded = load_run(run)
    protocol = protocol_of(loaded.study, images=24, corruptions="fog,contrast", attack="none")
    return validate(loaded, [1], protocol=protocol, say=lambda line: None)


def steps(run: Path) -> list[Path]:
    return sorted((run / "validation").glob("*/*.json"))


def searched_trial(run: Path) -> int:
    """A trial with another recipe than the control's."""
    loaded = load_run(run)
    recipes = {trial.number: trial.user_attrs["plan"]["recipe"] for trial in loaded.optuna_trials()}
    return next(number for number, recipe in recipes.items() if recipe != recipes[0])


@pytest.fixture(scope="module")
def validated(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Validation]:
    """A copy of the finished run and what its validation found."""
    run = tmp_path_factory.mktemp("validated") / "run"
    shutil.copytree(finished_run, run)
    return run, quick(run)


def test_the_whole_protocol_is_measured_beside_the_control(validated: tuple[Path, Validation]) -> None:
    _, found = validated
    assert [row["role"] for row in found.rows] == ["control", "trial"]
    control, trial = found.rows
    assert control["mce"] == pytest.approx(100.0)
    assert control["corruptions"]["mce"] == pytest.approx(100.0)
    assert control["corruptions"]["mean_error_change"] == 0.0
    assert list(trial["corruptions"]["errors"]) == ["fog", "contrast"]
    assert list(trial["corruptions"]["errors"]["fog"]) == ["1", "2", "3", "4", "5"]
    for row in found.rows:
        attack = row["attack"]
        assert attack["clean_accuracy"] >= attack["direct_accuracy"] >= attack["robust_accuracy"]
        assert attack["clean_accuracy"] == pytest.approx(row["accuracy"])
        curve = [point["accuracy"] for point in row["curve"].values()]
        assert curve[0] == pytest.approx(attack["clean_accuracy"])
        assert row["audit"].partition(":")[0] == row["audit_report"]["verdict"]
        assert sum(one["images"] for one in row["classes"].values()) == 24
        assert json.dumps(row, allow_nan=False)


def test_a_second_call_measures_nothing_and_says_the_same(validated: tuple[Path, Validation]) -> None:
    run, found = validated
    before = {file: file.stat().st_mtime_ns for file in steps(run)}
    assert quick(run).rows == found.rows
    assert {file: file.stat().st_mtime_ns for file in steps(run)} == before


def test_a_damaged_or_missing_step_is_measured_again_and_no_other(validated: tuple[Path, Validation]) -> None:
    run, found = validated
    damaged, missing = steps(run)[0], next(file for file in steps(run) if "fog-3" in file.name)
    damaged.write_text("{")
    missing.unlink()
    before = {file: file.stat().st_mtime_ns for file in steps(run)}
    again = quick(run)
    changed = {file for file in steps(run) if before.get(file) != file.stat().st_mtime_ns}
    assert changed == {damaged, missing}
    assert [row["corruptions"] for row in again.rows] == [row["corruptions"] for row in found.rows]


def test_another_setting_measures_what_it_changes_and_keeps_the_rest(validated: tuple[Path, Validation]) -> None:
    run, _ = validated
    before = set(steps(run))
    quick(run, epsilon="4/255")
    new = {file.name.partition("-")[0].partition(".")[0] for file in set(steps(run)) - before}
    assert new == {"attack", "audit", "curve"}
    before = set(steps(run))
    quick(run, attack="none", corruptions="fog")
    assert set(steps(run)) == before


def test_another_candidate_under_the_same_number_is_measured_anew(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    options = {"attack": "none", "corruptions": "none"}
    one = quick(run, **options)
    for name in ("packed.safetensors", "latent.safetensors", "candidate.json"):
        shutil.copy(run / "trials" / "2" / name, run / "trials" / "1" / name)
    other = quick(run, **options)
    assert one.rows[0] == other.rows[0]
    assert len(list((run / "validation" / "trial-1").glob("clean.*"))) == 2


def test_a_trial_with_another_recipe_brings_its_own_control(finished_run: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    shutil.copytree(finished_run, run)
    number = searched_trial(run)
    loaded = load_run(run)
    protocol = protocol_of(loaded.study, images=24, corruptions="fog", attack="none")
    found = validate(loaded, [number], protocol=protocol, say=said.append)
    assert [row["role"] for row in found.rows] == ["control", "recipe control", "trial"]
    assert found.titles == ["control", f"control like {number}", f"trial {number}"]
    assert found.rows[0]["mce"] == pytest.approx(100.0)
    assert found.rows[1]["compression_ratio"] == pytest.approx(1.0, abs=0.05)
    (folder,) = (run / "validation").glob("control-*")
    plan = json.loads((folder / "candidate" / "plan.json").read_text())
    assert plan["recipe"]["augmentation_strength"] == pytest.approx(
        loaded.complete(number).user_attrs["plan"]["recipe"]["augmentation_strength"]
    )
    trained = (folder / "candidate" / "made.json").stat().st_mtime_ns
    again = validate(loaded, [number], protocol=protocol, say=said.append)
    assert again.rows == found.rows
    assert (folder / "candidate" / "made.json").stat().st_mtime_ns == trained


def test_steps_are_taken_once_each_and_of_each_kind_one_first(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    context = TrialContext(finished_run, 1, run.study)
    bench = Bench(context, protocol_of(run.study, images=250))
    entries = entries_of(run, [1, searched_trial(finished_run)])
    models = [EntryModel(context, entry, tmp_path / entry.key) for entry in entries]
    plain = [step for model in models for step in steps_of(bench, model, models[0])]
    order = in_order(plain)
    assert sorted(map(id, order)) == sorted(map(id, plain))
    kinds = {step.task.kind for step in plain if step.stage != "training"}
    attacked = {step.task.subject for step in plain if step.stage == "attack" and not step.model.must_be_made}
    ahead = order[: len(kinds) + len(attacked) - 1]
    assert {step.task.kind for step in ahead} == kinds
    assert {step.task.subject for step in ahead if step.stage == "attack"} == attacked
    names = [(step.model.entry.key, step.name) for step in plain]
    assert len(set(names)) == len(names)
    # the last batch is smaller, and said to be
    assert sorted({step.task.size for step in plain if step.stage == "attack"}) == [50, 100]


def test_one_validation_at_a_time(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "validation").mkdir()
    with (
        coordinator_lock(run / "validation" / "lock"),
        pytest.raises(LockHeldError, match="validation held by process"),
    ):
        quick(run)


# stopped in the middle


def stopped(run: Path, sign: signal.Signals, after: int) -> subprocess.CompletedProcess[str]:
    """Begin a validation and send a signal when `after` steps more are kept."""
    known = len(steps(run))
    process = subprocess.Popen(
        command(run, *OPTIONS), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(steps(run)) < known + after and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_killed_and_interrupted_it_goes_on_and_finds_the_same(finished_run: Path, tmp_path: Path) -> None:
    run, moments = tmp_path / "run", random.Random(4)
    shutil.copytree(finished_run, run)
    killed = stopped(run, signal.SIGKILL, moments.randint(2, 6))
    assert killed.returncode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in steps(run)}
    assert kept
    interrupted = stopped(run, signal.SIGINT, moments.randint(2, 6))
    assert interrupted.returncode == 130, interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert interrupted.stdout == ""
    assert re.search(r"interrupted; \d+ of \d+ steps are kept", interrupted.stderr)
    assert f"going on: {len(kept)} of" in interrupted.stderr
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(finished_run, undisturbed)
    done, whole = (brief(folder) for folder in (run, undisturbed))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept

    def measured(found: Validation) -> list[dict]:
        # times differ from one measurement to the next
        return [{key: value for key, value in row.items() if not key.startswith("latency")} for row in found.rows]

    assert measured(done) == measured(whole)


# the command line


def forgefront(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["forgefront", "validate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_tables_csv_json_and_pictures(
    validated: tuple[Path, Validation], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = validated
    code, table, err = forgefront(capsys, monkeypatch, str(run), *OPTIONS)
    assert code == 0, err
    assert "mCE" in table
    assert "error in % on 24 corrupted test images" in table
    assert err.count("wrote") == 2
    assert sorted(file.name for file in (run / "validation" / "plots").iterdir()) == [
        "trial-1-classes.png",
        "trial-1-corruptions.png",
    ]
    code, text, err = forgefront(
        capsys, monkeypatch, str(run), *OPTIONS, "--format", "json", "--plots", str(run / "own")
    )
    rows = json.loads(text)
    assert rows[1]["corruptions"]["errors"]["fog"]["5"] >= 0.0
    assert "steps were measured before" in err
    assert (run / "own" / "trial-1-classes.png").exists()
    code, text, err = forgefront(capsys, monkeypatch, str(run), *OPTIONS, "--format", "csv")
    read = list(csv.DictReader(io.StringIO(text)))
    assert float(read[1]["corruptions_errors_fog_5"]) == rows[1]["corruptions"]["errors"]["fog"]["5"]
    assert float(read[1]["classes_3_accuracy"]) == rows[1]["classes"]["3"]["accuracy"]


def nothing(run: Path) -> None:
    """The fault lies in the arguments alone."""


CASES: list[tuple[str, Callable[[Path], object], list[str], str]] = [
    ("no such trial", nothing, ["--trial", "77"], "77"),
    ("no images", nothing, ["--images", "0"], "--images"),
    ("no such corruption", nothing, ["--corruptions", "fogg"], "Did you mean fog"),
    ("no such attack", nothing, ["--attack", "pdg"], "Did you mean pgd"),
    ("a radius in grey levels", nothing, ["--epsilon", "8"], "8/255"),
    ("an archive that is not there", nothing, ["--archive", "nowhere"], "`archive`"),
    ("an archive without the corruption", lambda run: (run / "archive").mkdir(), ["--trial", "1", "--attack", "none", "--archive", "run/archive", "--images", "4"], "gaussian_noise.npy"),
    ("pictures onto a file", lambda run: (run / "file").write_text(""), [*OPTIONS, "--plots", "run/file/plots"], "--plots"),
    ("no control any more", lambda run: shutil.rmtree(run / "trials" / "0"), OPTIONS, "trials/0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "options", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_wrong_input_is_told_in_one_line(
    damage: Callable[[Path], object],
    options: list[str],
    expected: str,
    validated: tuple[Path, Validation],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(validated[0], tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    damage(tmp_path / "run")
    code, out, err = forgefront(capsys, monkeypatch, "run", *options)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    told = [line for line in err.splitlines() if line.startswith("forgefront: ")]
    assert len(told) == 1, err
    assert expected in told[0]
