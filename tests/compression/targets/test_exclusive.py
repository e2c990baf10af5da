"""Who uses a device: shared by those who work, alone by who measures, and free again when its holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager

import pytest

from forgefront.compression.targets import exclusive
from forgefront.studies.errors import DeviceError

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


@pytest.fixture
def device():
    name = f"test device/{uuid.uuid4().hex[:12]}"
    yield name
    for suffix in (".lock", ".turnstile"):
        exclusive.lock_path(name).with_suffix(suffix).unlink(missing_ok=True)


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
        with pytest.raises(DeviceError, match="test device/") as error, exclusive.alone(device, timeout=0.1):
            pass
        assert "\n" not in str(error.value)
        with exclusive.alone("another " + device, timeout=5):
            pass
    exclusive.lock_path("another " + device).unlink()
    with exclusive.alone(device, timeout=5):
        assert exclusive.lock_path(device).exists()


def test_two_share_and_one_that_gave_up_waiting_blocks_nobody(device):
    with process(HOLD, "shared", device) as holder:
        assert holder.first == "held"
        with exclusive.shared(device):
            pass
        with pytest.raises(DeviceError), exclusive.alone(device, timeout=0.05):
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
            except DeviceError:
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
