"""The lock files of a machine's devices: where they are, how one is had within a time, and who has it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from ...studies.errors import RunError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

__all__ = ["FOLDER_VARIABLE", "acquired", "described", "holders", "lock_folder", "lock_path", "open_lock"]

FOLDER_VARIABLE = "FORGEFRONT_LOCKS"
POLL_SECONDS = 0.001
STOPPED = ("T", "t")


def lock_folder() -> Path:
    """Where this user's locks are: ``FORGEFRONT_LOCKS``, or a folder that does not depend on a job's ``TMPDIR``."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    places = [Path("/dev/shm"), Path("/tmp")] if sys.platform == "linux" else []
    usable = [place for place in places if os.access(place, os.W_OK | os.X_OK)]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return (usable or [Path(tempfile.gettempdir())])[0] / f"forgefront-{user}"


def lock_path(device: str) -> Path:
    """The lock file of `device` (``"cpu"``, ``"cuda:0"``, …) for this user; a GPU's is named by its UUID."""
    slug = re.sub(r"[^a-z0-9]+", "-", _identity(device).lower()).strip("-")
    return lock_folder() / f"{slug}.lock"


def open_lock(path: Path) -> int:
    """A handle of a lock file, made with its folder where they are missing.

    Raises:
        RunError: It cannot be made or opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunError(
            f"`{FOLDER_VARIABLE}` must name a folder in which this user can write; found {path.parent} "
            f"({error.strerror or error})."
        ) from error


def acquired(handle: int, deadline: float | None) -> bool:
    """Whether a lock could be had alone before `deadline` on the monotonic clock; None waits for ever."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                return False
        time.sleep(POLL_SECONDS)


def holders(handle: int) -> frozenset[int]:
    """Processes that hold a lock, as far as the system tells: Linux does, but not across containers."""
    status = os.fstat(handle)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # "3: FLOCK  ADVISORY  READ 4711 00:1b:3210 0 EOF"; whoever waits has an arrow in second place
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == file and int(words[4]) > 0:
                found.add(int(words[4]))
    return frozenset(found)


def described(processes: frozenset[int]) -> str:
    """Processes by id, with their names where the system tells them, and whether they are stopped."""
    if not processes:
        return "another process"
    return " and ".join(_described(process) for process in sorted(processes))


def _described(process: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        # "4711 (python) T …"; a name may hold spaces and brackets
        name, _, rest = Path(f"/proc/{process}/stat").read_text().partition("(")[2].rpartition(")")
        return f"process {process} ({name}{', stopped' if rest.split()[0] in STOPPED else ''})"
    return f"process {process}"


@functools.cache
def _identity(device: str) -> str:
    """A name for `device` that all processes agree on, whichever GPUs each of them sees."""
    if not device.startswith("cuda"):
        return device
    import torch

    index = device.partition(":")[2] or "0"
    try:
        return f"gpu {torch.cuda.get_device_properties(int(index)).uuid}"
    except (AssertionError, AttributeError, RuntimeError, ValueError):  # no such GPU here, or no UUID known
        return f"cuda:{index}"
