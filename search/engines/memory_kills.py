"""How many processes the kernel has killed for want of memory, so that such a death can be told from any other.

A process that is killed says nothing of why. The kernel counts: for the control group in its ``memory.events`` (cgroup
version 2) or ``memory.oom_control`` (version 1), for the machine in ``/proc/vmstat``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["COUNTERS", "memory_kills"]

COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
    Path("/proc/vmstat"),
)
KEY = "oom_kill"


def memory_kills() -> int:
    """The highest of the counts that can be read here, 0 where there is none; it only ever rises."""
    found = 0
    for path in COUNTERS:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        found = max([found, *(int(value) for key, _, value in (line.partition(" ") for line in lines) if key == KEY)])
    return found
