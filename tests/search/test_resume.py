import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import analytic
import optuna
import pytest
from optuna.trial import TrialState

from forgefront.search.coordinator import Interrupted
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import sqlite_url

TRIALS = 24


def content(run):
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))
    return [(t.number, t.state, t.params, t.values, t.constraints, t.user_attrs["scores"]) for t in study.trials]


def states(run):
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))
    return [trial.state for trial in study.trials]


def launch(run, trials, workers=1, sleep=0.1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ANALYTIC_SLEEP": str(sleep)}
    return subprocess.Popen(
        [sys.executable, analytic.__file__, str(run), str(trials), str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_ten_times_at_random_moments_equals_uninterrupted(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    analytic.coordinator(whole, trials=TRIALS).run()
    draw = random.Random(0)
    for _ in range(10):
        process = launch(run, TRIALS)
        # from the moment the lock is held, so that every kill hits the study and not Python's imports
        assert "StudyStarted" in process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
    # the kills have left work to do, or they proved nothing
    assert len(states(run)) < TRIALS or TrialState.RUNNING in states(run)
    assert analytic.coordinator(run, trials=TRIALS).run().trials == TRIALS
    assert content(run) == content(whole)
    assert sorted(entry.name for entry in RunFolder(run).trials.iterdir()) == sorted(map(str, range(TRIALS)))


def test_four_workers_killed_lose_and_double_nothing(tmp_path):
    draw = random.Random(1)
    for _ in range(3):
        process = launch(tmp_path, TRIALS, workers=4, sleep=0.2)
        for line in process.stdout:
            if line.startswith("TrialFinished") and draw.random() < 0.4:
                break
        process.kill()
        process.communicate()
    left = states(tmp_path)
    assert TrialState.RUNNING in left
    analytic.coordinator(tmp_path, trials=TRIALS).run()
    after = content(tmp_path)
    assert [row[0] for row in after] == list(range(TRIALS))
    assert {row[1] for row in after} == {TrialState.COMPLETE}
    assert len({tuple(row[2].values()) for row in after}) == TRIALS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_clean_state(tmp_path, number):
    process = launch(tmp_path, TRIALS, sleep=30)
    for line in process.stdout:
        if line.startswith("TrialProgress"):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert "Interrupted" in errors
    assert states(tmp_path) == [TrialState.RUNNING]
    assert not (tmp_path / "lock.json").exists()
    analytic.coordinator(tmp_path, trials=4).run()
    assert states(tmp_path) == [TrialState.COMPLETE] * 4


def test_an_interrupt_here_is_an_interrupted(tmp_path):
    def press(event):
        if getattr(event, "number", None) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        analytic.coordinator(tmp_path, trials=9).run(press)
    assert signal.getsignal(signal.SIGINT) is before
    assert analytic.coordinator(tmp_path, trials=9).run().trials == 9


def leave_running(run, trials):
    """A run whose last trial was asked and then forgotten, as a killed coordinator leaves it."""
    analytic.coordinator(run, trials=trials).run()
    before = content(run)

    def die(event):
        if getattr(event, "number", None) == trials:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        analytic.coordinator(run, trials=trials + 1).run(die)
    assert states(run)[-1] == TrialState.RUNNING
    return before


def test_a_stored_result_is_told_not_computed_again(tmp_path):
    leave_running(tmp_path, 5)
    folder = RunFolder(tmp_path)
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(folder.database))
    params = study.trials[5].params
    raw = {"accuracy": {"right": 123.0}, "macs": {"macs": 7.0}}
    stored = {"number": 5, "state": "complete", "params": params, "raw": raw}
    folder.publish(folder.attempt(5), 5, stored)
    finished = analytic.coordinator(tmp_path, trials=6).run()
    assert finished.ran == 1
    assert content(tmp_path)[5][3] == [0.123, 0.007]


@pytest.mark.parametrize("stored", [None, "damaged", "of other params"])
def test_anything_else_runs_again_with_the_same_params(tmp_path, stored):
    before = leave_running(tmp_path, 5)
    folder = RunFolder(tmp_path)
    params = optuna.load_study(study_name="analytic", storage=sqlite_url(folder.database)).trials[5].params
    if stored is not None:
        raw = {"accuracy": {"right": 1.0}, "macs": {"macs": 1.0}}
        content_ = {"number": 5, "state": "complete", "params": {**params, "strength": 9.0}, "raw": raw}
        folder.publish(folder.attempt(5), 5, content_)
        if stored == "damaged":
            (folder.trial(5) / "result.json").write_text("{ half")
    folder.attempt(5)
    analytic.coordinator(tmp_path, trials=6).run()
    after = content(tmp_path)
    assert after[:5] == before
    assert after[5][2] == params
    raw = analytic.measure(params)
    assert after[5][3] == [raw["accuracy"]["right"] / 1000, raw["macs"]["macs"] / 1000]
    assert len(list(Path(folder.trials).iterdir())) == 6


def test_an_event_handler_that_fails_loses_nothing(tmp_path):
    before = leave_running(tmp_path, 7)
    whole = tmp_path / "whole"
    analytic.coordinator(tmp_path, trials=9).run()
    analytic.coordinator(whole, trials=9).run()
    assert content(tmp_path) == content(whole)
    assert content(tmp_path)[:7] == before
