import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import analytic
import pytest

from forgefront.search.engines.base import TrialRequest, failure, takes_timeout, threads_per_worker
from forgefront.search.engines.processes import ProcessEngine
from forgefront.search.engines.serial import SerialEngine
from forgefront.search.run_folder import RunFolder
from forgefront.studies.errors import RunError

PARAMS = analytic.SEEDS[0]


def collect(engine, count, seconds=60):
    outcomes, progress, deadline = [], [], time.monotonic() + seconds
    while len(outcomes) < count and time.monotonic() < deadline:
        outcomes += engine.poll(0.2, progress.append)
    return outcomes, progress


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie has ended too; its parent has yet to hear of it
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


@pytest.fixture
def processes(tmp_path):
    engines = []

    def make(workers, runner="analytic:Runner"):
        engines.append(ProcessEngine(tmp_path, workers, runner=runner))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def test_serial_runs_one_trial_a_poll(tmp_path):
    engine = SerialEngine(tmp_path, runner="analytic:Runner")
    engine.submit(TrialRequest(1, PARAMS, "seed"))
    engine.submit(TrialRequest(2, PARAMS))
    outcomes, progress = collect(engine, 1)
    assert [outcome.number for outcome in outcomes] == [1]
    assert [item.number for item in progress] == [1]
    engine.stop()
    assert engine.poll(0.0, progress.append) == []


def test_serial_refuses_many_workers(tmp_path):
    with pytest.raises(ValueError, match="`workers` must be 1"):
        SerialEngine(tmp_path, 2)


def test_both_engines_give_the_same(tmp_path, processes):
    request = TrialRequest(3, PARAMS)
    serial, parallel = SerialEngine(tmp_path / "serial", runner="analytic:Runner"), processes(1)
    serial.submit(request)
    parallel.submit(request)
    (first,), _ = collect(serial, 1)
    (second,), progress = collect(parallel, 1)
    assert first == second
    assert [item.number for item in progress] == [3]
    assert RunFolder(tmp_path).result(3) == second.result


def test_workers_are_kept_and_never_more_than_asked_for(tmp_path, processes):
    engine = processes(2)
    for numbers in ((1, 2), (3, 4)):
        for number in numbers:
            engine.submit(TrialRequest(number, PARAMS))
        with pytest.raises(RuntimeError, match="idle worker"):
            engine.submit(TrialRequest(9, PARAMS))
        outcomes, _ = collect(engine, 2)
        assert sorted(outcome.number for outcome in outcomes) == list(numbers)
    ran = {(tmp_path / "trials" / str(number) / "pid.txt").read_text() for number in (1, 2, 3, 4)}
    assert ran == {str(pid) for pid in engine.pids}
    assert str(os.getpid()) not in ran


def test_a_trial_whose_process_dies_runs_again_and_then_fails(tmp_path, processes, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "0.2")
    (tmp_path / "trials" / "4.elsewhere-1.x").mkdir(parents=True)
    engine = processes(1, "analytic:FragileRunner")
    engine.submit(TrialRequest(5, PARAMS))
    outcomes, progress = collect(engine, 1)
    assert outcomes[0].result["state"] == "complete"
    assert len(progress) == 2
    engine.submit(TrialRequest(4, PARAMS))
    outcomes, progress = collect(engine, 1)
    assert outcomes[0].result["state"] == "failed"
    assert outcomes[0].result["reason"] == "its process died 2 times (SIGKILL, out of memory?)"
    # of both attempts, each of which slept
    assert outcomes[0].result["seconds"] >= 2 * 0.2 * 0.5
    assert len(progress) == 2
    # both attempts' folders are gone, and only theirs
    assert sorted(entry.name for entry in (tmp_path / "trials").iterdir()) == ["4.elsewhere-1.x", "5"]
    engine.submit(TrialRequest(6, PARAMS))
    assert collect(engine, 1)[0][0].result["state"] == "complete"


