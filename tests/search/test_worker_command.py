"""`forgefront worker` as people and the examples start it, on a real study."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from forgefront.search.run import load_run

ROOT = Path(__file__).parents[2]
SMALL = """
[study]
name = "small"

[task]
data = { name = "digits", train_images = 128, validation = { from = "train", count = 100 } }
model = { name = "digits-cnn" }

[training]
regime = "standard"
steps = 8
batch_size = 32
threads = 1

[space]
granularity = "network"
sparsity = { high = 0.8, structure = ["filter"] }
weight_bits = [8, 4]
activation_bits = [8]

[[objectives]]
name = "accuracy"

[[objectives]]
name = "latency"

[search]
seeds = 2
trials = 4
"""


def forgefront(*arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "forgefront", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_workers_of_the_slurm_example_share_a_study(postgresql, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    # what a cluster would provide: `srun` runs the command, `forgefront` is installed
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": 'exec "$@"', "forgefront": f'exec "{sys.executable}" -m forgefront "$@"'}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "STORAGE": postgresql.database(),
        "SLURM_CPUS_PER_TASK": "1",
    }
    script = ROOT / "examples" / "slurm" / "workers.sbatch"
    workers = [
        subprocess.Popen(
            ["bash", str(script), "small.toml"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    run = load_run(tmp_path / "runs" / "small")
    trials = run.optuna_trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert all("small" in text for text in errors)
    # the folder alone says where the study is, and a larger budget goes on
    more = forgefront("worker", "runs/small", "--trials", "5", cwd=tmp_path)
    _, text = more.communicate(timeout=60)
    assert more.returncode == 0, text
    assert len(load_run(tmp_path / "runs" / "small").optuna_trials()) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker", "digits"], "`--storage` must be the URL of a PostgreSQL server"),
        (["worker", "digits", "--storage", "sqlite:///study.db"], "`--storage` must be the URL of a PostgreSQL"),
        (["worker", "nowhere.toml", "--storage", "postgresql://127.0.0.1:1/x"], "nowhere.toml"),
    ],
)
def test_wrong_input_gives_one_line_and_code_2(arguments, words, tmp_path):
    process = forgefront(*arguments, cwd=tmp_path)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 2
    assert words in text
    assert text.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["workers.sbatch", "postgresql.sbatch"])
def test_the_slurm_scripts_are_bash(name):
    script = ROOT / "examples" / "slurm" / name
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().startswith("#!/bin/bash\n")
    assert script.stat().st_mode & stat.S_IRUSR
