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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from forgefront import load_run
from forgefront.search.cli import main
from forgefront.search.lock import coordinator_lock
from forgefront.search.trial import TrialContext
from forgefront.search.validate import Validation, _take, validate
from forgefront.search.validation.bench import Bench
from forgefront.search.validation.entries import EntryModel, entries_of
from forgefront.search.validation.measures import Value
from forgefront.search.validation.protocol import protocol_of
from forgefront.search.validation.results import Measurements
from forgefront.search.validation.steps import Step, in_order, steps_of
from forgefront.search.validation.store import unpack
from forgefront.studies.errors import LockHeldError
from forgefront.studies.load import load_study
from forgefront.trainers.attacks.base import LossFunction
from forgefront.trainers.tasks.classification import ClassificationTask

ATTACKED = {"attack", "audit", "curve"}
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
    plan = json.loads((folder / "candidate" / "candidate.json").read_text())["plan"]
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


def test_the_studys_corruption_objectives_follow_from_the_steps(validated: tuple[Path, Validation]) -> None:
    run, _ = validated
    loaded = load_run(run)
    context = TrialContext(run, 1, loaded.study)
    protocol = protocol_of(loaded.study, images=24, corruptions="contrast,gaussian_noise,fog", attack="none")
    bench = Bench(context, protocol)
    assert list(bench.derived) == ["mce"]
    models = [EntryModel(context, entry, run / "validation" / entry.key) for entry in entries_of(loaded, [1])]
    for model in models:
        found = Measurements(model.entry, len(bench.images))
        for step in steps_of(bench, model, models[0]):
            if step.stage in ("clean", "corruptions"):
                found.put(step.stage, step.key, step.measure()[0])
        assert "objective-mce" not in {step.name for step in steps_of(bench, model, models[0])}
        mce = bench.derived["mce"]
        artefacts = model.artefacts()
        subject = context.subject(model.candidate, artefacts, artefacts, seed=bench.seed, split="test")
        assert found.raw_corruptions(mce.corruptions, mce.severities) == mce.measure(subject)
    # one that looks at what the protocol leaves out is measured by itself
    assert not Bench(context, replace(protocol, corruptions=("fog", "contrast"))).derived


