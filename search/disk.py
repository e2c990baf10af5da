"""Tells a disk that is full or fails from a trial that does: no trial after it would fare better."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DISK_ERRORS", "disk_fails", "unwritable_path"]

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""No room, over a quota, mounted read-only, a failing disk."""

PROBE_BYTES = 16 * 2**20

# what safetensors makes of these, and ONNX
SIGNS = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Input/output error",
    "os error 28",
)
# torch's archive writer, whose own complaint may come after the system's and hide it
WRITER_SIGNS = ("file write failed", "PytorchStreamWriter failed", "unexpected pos")


def disk_fails(error: BaseException) -> bool:
    """Whether `error`, or what caused it, says that some disk could not be written, or not be read."""
    return any(_says_so(one) for one in _causes(error))


def unwritable_path(error: BaseException, folder: Path, *, room: int = 0) -> Path | None:
    """What could not be written in `folder` according to `error`; None where another disk is to blame, or none.

    Call it before anything is removed that the failed attempt wrote.

    Args:
        error: Why something failed.
        folder: Must be writable.
        room: Bytes that there must be room for, at least 16 MiB; an error that names no file is blamed on `folder`
            where there is less.
    """
    if not disk_fails(error):
        return None
    for one in _causes(error):
        if isinstance(one, OSError) and one.errno in DISK_ERRORS and isinstance(one.filename, str | os.PathLike):
            path = Path(one.filename).absolute()
            if path.is_relative_to(folder.absolute()):
                return path
    return None if _can_be_written(folder, max(room, PROBE_BYTES)) else folder


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # what was merely being handled when something else failed is no cause of it
        hidden = cause.__context__ if any(sign in str(cause) for sign in WRITER_SIGNS) else None
        cause = cause.__cause__ or hidden


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return not isinstance(error, MemoryError) and any(sign in str(error) for sign in (*SIGNS, *WRITER_SIGNS))


def _can_be_written(folder: Path, size: int) -> bool:
    # also where an error had no room for its own message
    with contextlib.suppress(OSError), tempfile.TemporaryFile(prefix=".room-", dir=folder) as probe:
        block = bytes(2**16)
        for _ in range(-(-size // len(block))):
            probe.write(block)
        probe.flush()
        os.fsync(probe.fileno())
        return True
    return False
