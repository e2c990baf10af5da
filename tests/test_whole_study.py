"""Whole studies through the command line, as a user runs them: to the end, again, longer, killed, by many workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

STUDY = """
[study]
name = "small"
seed = 3

[task]
type = "classification"
data = { name = "digits", train_images = 192, validation = { from = "train", count = 100 } }
model = { name = "digits-cnn" }

[training]
regime = "naturalistic"
steps = 6
batch_size = 32
threads = 1

[space]
granularity = "stage"
sparsity = { high = 0.8, structure = ["weight", "filter"] }
clusters = ["none", 16]
weight_bits = [8, 4]
activation_bits = [8]
augmentation_strength = { low = 0.0, high = 1.0 }

[[objectives]]
name = "accuracy"

[[objectives]]
name = "macs"

[[objectives]]
name = "compression_ratio"

[search]
sampler = "nsga2"
population = 4
seeds = 2
trials = 8
"""
LATENCY = '[[objectives]]\nname = "latency"\n'


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "forgefront", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


def trials(folder: Path) -> list[FrozenTrial]:
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{folder}/runs/small/study.db")
    return study.get_trials(deepcopy=False)


def outcome(folder: Path) -> list[tuple[int, TrialState, dict[str, object], list[float]]]:
    return [(trial.number, trial.state, trial.params, trial.values) for trial in trials(folder)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "small.toml").write_text(STUDY)
    done = run(folder, "run", "small.toml")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_trial_asked_for_is_complete(uninterrupted: Path) -> None:
    found = trials(uninterrupted)
    assert [trial.number for trial in found] == list(range(8))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert [trial.user_attrs["role"] for trial in found] == ["control", "seed", "seed", *["search"] * 5]
    assert len({json.dumps(trial.params, sort_keys=True) for trial in found}) == 8


def test_the_front_is_data_on_stdout(uninterrupted: Path) -> None:
    shown = run(uninterrupted, "front", "runs/small", "--format", "json", "--plot", "front.png")
    assert shown.returncode == 0, shown.stderr
    rows = json.loads(shown.stdout)
    assert rows
    assert all(row["on_front"] for row in rows)
    assert (uninterrupted / "front.png").read_bytes().startswith(b"\x89PNG")


def test_running_again_does_nothing_but_say_so_and_more_trials_add_the_difference(uninterrupted: Path) -> None:
    before = outcome(uninterrupted)
    again = run(uninterrupted, "run", "small.toml")
    assert again.returncode == 0, again.stderr
    assert "8 of 8 trials" in again.stderr
    assert outcome(uninterrupted) == before
    more = run(uninterrupted, "run", "small.toml", "--trials", "10")
    assert more.returncode == 0, more.stderr
    assert outcome(uninterrupted)[:8] == before
    assert len(outcome(uninterrupted)) == 10


def killed_run(folder: Path, moments: random.Random, kills: int) -> None:
    """Start the study, kill its coordinator with SIGKILL while a trial is unfinished, then let it finish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments, hits = ["run", "small.toml"], 0
    attempts = folder / "runs" / "small" / "trials"
    for _ in range(kills):
        process = subprocess.Popen(
            command(*arguments), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        known = set(attempts.glob("*.*"))
        while not set(attempts.glob("*.*")) - known and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 1.5))
        # a fast machine may be done before the last of several kills
        hits += process.poll() is None
        process.kill()
        process.wait()
        arguments = ["resume", "runs/small"]
    assert hits
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr


def test_killed_and_resumed_equals_uninterrupted(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(STUDY)
    killed_run(tmp_path, random.Random(5), kills=3)
    assert outcome(tmp_path) == outcome(uninterrupted)[:8]


def test_with_latency_and_two_workers_nothing_is_lost_doubled_or_left_running(tmp_path: Path) -> None:
    study = STUDY.replace("[search]", f"{LATENCY}\n[search]").replace("trials = 8", "trials = 7\nworkers = 2")
    (tmp_path / "small.toml").write_text(study)
    killed_run(tmp_path, random.Random(9), kills=1)
    found = trials(tmp_path)
    assert [trial.number for trial in found] == list(range(7))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in found}) == 7


def test_ctrl_c_leaves_a_clean_state(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(STUDY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command("run", "small.toml"), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / "small" / "trials" / "0" / "result.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "resume" in errors
    assert trials(tmp_path)[0].state == TrialState.COMPLETE
