import json
import os
import subprocess
import sys

import pytest

from forgefront.search.holder import Holder
from forgefront.search.lock import coordinator_lock, current_holder
from forgefront.studies.errors import LockHeldError, RunError

HOLD = """
import sys, time
from pathlib import Path
from forgefront.search.lock import coordinator_lock
with coordinator_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def held_by_another_process(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_told_who_holds_it(tmp_path):
    path = tmp_path / "lock"
    process = held_by_another_process(path)
    try:
        with pytest.raises(LockHeldError) as caught, coordinator_lock(path):
            pass
        assert f"process {process.pid} on {Holder.myself().host} since 20" in str(caught.value)
        assert current_holder(path).pid == process.pid
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    process = held_by_another_process(path)
    process.kill()
    process.wait()
    assert current_holder(path) is None
    with coordinator_lock(path) as held:
        assert held.holder.pid == os.getpid()
        assert current_holder(path) == held.holder
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert current_holder(path) is None
    assert not (tmp_path / "lock.json").exists()


def test_two_in_one_process_exclude_each_other(tmp_path):
    with coordinator_lock(tmp_path / "lock"):
        with pytest.raises(LockHeldError, match=str(os.getpid())), coordinator_lock(tmp_path / "lock"):
            pass
        assert current_holder(tmp_path / "lock").pid == os.getpid()
    with coordinator_lock(tmp_path / "lock"):
        pass


def test_looking_does_not_take_it(tmp_path):
    assert current_holder(tmp_path / "lock") is None
    assert not (tmp_path / "lock").exists()


def test_a_lock_without_a_holder_file_is_still_held(tmp_path):
    path = tmp_path / "lock"
    process = held_by_another_process(path)
    try:
        (tmp_path / "lock.json").write_text("{ half")
        with pytest.raises(LockHeldError, match="another process"), coordinator_lock(path):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_cannot_be_written_gives_one_line(tmp_path):
    (tmp_path / "nowhere").touch()
    with pytest.raises(RunError, match="can be written"), coordinator_lock(tmp_path / "nowhere" / "lock"):
        pass


@pytest.mark.parametrize("url", ["postgresql+psycopg://127.0.0.1:1/study", "oracle://127.0.0.1:1/study"])
def test_a_server_that_cannot_be_locked_gives_one_line(tmp_path, url):
    with pytest.raises(RunError, match=r"storage\.url") as caught, coordinator_lock(tmp_path / "lock", url, name="s"):
        pass
    assert "\n" not in str(caught.value)
    # and the file lock is free again
    assert current_holder(tmp_path / "lock") is None
