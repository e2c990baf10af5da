"""Engines under trials that hang, are killed for want of memory, or find the disk full."""

from __future__ import annotations

import time
from pathlib import Path

import analytic
import optuna
import pytest
from optuna.trial import TrialState
from test_engines import alive, collect

from forgefront.search.engines import memory_kills as counting
from forgefront.search.engines.base import TrialRequest
from forgefront.search.engines.processes import ProcessEngine
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import sqlite_url
from forgefront.studies.errors import RunError

PARAMS = analytic.SEEDS[0]


@pytest.fixture
def processes(tmp_path):
    engines = []

    def make(workers, runner, **options):
        engines.append(ProcessEngine(tmp_path, workers, runner=runner, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


@pytest.mark.parametrize("number", [2, 3])
def test_a_trial_that_hangs_is_ended_and_the_worker_replaced(tmp_path, processes, number):
    engine = processes(1, "trouble:HangingRunner", timeout=4.0)
    engine.submit(TrialRequest(1, PARAMS))
    collect(engine, 1)
    (pid,) = engine.pids
    started = time.monotonic()
    engine.submit(TrialRequest(number, PARAMS))
    ((outcome,), _) = collect(engine, 1)
    assert 4.0 <= time.monotonic() - started < 20.0
    assert outcome.result["state"] == "failed"
    assert outcome.result["reason"] == "it ran longer than `search.trial_timeout` (4 s)"
    assert outcome.result["seconds"] >= 4.0
    assert not alive(pid)
    assert not list(RunFolder(tmp_path).trials.glob(f"{number}*"))
    engine.submit(TrialRequest(5, PARAMS))
    assert collect(engine, 1)[0][0].result["state"] == "complete"


def test_a_result_stored_in_time_counts(processes):
    engine = processes(1, "trouble:HangingRunner", timeout=4.0)
    engine.submit(TrialRequest(4, PARAMS))
    assert collect(engine, 1)[0][0].result["state"] == "complete"


def test_a_clock_that_jumps_ends_nothing(processes, monkeypatch):
    engine = processes(1, "analytic:Runner", timeout=30.0)
    engine.submit(TrialRequest(1, PARAMS))
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert collect(engine, 1)[0][0].result["state"] == "complete"


def test_only_a_kill_for_want_of_memory_halves_the_batch(tmp_path, processes, monkeypatch):
    counter, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    counter.write_text("oom 0\noom_kill 0\n")
    # others on the machine are killed all the time
    machine.write_text("oom_kill 900\n")
    monkeypatch.setattr(counting, "counters", lambda groups: [tmp_path / "absent", counter])
    monkeypatch.setattr(counting, "MACHINE", machine)
    monkeypatch.setenv("MEMORY_KILLS", str(counter))
    engine = processes(1, "trouble:HungryRunner")
    for number, halvings in ((2, 1), (3, 0), (4, 0)):
        engine.submit(TrialRequest(number, PARAMS))
        ((outcome,), _) = collect(engine, 1)
        assert outcome.result["state"] == "complete"
        assert outcome.result["halvings"] == halvings


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"own": "low 0\noom_kill 3\n", "root": "oom_kill 5\n", "machine": "oom_kill 900\n"}, 3),
        ({"root": "oom_kill_disable 0\noom_kill 5\n", "machine": "oom_kill 900\n"}, 5),
        # an old kernel's, without a count
        ({"own": "oom_kill_disable 0\n", "machine": "oom_kill 900\n"}, 900),
        ({}, 0),
    ],
)
def test_the_own_group_counts_before_the_machine(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(counting, "counters", lambda groups: [tmp_path / "own", tmp_path / "root"])
    monkeypatch.setattr(counting, "MACHINE", tmp_path / "machine")
    assert counting.memory_kills() == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("0::/user.slice/session\n", ["user.slice/session/memory.events", "memory.events"]),
        ("0::/\n", ["memory.events", "memory.events"]),
        ("5:devices:/x\n4:cpu,memory:/job\n", ["memory/job/memory.oom_control", "memory/memory.oom_control"]),
        ("", []),
    ],
)
def test_where_a_group_counts(groups, expected):
    assert counting.counters(groups, Path("/groups")) == [Path("/groups", path) for path in expected]


def test_the_kernel_is_asked_here_too():
    assert counting.memory_kills() >= 0
    assert counting.MACHINE.exists() or not Path("/proc/self").exists()


@pytest.mark.parametrize("processes_too", [False, True])
def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, processes_too):
    def run():
        return analytic.coordinator(tmp_path, trials=6, runner="trouble:FullDiskRunner", processes=processes_too).run()

    with pytest.raises(RunError, match="must be writable"):
        run()
    assert states(tmp_path) == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]
    (tmp_path / "room").touch()
    assert run().failed == 0
    assert states(tmp_path) == [TrialState.COMPLETE] * 6
    assert sorted(entry.name for entry in RunFolder(tmp_path).trials.iterdir()) == sorted(map(str, range(6)))


def states(run):
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))
    return [trial.state for trial in study.trials]
