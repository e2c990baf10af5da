"""Tells a disk that is full or fails from a trial that does: no trial after it would fare better."""

from __future__ import annotations

import errno

__all__ = ["DISK_ERRORS", "disk_fails"]

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""No room, over a quota, mounted read-only, a failing disk."""

# what libraries make of these that write files themselves: safetensors, torch, ONNX
SIGNS = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Input/output error",
    "os error 28",
    "file write failed",
    "PytorchStreamWriter failed",
)


def disk_fails(error: BaseException) -> bool:
    """Whether `error`, or what caused it, says that a disk could not be written."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return True
        if not isinstance(cause, MemoryError) and any(sign in str(cause) for sign in SIGNS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
