"""A trial on a machine where others measure: it works under the device's lock, and one that cannot measure is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from forgefront.compression.targets import exclusive
from forgefront.search.engines.base import TrialRequest
from forgefront.search.run_folder import RunFolder
from forgefront.search.trial_run import Trials
from forgefront.studies.errors import DeviceBusyError
from forgefront.studies.load import load_study

STUDY = """
[study]
name = "shared"

[task]
data = { name = "digits", train_images = 400, validation = { from = "train", count = 200 } }
model = { name = "digits-cnn" }

[training]
regime = "naturalistic"
steps = 24
batch_size = 32
threads = 1
weight_averaging = 0.9

[space]
granularity = "network"
sparsity = { high = 0.8, structure = ["filter"] }
clusters = ["none", 16]
weight_bits = [8, 4]
activation_bits = [8]
augmentation_strength = { low = 0.0, high = 1.0 }

# timed so shortly that this is not what the trial's time goes into
[[target]]
name = "onnxruntime-cpu"
maximum_seconds = 0.1

[[objectives]]
name = "accuracy"

[[objectives]]
name = "latency"

[search]
seeds = 2
trials = 4
early_stopping = { rungs = [0.9], warm_up = 2 }
"""

HOLD = """
import sys
from forgefront.compression.targets import exclusive
with exclusive.shared("cpu"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """Lock files of the test's own, in other processes too."""
    monkeypatch.setenv("FORGEFRONT_LOCKS", str(tmp_path / "locks"))
    exclusive._forget()
    yield
    exclusive._forget()


@pytest.fixture
def context(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    folder = RunFolder.create(tmp_path / "run", STUDY)
    return Trials(folder.path, 1, load_study(tmp_path / "study.toml"))


class Account:
    """Seconds of processor time with and without a hold of the CPU's lock, from the first hold on."""

    def __init__(self) -> None:
        self.held, self.spent = False, {False: 0.0, True: 0.0}
        self.last: float | None = None
        self.longest = 0.0

    def turn(self, held: bool) -> None:
        now = time.process_time()
        if self.last is not None:
            self.spent[self.held] += now - self.last
            if self.held:
                self.longest = max(self.longest, now - self.last)
        self.held, self.last = held, now


@pytest.fixture
def account(monkeypatch):
    """Keeps the books of every hold that is really taken and given."""
    books = Account()
    share, give, take = exclusive._Hold.share, exclusive._Hold.give, exclusive._Hold.take

    def shared(self):
        share(self)
        books.turn(True)

    def given(self):
        give(self)
        books.turn(False)

    def taken(self, deadline):
        found = take(self, deadline)
        books.turn(found)
        return found

    monkeypatch.setattr(exclusive._Hold, "share", shared)
    monkeypatch.setattr(exclusive._Hold, "give", given)
    monkeypatch.setattr(exclusive._Hold, "take", taken)
    # every chance to make way is taken, as if someone always waited
    monkeypatch.setattr(exclusive._Hold, "wanted", True)
    return books


def test_a_trial_works_under_the_lock_and_makes_way_at_every_batch(context, account):
    assert context(TrialRequest(0, {}, "control"), lambda progress: None).result["state"] == "complete"
    problem = context.problem()
    account.last, account.longest = None, 0.0
    result = context(TrialRequest(1, problem.seeds[-1], "search"), lambda progress: None).result
    account.turn(False)
    assert result["state"] == "complete", result["reason"]
    assert result["rungs"]
    held, free = account.spent[True], account.spent[False]
    assert held / (held + free) >= 0.9, account.spent
    # no stretch keeps whoever wants to measure waiting for long
    assert account.longest < 0.3 * held


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs processes that can be stopped")
def test_a_trial_that_could_not_measure_is_not_a_failed_one(context, monkeypatch):
    monkeypatch.setattr(exclusive, "PATIENCE_SECONDS", 0.3)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    request = TrialRequest(0, {}, "control")
    try:
        assert holder.stdout.readline().strip() == "held"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(DeviceBusyError) as error:
            context(request, lambda progress: None)
        if sys.platform == "linux":
            assert f"process {holder.pid} (" in str(error.value)
    finally:
        holder.kill()
        holder.communicate()
    assert context.folder.result(0) is None
    assert not [entry for entry in context.folder.trials.iterdir() if "." in entry.name]
    assert context(request, lambda progress: None).result["state"] == "complete"
