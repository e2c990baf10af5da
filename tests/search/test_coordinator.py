import json
import math
import os
import subprocess
import sys

import analytic
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from forgefront.search.coordinator import ControlFailedError
from forgefront.search.events import StudyFinished, StudyStarted, TrialFinished, TrialProgress, TrialStarted
from forgefront.search.fingerprint import compare, fingerprint
from forgefront.search.hypervolume import front_hypervolume, hypervolume
from forgefront.search.non_dominated import front_numbers, non_dominated
from forgefront.search.run_folder import RunFolder, read_json, write_json
from forgefront.search.samplers.seeded import Configurations
from forgefront.search.samplers.tpe import tpe
from forgefront.search.storage import sqlite_url
from forgefront.studies.errors import LockHeldError, RunError, StudyMismatchError
from forgefront.studies.load import read_study_text, study_to_toml


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def study_of(run):
    return optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))


def content(run):
    return [(t.number, t.params, t.values, t.state, t.constraints) for t in study_of(run).trials]


def events_of(coordinator):
    events = []
    finished = coordinator.run(events.append)
    assert events[-1] == finished
    return events


def test_control_then_seeds_then_search_and_exactly_as_many_as_asked_for(run):
    events = events_of(analytic.coordinator(run, trials=12))
    trials = study_of(run).trials
    assert len(trials) == 12
    assert [trial.user_attrs["role"] for trial in trials] == ["control"] + ["seed"] * 3 + ["search"] * 8
    assert trials[0].params == {}
    # of no generation, so that it never breeds
    key = "SeededNSGAIISampler:generation"
    assert [trial.system_attrs.get(key) for trial in trials] == [None] + [0] * 6 + [1] * 5
    assert [trial.params for trial in trials[1:4]] == analytic.SEEDS
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    kinds = [type(event) for event in events]
    assert kinds[0] is StudyStarted
    assert kinds[1:4] == [TrialStarted, TrialProgress, TrialFinished]
    assert [kinds.count(kind) for kind in (TrialStarted, TrialFinished, StudyFinished)] == [12, 12, 1]
    assert events[-1].ran == 12


def test_scores_are_derived_against_the_control(run):
    analytic.coordinator(run, trials=6).run()
    study = study_of(run)
    assert study.metric_names == ["accuracy", "macs"]
    for trial in study.trials:
        raw = analytic.measure(trial.params)
        assert trial.values == [raw["accuracy"]["right"] / 1000, raw["macs"]["macs"] / 1000]
        scores = trial.user_attrs["scores"]
        assert scores["accuracy"] == {"value": trial.values[0], "standard_error": 0.01}
        assert trial.user_attrs["raw"] == raw
        violation = 0.9 - 0.4 - trial.values[0]
        assert trial.constraints["accuracy >= control - 0.4"] == pytest.approx(violation, abs=1e-12)


def test_the_front_is_what_optuna_says(run):
    events = events_of(analytic.coordinator(run, trials=20))
    best = [trial.number for trial in study_of(run).best_trials]
    assert list(events[-1].front) == sorted(best)
    assert 3 not in best  # the strongest seed breaks the constraint
    volumes = [event.hypervolume for event in events if isinstance(event, TrialFinished)]
    assert volumes == sorted(volumes)
    assert study_of(run).user_attrs["reference_point"] == [0.0, 1.0]


def test_a_finished_run_does_nothing_and_more_trials_add_the_difference(run):
    analytic.coordinator(run, trials=8).run()
    before = content(run)
    events = events_of(analytic.coordinator(run, trials=8))
    assert [type(event) for event in events] == [StudyStarted, StudyFinished]
    assert events[-1].ran == 0
    assert analytic.coordinator(run, trials=13).run().ran == 5
    assert content(run)[:8] == before
    whole = run.with_name("whole")
    analytic.coordinator(whole, trials=13).run()
    assert content(whole) == content(run)


def test_both_engines_and_any_sampler(run):
    analytic.coordinator(run, trials=7, processes=True).run()
    serial = run.with_name("serial")
    analytic.coordinator(serial, trials=7).run()
    assert content(run) == content(serial)
    other = run.with_name("tpe")
    analytic.coordinator(other, trials=20, sampler=tpe(analytic.SPACE, 0, startup=6)).run()
    plain = run.with_name("plain")
    analytic.coordinator(plain, trials=12, sampler=optuna.samplers.TPESampler(seed=0)).run()
    assert [len(study_of(path).trials) for path in (other, plain)] == [20, 12]


