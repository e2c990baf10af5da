"""A disk that is full while a study runs: a file system of 2 MB, where this system lets us make one."""

import subprocess
import sys

import analytic
import optuna
import pytest
from optuna.trial import TrialState

from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import sqlite_url
from forgefront.studies.errors import RunError


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left):
    """Fill a disk, in a file called `ballast`, up to `left` bytes."""
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        size = 0
        try:
            while True:
                size += ballast.write(b"0" * 4096)
        except OSError:
            ballast.truncate(size - left)


@pytest.mark.parametrize("left", [0, 20_000, 60_000])
def test_a_study_stops_in_one_line_and_goes_on_as_if_nothing_had_been(small_disk, tmp_path, left):
    run, whole = small_disk / "run", tmp_path / "whole"
    analytic.coordinator(whole, trials=20).run()
    analytic.coordinator(run, trials=6).run()
    fill(small_disk, left)
    with pytest.raises(RunError) as raised:
        analytic.coordinator(run, trials=20).run()
    assert "\n" not in str(raised.value)
    assert any(words in str(raised.value) for words in ("be writable", "can be written", "read and written"))
    (small_disk / "ballast").unlink()
    finished = analytic.coordinator(run, trials=20).run()
    assert finished.trials == 20
    assert finished.failed == 0

    def content(path):
        study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(path).database))
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
        return [(trial.params, trial.values, trial.user_attrs["scores"]) for trial in study.trials]

    assert content(run) == content(whole)
