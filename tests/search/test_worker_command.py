"""`forgefront worker` as people and the examples start it, on a real study."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

from forgefront.search.cli import main
from forgefront.search.run import load_run
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import with_driver
from forgefront.search.workers.claims import OWNER

ROOT = Path(__file__).parents[2]
SMALL = """
[study]
name = "small"

[task]
data = { name = "digits", train_images = 64, validation = { from = "train", count = 50 } }
model = { name = "digits-cnn" }

[training]
regime = "standard"
steps = 1
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
name = "macs"

[search]
seeds = 1
trials = 2
"""

# the command line itself, on a problem without training
ANALYTIC = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import server_study
from forgefront.search.cli import main
from forgefront.search.workers import launch

def work(source, *, storage, timeout, **given):
    seen = {{name: os.environ[name] for name in ("FORGEFRONT_LOCKS", "OMP_NUM_THREADS")}}
    Path(f"seen-{{os.getpid()}}").write_text(json.dumps([source, storage, timeout, seen]))
    return server_study.worker(Path("runs/small"), storage, trials=8, timeout=timeout).run()

launch.work = work
main()
"""


def forgefront(monkeypatch, folder, *arguments):
    """Exit code of the command line, started in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["forgefront", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


def test_two_workers_of_the_slurm_example_share_a_study(postgresql, tmp_path):
    # what a cluster would provide: `srun` runs the command, `forgefront` is installed
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": '#!/bin/bash\nexec "$@"\n', "forgefront": ANALYTIC}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    url = postgresql.database()
    RunFolder.create(tmp_path / "runs" / "small", "")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "FORGEFRONT_LOCKS"},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "STORAGE": url,
        "SLURM_CPUS_PER_TASK": "1",
        "ANALYTIC_SLEEP": "0.3",
        # of the job alone, as many clusters give it
        "TMPDIR": str(tmp_path),
    }
    script = ROOT / "examples" / "slurm" / "workers.sbatch"
    workers = [
        subprocess.Popen(
            ["bash", str(script), "small.toml"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [worker.communicate(timeout=60)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    trials = optuna.load_study(study_name="analytic", storage=with_driver(url)).trials
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({trial.user_attrs[OWNER]["pid"] for trial in trials}) == 2
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("seen-*")]
    locks = f"/var/tmp/forgefront-{os.getuid()}"
    assert seen == [["small.toml", url, 42600.0, {"FORGEFRONT_LOCKS": locks, "OMP_NUM_THREADS": "1"}]] * 2


def test_a_real_study_on_a_server_and_more_of_it(postgresql, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.toml").write_text(SMALL)
    url = postgresql.database()
    code = forgefront(monkeypatch, tmp_path, "worker", "small.toml", "--storage", url, "--timeout", "600")
    text = capsys.readouterr().err
    assert code == 0, text
    assert "small" in text
    trials = load_run(tmp_path / "runs" / "small").optuna_trials()
    assert [(trial.number, trial.state.name) for trial in trials] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert not (tmp_path / "runs" / "small" / "study.db").exists()
    # the folder alone says where the study is, and a larger budget goes on
    assert forgefront(monkeypatch, tmp_path, "worker", "runs/small", "--trials", "3") == 0
    assert len(load_run(tmp_path / "runs" / "small").optuna_trials()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker", "digits"], "`--storage` must be the URL of a PostgreSQL server"),
        (["worker", "digits", "--storage", "sqlite:///study.db"], "`--storage` must be the URL of a PostgreSQL"),
        (["worker", "nowhere.toml", "--storage", "postgresql://127.0.0.1:1/x"], "nowhere.toml"),
    ],
)
def test_wrong_input_gives_one_line_and_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    assert forgefront(monkeypatch, tmp_path, *arguments) == 2
    text = capsys.readouterr().err
    assert words in text
    assert text.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["workers.sbatch", "postgresql.sbatch"])
def test_the_slurm_scripts_are_bash(name):
    script = ROOT / "examples" / "slurm" / name
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().startswith("#!/bin/bash\n")
    assert script.stat().st_mode & stat.S_IRUSR


def test_pods_of_the_kubernetes_example_find_each_others_locks():
    text = (ROOT / "examples" / "kubernetes" / "workers.yaml").read_text()
    job = next(part for part in yaml.safe_load_all(text) if part["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    worker = pod["containers"][0]
    locks = next(entry["value"] for entry in worker["env"] if entry["name"] == "FORGEFRONT_LOCKS")
    volume = next(mount["name"] for mount in worker["volumeMounts"] if mount["mountPath"] == locks)
    assert "hostPath" in next(one for one in pod["volumes"] if one["name"] == volume)
