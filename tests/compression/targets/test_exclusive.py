"""Who uses a device: shared by those who work, alone by who measures, and free again when its holder dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from forgefront.compression.targets import exclusive
from forgefront.compression.targets.lock_files import lock_folder
from forgefront.studies.errors import DeviceBusyError, RunError

HOLD = """
import sys
from forgefront.compression.targets import exclusive
with getattr(exclusive, sys.argv[1])(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""

# steps of a millisecond without an end, each under a hold of its own; prints when each began and ended
WORK = """
import sys, time
from forgefront.compression.targets import exclusive
print("working", flush=True)
while True:
    with exclusive.shared(sys.argv[1]):
        start = time.monotonic()
        time.sleep(0.001)
        print(start, time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """Lock files of the test's own, in other processes too."""
    usual = lock_folder()
    before = set(usual.glob("*")) if usual.is_dir() else set()
    monkeypatch.setenv("FORGEFRONT_LOCKS", str(tmp_path / "locks"))
    exclusive._forget()
    yield tmp_path / "locks"
    exclusive._forget()
    left = set(usual.glob("*")) - before if usual.is_dir() else set()
    assert not [path for path in left if "test-device" in path.name]


@pytest.fixture
def device():
    return f"test device/{uuid.uuid4().hex[:12]}"


@contextmanager
def process(script, *arguments):
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        child.first = child.stdout.readline().strip()
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("theirs", ["alone", "shared"])
def test_a_measurement_waits_for_another_process_and_a_killed_one_frees_the_device(theirs, device):
    with process(HOLD, theirs, device) as holder:
        assert holder.first == "held"
        with pytest.raises(DeviceBusyError, match="test device/") as error, exclusive.alone(device, timeout=0.1):
            pass
        assert isinstance(error.value, RunError)
        if sys.platform == "linux":
            assert f"process {holder.pid} (" in str(error.value)
            assert str(os.getpid()) not in str(error.value)
        assert "\n" not in str(error.value)
        with exclusive.alone("another " + device, timeout=5):
            pass
    with exclusive.alone(device, timeout=5):
        assert exclusive.lock_path(device).exists()


def test_two_share_and_one_that_gave_up_waiting_blocks_nobody(device):
    with process(HOLD, "shared", device) as holder:
        assert holder.first == "held"
        with exclusive.shared(device):
            pass
        with pytest.raises(DeviceBusyError), exclusive.alone(device, timeout=0.05):
            pass
        with exclusive.shared(device):
            pass


def test_steps_that_always_overlap_pause_while_one_measures(device):
    with process(WORK, device) as one, process(WORK, device) as two:
        assert one.first == two.first == "working"
        spans = []
        for _ in range(5):
            time.sleep(0.02)
            with exclusive.alone(device, timeout=10):
                start = time.monotonic()
                time.sleep(0.05)
                spans.append((start, time.monotonic()))
        time.sleep(0.02)
        for child in (one, two):
            child.kill()
        steps = [
            tuple(map(float, line.split())) for child in (one, two) for line in child.stdout if line.count(" ") == 1
        ]
    assert len(steps) > 20
    assert not [(step, span) for step in steps for span in spans if step[1] > span[0] and step[0] < span[1]]


def test_a_stopped_process_holds_up_its_measurer_and_nobody_else(device, monkeypatch):
    monkeypatch.setattr(exclusive, "CLOSED_SECONDS", 0.3)
    steps, done = [], threading.Event()

    def work():
        while not done.is_set():
            with exclusive.shared(device):
                start = time.monotonic()
                time.sleep(0.001)
            steps.append(start)

    with process(HOLD, "shared", device) as holder:
        assert holder.first == "held"
        holder.send_signal(signal.SIGSTOP)
        worker = threading.Thread(target=work)
        worker.start()
        begun = time.monotonic()
        try:
            with pytest.raises(DeviceBusyError) as error, exclusive.alone(device, timeout=2.0):
                pass
            ended = time.monotonic()
        finally:
            done.set()
            worker.join()
        assert 2.0 <= ended - begun < 4.0
        # the first steps may be from before the turnstile was closed
        during = [step for step in steps if begun + 0.2 < step < ended - 0.05]
        assert during
        # closed for 0.3 s, then 0.6 s: steps come in bursts between these
        pauses = [later - step for step, later in pairwise(steps) if later < ended]
        assert max(pauses) > 0.25
        if sys.platform == "linux":
            assert f"found that process {holder.pid} (" in str(error.value)
            assert ", stopped) has held it" in str(error.value)
            assert f"process {os.getpid()} " not in str(error.value)
        holder.send_signal(signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        with exclusive.alone(device, timeout=5):
            pass


def test_of_two_that_wait_to_measure_only_one_closes_the_way(device, monkeypatch):
    monkeypatch.setattr(exclusive, "CLOSED_SECONDS", 0.3)
    refused = []

    def measure():
        try:
            with exclusive.alone(device, timeout=1.5):
                pass
        except DeviceBusyError as error:
            refused.append(error)

    with process(HOLD, "shared", device), process(WORK, device) as working:
        waiting = [threading.Thread(target=measure) for _ in range(2)]
        time.sleep(0.1)
        begun = time.monotonic()
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        ended = time.monotonic()
        working.kill()
        starts = [float(line.split()[0]) for line in working.stdout if line.count(" ") == 1]
    assert len(refused) == 2
    # open from 0.30 to 0.36 and from 0.96 to 1.08 s: more than the one step at each change of hands
    assert len([start for start in starts if begun + 0.1 < start < ended - 0.1]) > 10


def test_locks_are_found_whatever_a_jobs_temporary_folder(device, locks, monkeypatch, tmp_path):
    monkeypatch.delenv("FORGEFRONT_LOCKS")
    usual = exclusive.lock_path(device)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "of a job"))
    monkeypatch.setattr("tempfile.tempdir", None)
    if sys.platform == "linux":
        assert exclusive.lock_path(device) == usual
        assert usual.parent in [Path(f"/dev/shm/forgefront-{os.getuid()}"), Path(f"/tmp/forgefront-{os.getuid()}")]
    monkeypatch.setenv("FORGEFRONT_LOCKS", str(locks))
    assert exclusive.lock_path(device).parent == locks