def test_four_workers_give_the_exact_number_and_no_duplicate(run, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "0.02")
    events = events_of(analytic.coordinator(run, trials=30, workers=4))
    trials = study_of(run).trials
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    key = Configurations(analytic.SPACE).key
    assert len({key(trial.params) for trial in trials[1:]}) == 29
    pids = {(RunFolder(run).trial(number) / "pid.txt").read_text() for number in range(30)}
    assert len(pids) > 1
    # nothing starts beside the control
    first = next(index for index, event in enumerate(events) if isinstance(event, TrialFinished))
    assert [event.number for event in events[:first] if isinstance(event, TrialStarted)] == [0]


def test_failed_trials_are_recorded_with_their_reason_and_the_study_goes_on(run):
    coordinator = analytic.coordinator(run, trials=9, processes=True, runner="analytic:FragileRunner")
    finished = coordinator.run()
    trials = study_of(run).trials
    assert len(trials) == 9
    assert finished.failed == 3
    reasons = {trial.number: trial.user_attrs["reason"] for trial in trials if trial.state == TrialState.FAIL}
    assert reasons == {
        2: "the loss became infinite",
        3: "a score must be a finite number: accuracy is nan",
        4: "its process died 2 times (SIGKILL, out of memory?)",
    }
    assert RunFolder(run).result(4)["state"] == "failed"
    assert trials[5].state == TrialState.COMPLETE


def test_a_failed_control_stops_the_study_now_and_later(run):
    for _ in range(2):
        with pytest.raises(ControlFailedError, match="the loss became infinite"):
            analytic.coordinator(run, trials=9, runner="analytic:BrokenControlRunner").run()
    assert len(study_of(run).trials) == 1


def test_no_trial_starts_after_the_timeout(run, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "0.05")
    finished = analytic.coordinator(run, trials=1000, timeout=0.3).run()
    assert finished.stopped.startswith("time was up")
    assert 1 <= finished.trials < 20
    assert {trial.state for trial in study_of(run).trials} == {TrialState.COMPLETE}


def fingerprint_with(**changes):
    base = {"study": {"study": {"seed": 3}, "search": {"trials": 10}}, "environment": {"threads": 1}}
    text = json.dumps(base)
    for old, new in changes.items():
        text = text.replace(f'"{old}": {base_value(base, old)}', f'"{old}": {new}')
    return json.loads(text)


def base_value(tree, key):
    for name, value in tree.items():
        if name == key:
            return value
        if isinstance(value, dict) and (found := base_value(value, key)) is not None:
            return found
    return None


def test_another_study_is_refused_with_a_diff_and_other_threads_warn(run):
    analytic.coordinator(run, trials=3).run()
    with pytest.raises(StudyMismatchError, match=r"found study\.seed: 3 -> 4\.$"):
        analytic.coordinator(run, trials=4, fingerprint=fingerprint_with(seed=4)).run()
    events = events_of(analytic.coordinator(run, trials=4, fingerprint=fingerprint_with(threads=2, trials=4)))
    assert events[0].warnings == ("environment.threads: 1 -> 2",)
    assert events_of(analytic.coordinator(run, trials=5))[0].warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"space": {"bits": [8, 4]}}, {"space": {"bits": [8]}}, "space.bits: [8, 4] -> [8]"),
        ({"space": {"sparsity": None}}, {"space": {"sparsity": {"high": 0.5}}}, "space.sparsity.high: nothing -> 0.5"),
        ({"objectives": [{"name": "a"}]}, {"objectives": [{"name": "b"}]}, 'objectives[0].name: "a" -> "b"'),
        ({"constraints": []}, {"constraints": ["macs <= 2"]}, 'constraints: [] -> ["macs <= 2"]'),
        ({"search": {"population": 20}}, {"search": {"population": 30}}, "search.population: 20 -> 30"),
    ],
)
def test_what_may_not_change(old, new, line):
    with pytest.raises(StudyMismatchError) as caught:
        compare({"study": old}, {"study": new})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("search", "trials"),
        ("search", "timeout"),
        ("search", "workers"),
        ("search", "engine"),
        ("study", "description"),
    ],
)
def test_what_may_change(section, key):
    assert compare({"study": {section: {key: 1}}}, {"study": {section: {key: 2}}}) == []


def test_data_and_checkpoint_may_not_change_and_versions_warn():
    before = {"inputs": {"data": "ab"}, "environment": {"versions": {"torch": "2.11"}}}
    with pytest.raises(StudyMismatchError, match=r'inputs\.data: "ab" -> "cd"'):
        compare(before, {**before, "inputs": {"data": "cd"}})
    warned = compare(before, {**before, "environment": {"versions": {"torch": "2.12"}}})
    assert warned == ['environment.versions.torch: "2.11" -> "2.12"']


