"""Independent workers on a real PostgreSQL server, killed, suspended and cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import analytic
import optuna
import pytest
from optuna.trial import TrialState

from forgefront.search.coordinator import Interrupted
from forgefront.search.events import Preparing, TrialFinished, TrialStarted
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import with_driver
from forgefront.search.telling import ControlFailedError
from forgefront.search.workers.claims import OWNER
from forgefront.studies.errors import LockHeldError, RunError, StudyMismatchError

server_study = pytest.importorskip("server_study")
worker = server_study.worker


def start(run, url, *options, sleep=0.0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ANALYTIC_SLEEP": str(sleep)}
    return subprocess.Popen(
        [sys.executable, str(Path(server_study.__file__)), str(run), url, *map(str, options)],
        env={**environment, "PYTHONPATH": str(Path(server_study.__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def study(url):
    return optuna.load_study(study_name="analytic", storage=with_driver(url))


def content(trials):
    return [(t.number, t.state, t.params, t.values, t.constraints, t.user_attrs["role"]) for t in trials]


def lines_until(process, *words):
    """Output up to the line that consists of `words`."""
    for line in process.stdout:
        if line.split()[: len(words)] == list(words):
            return
    raise AssertionError(process.stderr.read())


@pytest.fixture
def url(postgresql):
    return postgresql.database()


def test_one_worker_does_what_a_coordinator_does(url, postgresql, tmp_path):
    """The same trials, values, constraints and order: all that a worker does differently is when it holds a lock."""
    finished = worker(tmp_path / "worker", url, trials=14).run()
    assert (finished.ran, finished.trials, finished.stopped) == (14, 14, None)
    analytic.coordinator(tmp_path / "coordinator", trials=14).run()
    other = RunFolder(tmp_path / "coordinator").database
    alone = optuna.load_study(study_name="analytic", storage=f"sqlite:///{other}")
    assert content(study(url).trials) == content(alone.trials)
    assert study(url).user_attrs == alone.user_attrs
    assert finished.hypervolume == pytest.approx(alone.trials[-1].user_attrs["hypervolume"])


def test_eight_workers_lose_and_repeat_nothing_while_they_are_killed(url, tmp_path):
    trials, kills = 40, 6
    process = start(tmp_path, url, "--trials", trials, "--workers", 8, "--kills", kills, "--seed", 5, sleep=0.1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = study(url).trials
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({tuple(trial.params.items()) for trial in found}) == trials
    stored = Counter()
    for line in (tmp_path / "executions.log").read_text().splitlines():
        what, number = line.split()
        # the log is written a moment after the result, so that only what began later is at fault
        assert what == "stored" or not stored[number], f"trial {number} ran again after its result was stored"
        stored[number] += what == "stored"
    for trial in found:
        assert RunFolder(tmp_path).result(trial.number)["params"] == trial.params
        # set by whoever told it, from its own result
        violation = analytic.problem().conditions[0].violation(trial.values[0], found[0].values[0])
        assert list(trial.constraints.values()) == pytest.approx([violation])
    assert len({trial.user_attrs[OWNER]["pid"] for trial in found}) > 1


def test_the_control_is_a_barrier_and_a_dead_one_is_taken_over(url, tmp_path):
    first = start(tmp_path, url, "--trials", 4, sleep=30)
    try:
        lines_until(first, "TrialStarted", "0")
        waiting = start(tmp_path, url, "--trials", 4)
        lines_until(waiting, "StudyStarted")
        time.sleep(1.5)
        assert len(study(url).trials) == 1
    finally:
        first.kill()
        first.communicate()
    output, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, errors
    assert "TrialStarted 0" in output
    assert [trial.state for trial in study(url).trials] == [TrialState.COMPLETE] * 4


def test_a_result_that_a_dead_worker_stored_is_told_and_not_run_again(url, tmp_path):
    first = start(tmp_path, url, "--trials", 3, sleep=30)
    lines_until(first, "TrialStarted", "0")
    first.kill()
    first.communicate()
    folder = RunFolder(tmp_path)
    result = {"number": 0, "state": "complete", "params": {}, "raw": analytic.measure({}), "seconds": 12.0}
    folder.publish(folder.attempt(0), 0, result)
    events = []
    worker(tmp_path, url, trials=3).run(events.append)
    assert [event.number for event in events if isinstance(event, TrialStarted)] == [1, 2]
    assert [event.number for event in events if isinstance(event, TrialFinished)] == [0, 1, 2]
    assert study(url).trials[0].user_attrs["seconds"] == 12.0


def test_a_trial_whose_worker_is_interrupted_is_given_back_at_once(url, tmp_path):
    first = start(tmp_path, url, "--trials", 3, "--processes", sleep=30)
    lines_until(first, "TrialProgress", "0")
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=20)
    assert first.returncode != 0
    assert Interrupted.__name__ in errors
    assert study(url).trials[0].state == TrialState.RUNNING
    assert study(url).trials[0].user_attrs[OWNER] is None
    begun = time.monotonic()
    # were it not given back, this one would wait for a minute
    worker(tmp_path, url, trials=3, presumed_dead=60.0).run()
    assert time.monotonic() - begun < 20
    assert {trial.state for trial in study(url).trials} == {TrialState.COMPLETE}


def test_whoever_was_taken_for_dead_does_not_tell_over_another(url, postgresql, tmp_path):
    first = start(tmp_path, url, "--trials", 3, sleep=4)
    try:
        # well within the trial, whose attempt others may remove
        lines_until(first, "TrialProgress", "0")
        # suspended, and its session ended: nothing is heard of it any more
        first.send_signal(signal.SIGSTOP)
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE application_name LIKE 'forgefront worker {first.pid}@%'"
        )
        worker(tmp_path, url, trials=3).run()
        before = content(study(url).trials), [trial.user_attrs for trial in study(url).trials]
        first.send_signal(signal.SIGCONT)
        output, errors = first.communicate(timeout=30)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 0, errors
    assert "TrialFinished" not in output
    assert not [entry for entry in RunFolder(tmp_path).trials.iterdir() if "." in entry.name]
    assert (content(study(url).trials), [trial.user_attrs for trial in study(url).trials]) == before
    assert {trial.user_attrs[OWNER]["pid"] for trial in study(url).trials} == {os.getpid()}


def test_a_server_that_restarts_costs_no_result(url, postgresql, tmp_path):
    events = []

    def watch(event):
        events.append(event)
        if isinstance(event, TrialStarted) and event.number == 4:
            postgresql.stop()
            threading.Timer(1.0, postgresql.start).start()

    worker(tmp_path, url, trials=8, presumed_dead=10.0).run(watch)
    said = [event.text for event in events if isinstance(event, Preparing)]
    assert [text for text in said if "lost" in text]
    assert [text for text in said if "back" in text]
    assert (tmp_path / "executions.log").read_text().count("begun") == 8
    assert [trial.state for trial in study(url).trials] == [TrialState.COMPLETE] * 8


def test_coordinators_and_workers_exclude_each_other_by_name(url, tmp_path):
    first = start(tmp_path, url, "--trials", 3, sleep=30)
    try:
        lines_until(first, "TrialStarted", "0")
        with pytest.raises(LockHeldError, match=f"forgefront worker {first.pid}@"):
            analytic.coordinator(tmp_path, trials=3, url=with_driver(url)).run()
    finally:
        first.kill()
        first.communicate()
    refused = []

    def intrude(event):
        if isinstance(event, TrialStarted) and not refused:
            with pytest.raises(LockHeldError, match=f"forgefront coordinator {os.getpid()}@") as caught:
                worker(tmp_path, url, trials=3).run()
            refused.append(str(caught.value))

    analytic.coordinator(tmp_path, trials=3, url=with_driver(url)).run(intrude)
    assert "\n" not in refused[0]


def test_budgets_end_the_work_and_a_larger_one_goes_on(url, tmp_path):
    assert worker(tmp_path, url, trials=4).run().trials == 4
    stopped = worker(tmp_path, url, trials=9, timeout=0.0).run()
    assert stopped.trials == 4
    assert "time was up" in stopped.stopped
    assert worker(tmp_path, url, trials=6).run().ran == 2


def test_a_failed_control_stops_every_worker(url, tmp_path):
    for _ in range(2):
        with pytest.raises(ControlFailedError, match="the loss became infinite"):
            worker(tmp_path, url, trials=3, runner="analytic:BrokenControlRunner").run()
    assert len(study(url).trials) == 1


def test_bad_input_gives_one_line(url, tmp_path):
    with pytest.raises(RunError, match=r"storage\.url.*postgresql") as caught:
        worker(tmp_path, f"sqlite:///{tmp_path}/study.db", trials=3).run()
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"storage\.url.*answers") as caught:
        worker(tmp_path, "postgresql://127.0.0.1:1/study", trials=3).run()
    assert "\n" not in str(caught.value)
    worker(tmp_path / "one", url, trials=2).run()
    with pytest.raises(StudyMismatchError):
        worker(tmp_path / "one", url, trials=2, directions={"accuracy": "minimize", "macs": "minimize"}).run()
    with pytest.raises(RunError, match="--name"):
        worker(tmp_path / "one", url, trials=2, name="another").run()
