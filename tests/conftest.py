"""One real finished study that many tests read, made once a session."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# several processes run tests, and each core has one: read when torch is first imported, here and in what tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a digits run with its control, two seeds and one trial of the sampler's; read it, do not change it."""
    from forgefront.search.launch import launch

    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.toml").write_text(STUDY)
    home = Path.cwd()
    os.chdir(folder)
    try:
        launch("small.toml")
    finally:
        os.chdir(home)
    return folder / "runs" / "small"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 1 MiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


STUDY = """
constraints = ["accuracy >= 0.05"]

[study]
name = "small"

[task]
data = { name = "digits", train_images = 256, validation = { from = "train", count = 100 } }
model = { name = "digits-cnn" }

[training]
regime = "naturalistic"
steps = 24
batch_size = 32
threads = 1

[space]
granularity = "stage"
sparsity = { high = 0.8, structure = ["filter"] }
clusters = ["none", 16]
weight_bits = [8, 4]
activation_bits = [8]
augmentation_strength = { low = 0.0, high = 1.0 }

[[objectives]]
name = "accuracy"

[[objectives]]
name = "mce"
severities = [3]
images = 32
corruptions = ["gaussian_noise", "contrast"]

[[objectives]]
name = "compression_ratio"

[[objectives]]
name = "latency"

[[metrics]]
name = "macs"

[search]
seeds = 2
trials = 4
"""