def test_one_model_at_a_time_is_in_memory(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    context = TrialContext(finished_run, 1, run.study)
    bench = Bench(context, protocol_of(run.study, images=8, corruptions="fog", attack="none"))
    models = [EntryModel(context, entry, tmp_path / entry.key) for entry in entries_of(run, [1, 2])]
    models = [model for model in models if not model.must_be_made]
    held = []

    def watched(step: Step) -> Step:
        def measure() -> Value:
            value = step.measure()
            held.append(sum(model._candidate is not None for model in models))
            return value

        return replace(step, measure=measure)

    chosen = [step for model in models for step in steps_of(bench, model, models[0]) if step.stage != "objectives"]
    _take([watched(step) for step in chosen], lambda line: None)
    assert held == [1] * len(chosen)
    assert all(model._candidate is None for model in models)


def test_one_verdict_where_the_protocol_audits(finished_run: Path) -> None:
    study = load_run(finished_run).study
    attacked = study.model_copy(update={"metrics": load_study("digits-adversarial").objectives})
    for attack, audited in {"pgd": False, "none": True}.items():
        bench = Bench(TrialContext(finished_run, 1, attacked), protocol_of(attacked, images=8, attack=attack))
        (own,) = (objective for name, _, objective in bench.objectives if name == "pgd_accuracy")
        assert own.audit is audited


@pytest.mark.parametrize("losses", [["cross-entropy"], ["margin"], ["loss", "margin"]])
def test_a_task_calls_its_losses_what_it_likes(finished_run: Path, tmp_path: Path, losses: list[str]) -> None:
    run = load_run(finished_run)
    context = TrialContext(finished_run, 1, run.study)
    known = context.task.attack_losses

    class Task(ClassificationTask):
        @property
        def attack_losses(self) -> Mapping[str, LossFunction]:
            return {name: known.get(name, known["cross-entropy"]) for name in losses}

    context.task = Task(run.study, context.device)
    model = EntryModel(context, entries_of(run, [])[0], tmp_path)
    for attack in ("pgd", "apgd"):
        bench = Bench(context, replace(protocol_of(run.study, images=8, attack=attack), steps=2, restarts=1))
        found = {step.stage: step.measure()[0] for step in steps_of(bench, model, model) if step.stage in ATTACKED}
        assert found.keys() == ATTACKED
        assert found["audit"]["verdict"] in ("sound", "masked")
        assert losses[0] not in {check["name"] for check in found["audit"]["checks"]}


def test_a_study_in_l2_is_attacked_in_l2(finished_run: Path, tmp_path: Path) -> None:
    run = load_run(finished_run)
    section = load_study("digits-adversarial").objectives
    pgd = next(part for part in section if part.name == "pgd_accuracy")
    pgd = type(pgd).model_validate({"name": pgd.name, **pgd.options, "norm": "l2", "epsilon": 0.1})
    study = run.study.model_copy(update={"metrics": [pgd]})
    protocol = protocol_of(study, images=24)
    assert (protocol.norm, protocol.epsilon, protocol.radii[-1]) == ("l2", 0.1, 0.2)
    assert "L2 at ε 0.1," in protocol.describe()
    assert protocol_of(study, images=24, epsilon="8/255").norm == "l2"
    bench = Bench(TrialContext(finished_run, 1, study), replace(protocol, steps=2, restarts=1))
    assert (bench.attack.norm, bench.attack.epsilon) == ("l2", 0.1)
    model = EntryModel(bench.context, entries_of(run, [])[0], tmp_path)
    taken = [step for step in steps_of(bench, model, model) if step.stage in ATTACKED]
    assert {step.settings["norm"] for step in taken} == {"l2"}
    (audited,) = (step for step in taken if step.stage == "audit")
    assert audited.measure()[0]["settings"]["norm"] == "l2"
    # the same radius as a length allows far less
    (batch,) = (step for step in taken if step.stage == "attack")
    length = unpack(batch.measure()[0]["robust"], 24).sum()
    other = Bench(bench.context, replace(bench.protocol, norm="linf"))
    (batch,) = (step for step in steps_of(other, model, model) if step.stage == "attack")
    assert length > unpack(batch.measure()[0]["robust"], 24).sum()


def test_an_objective_is_measured_anew_when_its_source_changes(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "own_objective_for_keys.py"
    source.write_text("from forgefront.objectives.accuracy import Accuracy\nclass Own(Accuracy):\n    name = 'own'\n")
    run = load_run(finished_run)
    parts = [part for part in run.study.objectives if part.name in ("latency", "mce", "accuracy")]
    own = type(parts[0]).model_validate({"name": "own_objective_for_keys:Own"})
    bench = Bench(
        TrialContext(finished_run, 1, run.study.model_copy(update={"objectives": [*parts, own]})),
        protocol_of(run.study, images=8, corruptions="none", attack="none"),
    )
    depends = {objective.name: bench.depends(part, objective) for part, _, objective in bench.objectives}
    assert depends["accuracy"] == {}
    assert depends["latency"]["machine"]["threads"] == 1
    assert depends["mce"].keys() == {"corrupted"}
    source.write_text(source.read_text() + "# another one\n")
    (objective,) = (objective for _, _, objective in bench.objectives if objective.name == "own")
    assert bench.depends("own_objective_for_keys:Own", objective) != depends["own"]


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


def killed(run: Path, after: int) -> int:
    """Begin a validation, kill it when `after` steps are kept; its exit code."""
    process = subprocess.Popen(
        command(run, *OPTIONS), env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(steps(run)) < after and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    return process.wait(timeout=60)


@contextmanager
def interrupted(run: Path, after: int) -> Iterator[None]:
    """Send this process what Ctrl-C does when `after` steps more are kept."""
    known, ended = len(steps(run)), threading.Event()

    def watch() -> None:
        while len(steps(run)) < known + after and not ended.is_set():
            time.sleep(0.005)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def test_killed_and_interrupted_it_goes_on_and_finds_the_same(
    finished_run: Path,
    validated: tuple[Path, Validation],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, moments = tmp_path / "run", random.Random(4)
    shutil.copytree(finished_run, run)
    assert killed(run, moments.randint(2, 5)) == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in steps(run)}
    assert kept
    with interrupted(run, moments.randint(2, 4)):
        code, out, err = forgefront(capsys, monkeypatch, str(run), *OPTIONS)
    assert code == 130, err
    assert "Traceback" not in err
    assert out == ""
    assert re.search(r"interrupted; \d+ of \d+ steps are kept", err)
    assert f"going on: {len(kept)} of" in err
    done, whole = brief(run), brief(validated[0])
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
