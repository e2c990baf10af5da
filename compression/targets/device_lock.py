"""One measurement at a time on a device: a lock between all processes of a user on this machine."""

from __future__ import annotations

import contextlib
import getpass
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ...studies.errors import DeviceError

__all__ = ["device_lock", "lock_path"]


def lock_path(device: str) -> Path:
    """The lock file of `device` (``"cpu"``, ``"cuda:0"``, …) for this user."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    owner = re.sub(r"[^A-Za-z0-9]+", "-", getpass.getuser())
    return Path(tempfile.gettempdir()) / f"forgefront-{owner}" / f"{slug}.lock"


@contextlib.contextmanager
def device_lock(device: str, *, timeout: float = 900.0) -> Iterator[None]:
    """Hold `device` for a measurement; the system frees it when the process ends, however it ends.

    Args:
        device: Name of the device; each name has its own lock.
        timeout: Seconds to wait for another process, negative to wait for ever.

    Raises:
        DeviceError: Another process kept the device for longer than `timeout`.
    """
    path = lock_path(device)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        message = f"`device` {device} must be free to be measured; another process has held it for {timeout:g} s."
        raise DeviceError(message) from None
    try:
        yield
    finally:
        lock.release()
