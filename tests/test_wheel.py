"""A wheel, installed where the sources are not, holds every room and the shipped studies, and runs from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a virtual environment with the wheel; dependencies are lent by path, the editable install is not."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in tracked.stdout.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("forgefront-*.whl")
    venv.create(folder / "venv", with_pip=False)
    target = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, cwd=folder)
    (target / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin"


def run(environment: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(environment / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, timeout=240)


def test_the_package_comes_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = "import forgefront; print(forgefront.__file__)"
    shown = run(environment, tmp_path, "python", "-c", code).stdout.strip()
    assert shown.startswith(str(environment.parent))


def test_shipped_studies_are_inside(environment: Path, tmp_path: Path) -> None:
    listed = run(environment, tmp_path, "forgefront", "studies")
    assert listed.returncode == 0, listed.stderr
    for name in ("digits", "digits-adversarial", "cifar10-resnet20-naturalistic", "cifar10-resnet20-adversarial"):
        assert name in listed.stdout


def test_a_study_runs_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1", "task.data.train_images=128", "search.seeds=1", "training.threads=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    done = run(environment, tmp_path, "forgefront", "run", "digits", "--trials", "2", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "digits" / "study.db").is_file()
    front = run(environment, tmp_path, "forgefront", "front", "runs/digits", "--format", "csv")
    assert front.stdout.startswith("number,role,")


def test_help_needs_no_torch(environment: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom forgefront.search.cli import main\nsys.argv = ['forgefront', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, 'optuna' in sys.modules, file=sys.stderr)"
    )
    shown = run(environment, tmp_path, "python", "-c", code)
    assert "resume" in shown.stdout
    assert shown.stderr.strip() == "False False"
