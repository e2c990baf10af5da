"""Whose disk an error speaks of, and what is on disk before a result says that a trial has ended."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from forgefront.search import disk
from forgefront.search.disk import disk_fails, unwritable_path
from forgefront.search.run_folder import RunFolder


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def beside(error: BaseException, other: BaseException) -> BaseException:
    """`error`, raised while `other` was being handled."""
    error.__context__ = other
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, True),
        (OSError(errno.EROFS, "Read-only file system", "/data"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 128 vs 0"), True),
        (caused(ValueError("cannot save"), FULL), True),
        (beside(ValueError("bad value"), FULL), False),
        (beside(RuntimeError("unexpected pos 64 vs 0"), FULL), True),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), False),
        (MemoryError("No space left on device"), False),
        (OSError(errno.ENOMEM, "file write failed"), False),
    ],
)
def test_what_speaks_of_a_disk(error, expected):
    assert disk_fails(error) is expected


@pytest.mark.parametrize("name", [None, "elsewhere"])
def test_a_disk_that_is_not_the_runs_is_not_blamed_on_it(tmp_path, name):
    filename = None if name is None else str(tmp_path.parent / name)
    error = OSError(errno.ENOSPC, "No space left on device", filename)
    assert unwritable_path(error, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_run_is_named(tmp_path):
    error = OSError(errno.EIO, "Input/output error", str(tmp_path / "trials" / "5"))
    assert unwritable_path(caused(ValueError("no"), error), tmp_path) == tmp_path / "trials" / "5"
    assert unwritable_path(ValueError("no"), tmp_path) is None


def test_a_run_without_room_is_found_out(small_disk):
    assert unwritable_path(FULL, small_disk) == small_disk
    assert unwritable_path(OSError(errno.ENOSPC, "full", "/elsewhere"), small_disk) == small_disk
    assert list(small_disk.iterdir()) == []


def test_room_for_what_a_trial_writes_is_asked_for(small_disk, monkeypatch):
    monkeypatch.setattr(disk, "PROBE_BYTES", 2**16)
    assert unwritable_path(FULL, small_disk) is None
    assert unwritable_path(FULL, small_disk, room=2**21) == small_disk


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel which file a handle is of")
def test_every_file_is_on_disk_before_the_result_is(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    attempt = folder.attempt(3)
    (attempt / "deeper").mkdir()
    files = [attempt / "model.onnx", attempt / "deeper" / "part.bin", attempt / "error.txt"]
    for file in files:
        file.write_bytes(b"x")
    synced, fsync = [], os.fsync

    def watched(handle):
        synced.append((Path(os.readlink(f"/proc/self/fd/{handle}")), (attempt / "result.json").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    folder.publish(attempt, 3, {"number": 3})
    for path in (*files, attempt, attempt / "deeper"):
        assert (path, False) in synced
    assert (folder.trial(3) / "deeper" / "part.bin").read_bytes() == b"x"
    assert folder.result(3) == {"number": 3}