def test_a_second_coordinator_is_refused_by_name(run, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "0.2")
    command = [sys.executable, analytic.__file__, str(run), "500"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert "StudyStarted" in first.stdout.readline()
        with pytest.raises(LockHeldError, match=f"process {first.pid} on "):
            analytic.coordinator(run, trials=3).run()
    finally:
        first.kill()
        first.wait()
        first.stdout.close()


def test_a_study_of_another_program_is_refused(run):
    folder = RunFolder.create(run, "")
    study = optuna.create_study(storage=sqlite_url(folder.database), study_name="analytic", directions=["minimize"] * 2)
    study.add_trial(optuna.create_trial(values=[1.0, 2.0]))
    with pytest.raises(RunError, match="another program"):
        analytic.coordinator(run, trials=3).run()


# the arithmetic behind the front


def test_non_dominated_against_the_definition():
    points = np.random.default_rng(0).integers(0, 5, (60, 3)).astype(float)
    for index, kept in enumerate(non_dominated(points)):
        beaten = any((other <= points[index]).all() and (other < points[index]).any() for other in points)
        assert kept == (not beaten)
    assert non_dominated(np.zeros((0, 3))).shape == (0,)
    assert non_dominated(np.ones((2, 2))).all()


def test_hypervolume_identities():
    reference = np.array([1.0, 2.0, 3.0])
    assert hypervolume(np.zeros((1, 3)), reference) == pytest.approx(6.0)
    assert hypervolume(np.array([[0.5, 1.0, 1.0]]), reference) == pytest.approx(0.5 * 1.0 * 2.0)
    two = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    assert hypervolume(two, reference) == pytest.approx(3.0 + 3.0 - 1.5)
    assert hypervolume(np.array([[1.0, 0.0, 0.0], [5.0, 5.0, 5.0]]), reference) == 0.0
    assert hypervolume(np.zeros((0, 3)), reference) == 0.0


def test_front_hypervolume_counts_feasible_complete_trials_only():
    directions = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    trials = [
        optuna.create_trial(values=[0.5, 100.0], constraints={"c": 0.0}),
        optuna.create_trial(values=[1.0, 1.0], constraints={"c": 0.1}),
        optuna.create_trial(state=TrialState.FAIL),
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    # axes: accuracy as it is (its reference is 0), operations in units of 200
    assert front_hypervolume(trials, directions, [0.0, 200.0]) == pytest.approx(0.5 * 0.5)
    assert front_numbers(trials, directions) == [0]


# the run folder


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"x": 0.1 + 0.2, "y": math.inf})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == {"x": 0.1 + 0.2, "y": math.inf}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_trials_folder_appears_whole(run):
    folder = RunFolder.create(run, "text = 1\n")
    attempt = folder.attempt(3)
    (attempt / "model.onnx").write_text("x")
    assert folder.result(3) is None
    folder.publish(attempt, 3, {"number": 3, "state": "complete"})
    assert sorted(entry.name for entry in folder.trial(3).iterdir()) == ["model.onnx", "result.json"]
    leftover = folder.attempt(4)
    folder.discard_attempts()
    assert not leftover.exists()
    assert folder.result(3) == {"number": 3, "state": "complete"}


@pytest.mark.parametrize("damage", ["", "{ half", "[]", '{"number": 9}'])
def test_a_damaged_result_is_no_result(run, damage):
    folder = RunFolder.create(run, "")
    folder.trial(3).mkdir(parents=True)
    (folder.trial(3) / "result.json").write_text(damage)
    assert folder.result(3) is None


def test_folders_that_are_no_runs(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    for path in (tmp_path / "file", tmp_path / "photos"):
        with pytest.raises(RunError):
            RunFolder.create(path, "")
    for path in (tmp_path / "file", tmp_path / "photos", tmp_path / "nowhere"):
        with pytest.raises(RunError, match="`run`"):
            RunFolder.open(path)


def test_a_study_has_one_fingerprint_before_and_after_it_is_frozen():
    text = """
        task = { data = { name = "digits", validation = { from = "train", count = 9 } }, model = { name = "digits-cnn" } }
        study = { name = "short" }
        training = { epochs = 1 }
        space = { sparsity = { high = 0.9 } }
        objectives = [{ name = "accuracy" }]
    """
    # neither target nor search is stated, so that their options are in the frozen file only
    study = read_study_text(text, file="short.toml")
    frozen = read_study_text(study_to_toml(study), file="study.toml")
    first, second = (fingerprint(one, {"data": "ab"}, threads=1) for one in (study, frozen))
    assert first == second
    assert first["study"]["search"]["startup"] == 8
    assert compare(first, second) == []
