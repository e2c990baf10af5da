"""How many processes the kernel has killed for want of memory, so that such a death can be told from any other.

A process that is killed says nothing of why. The kernel counts: for a control group in its ``memory.events`` (cgroup
version 2) or ``memory.oom_control`` (version 1), for the whole machine, other people's processes too, in
``/proc/vmstat``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MACHINE", "counters", "memory_kills"]

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
MACHINE = Path("/proc/vmstat")
KEY = "oom_kill"


def counters(groups: str, mount: Path = MOUNT) -> list[Path]:
    """Where this process's own control group may count, the likeliest file first.

    Args:
        groups: Content of ``/proc/self/cgroup``: a line ``hierarchy:controllers:path`` each.
        mount: Where control groups are mounted.
    """
    found: list[Path] = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        # in a container the path may be the host's, and the mount the container's own
        if not controllers:
            found += [mount / below / "memory.events", mount / "memory.events"]
        elif "memory" in controllers.split(","):
            version1 = mount / "memory"
            found += [version1 / below / "memory.oom_control", version1 / "memory.oom_control"]
    return found


def memory_kills() -> int:
    """The count of this process's control group, the machine's where the group has none, else 0; it only ever rises."""
    return next((count for path in _places() if (count := _count(path)) is not None), 0)


def _places() -> Iterator[Path]:
    # not every system has such a file
    with contextlib.suppress(OSError, ValueError):
        yield from counters(GROUPS.read_text(encoding="utf-8"))
    yield MACHINE


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == KEY), None)