def test_an_idle_worker_that_died_is_replaced(processes):
    engine = processes(1)
    engine.submit(TrialRequest(1, PARAMS))
    collect(engine, 1)
    (pid,) = engine.pids
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone([pid])
    engine.submit(TrialRequest(2, PARAMS))
    assert [outcome.number for outcome in collect(engine, 1)[0]] == [2]


def test_a_trial_published_just_before_its_process_died_is_not_run_again(tmp_path, processes, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "60")
    engine = processes(1)
    engine.submit(TrialRequest(1, PARAMS))
    folder = RunFolder(tmp_path)
    stored = {"number": 1, "state": "complete", "params": PARAMS, "raw": {}}
    folder.publish(folder.attempt(1), 1, stored)
    os.kill(engine.pids[0], signal.SIGKILL)
    outcomes, _ = collect(engine, 1)
    assert outcomes[0].result == stored


def test_stop_ends_workers_at_once_and_twice(tmp_path, processes, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "60")
    engine = processes(2)
    engine.submit(TrialRequest(1, PARAMS))
    engine.submit(TrialRequest(2, PARAMS))
    pids, started = engine.pids, []
    while len(started) < 2:
        engine.poll(0.1, started.append)
    engine.stop()
    assert not any(alive(pid) for pid in pids)
    assert list(tmp_path.glob("trials/*")) == []
    engine.stop()


def test_a_runner_that_cannot_start_says_why(processes):
    engine = processes(1, "analytic:UnusableRunner")
    engine.submit(TrialRequest(1, PARAMS))
    with pytest.raises(RunError, match="no data here"):
        collect(engine, 1)


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[2])
import analytic
from forgefront.search.engines.base import TrialRequest
from forgefront.search.engines.processes import ProcessEngine
if __name__ == "__main__":
    engine = ProcessEngine(sys.argv[1], 2, runner="analytic:Runner")
    started = []
    for number in (1, 2):
        engine.submit(TrialRequest(number, analytic.SEEDS[0]))
    while len(started) < 2:
        engine.poll(0.1, started.append)
    print(*engine.pids, flush=True)
    time.sleep(60)
"""


def parent_of_two_busy_workers(tmp_path, **options):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run"), str(Path(analytic.__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANALYTIC_SLEEP": "60"},
        # a shell's background job ignores Ctrl-C, and so would all that it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )
    return process, [int(pid) for pid in process.stdout.readline().split()]


def test_workers_end_when_their_coordinator_is_killed(tmp_path):
    process, pids = parent_of_two_busy_workers(tmp_path)
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.wait()
    assert wait_until_gone(pids)


def test_control_c_in_the_terminal_is_the_coordinators_alone(tmp_path):
    process, pids = parent_of_two_busy_workers(tmp_path, start_new_session=True)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert all(alive(pid) for pid in pids)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert wait_until_gone(pids)
    # one traceback, of the script that does not handle it
    assert errors.count("Traceback") == 1


def test_failure_and_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = failure(TrialRequest(3, {"x": 1}), "gone", seconds=4.0).result
    assert (found["reason"], found["seconds"]) == ("gone", 4.0)
    cores = threads_per_worker(1)
    assert threads_per_worker(cores * 2) == 1
    for said, threads in (("3", 3), ("0", cores), ("many", cores), ("", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert threads_per_worker(1) == threads


class _OwnEngine:
    def __init__(self, run_folder, workers, *, queue="short"):
        pass


class _OwnEngineWithOptions(_OwnEngine):
    def __init__(self, run_folder, workers, **options):
        pass


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (ProcessEngine, True),
        (SerialEngine, False),
        (_OwnEngine, False),
        (_OwnEngineWithOptions, True),
        (functools.partial(ProcessEngine, runner="analytic:Runner"), True),
        (functools.partial(_OwnEngine, queue="long"), False),
    ],
)
def test_which_engines_can_end_a_trial(make, expected):
    assert takes_timeout(make) is expected