def test_a_folder_that_cannot_be_used_is_told_in_one_line(device, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORGEFRONT_LOCKS", str(tmp_path / "file"))
    with pytest.raises(RunError, match="`FORGEFRONT_LOCKS` must name a folder") as error, exclusive.shared(device):
        pass
    assert "\n" not in str(error.value)


def test_files_that_were_cleaned_up_are_made_again(device, locks):
    with exclusive.shared(device):
        pass
    for path in locks.iterdir():
        path.unlink()
    locks.rmdir()
    with process(HOLD, "shared", device):
        with pytest.raises(DeviceBusyError), exclusive.alone(device, timeout=0.05):
            pass
        with exclusive.shared(device):
            pass


def test_one_thread_may_nest_everything_and_others_still_wait(device):
    entered = []

    def share():
        with exclusive.shared(device):
            entered.append(time.monotonic())

    with exclusive.shared(device), exclusive.shared(device):
        # what this thread shares is lent out, or it would wait for itself
        with exclusive.alone(device, timeout=1), exclusive.alone(device, timeout=1), exclusive.shared(device):
            other = threading.Thread(target=share)
            other.start()
            time.sleep(0.05)
            assert not entered
        other.join(5)
        assert entered
        # and taken back afterwards
        with process(HOLD, "shared", device) as holder:
            assert holder.first == "held"
    with exclusive.alone(device, timeout=1):
        pass


def test_making_way_lets_a_waiting_measurement_in_between_two_batches(device):
    measured = threading.Event()

    def measure():
        with exclusive.alone(device, timeout=5):
            measured.set()

    with exclusive.shared(device):
        exclusive.make_way(device)
        waiting = threading.Thread(target=measure)
        waiting.start()
        time.sleep(0.05)
        assert not measured.is_set()
        exclusive.make_way(device)
        assert measured.is_set()
    waiting.join(5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_neither_frees_nor_inherits_what_its_parent_holds(device):
    with exclusive.alone(device):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with exclusive.alone(device, timeout=0.05):
                    pass
            except DeviceBusyError:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(subprocess.TimeoutExpired):
            # still held after the child has gone
            subprocess.run([sys.executable, "-c", HOLD, "alone", device], input="\n", text=True, timeout=2)
    with exclusive.alone(device, timeout=1):
        pass


def test_sharing_costs_microseconds(device):
    count = 2000
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            with exclusive.shared(device):
                pass
        best = min(best, (time.perf_counter() - start) / count)
    assert best < 100e-6
