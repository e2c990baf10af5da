"""Who uses a device: work takes it shared, step by step; a measurement of time takes it alone, and work then pauses.

A readers-writer lock between all processes of a user on a machine, made of advisory file locks. Whoever wants the
device alone closes a turnstile first, which everyone who shares it passes on the way in (Courtois, Heymans and Parnas
1971, second problem), so that a measurement is not kept waiting by steps that always overlap; it opens it now and then,
so that nobody else waits for a process that was stopped. The operating system frees what a process holds when it ends,
however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from ...studies.errors import DeviceBusyError
from .lock_files import acquired, described, holders, lock_path, open_lock

try:
    import fcntl
except ImportError:  # no such locks on this system: devices are then used without asking
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone", "lock_path", "make_way", "shared"]

PATIENCE_SECONDS = 900.0
# how long the turnstile is closed the first time, twice as long each next time (a step may take longer), and the most
CLOSED_SECONDS, LONGEST_CLOSED = 5.0, 80.0
# open for this part of the time that it was closed
OPEN_SHARE = 0.2
# what a file system answers that has no such locks
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
NOTHING: AbstractContextManager[None] = nullcontext()


def shared(device: object) -> AbstractContextManager[None]:
    """Use `device` together with others; waits only while someone has it alone. Costs microseconds.

    Hold it for one step at a time, since whoever measures waits for all that hold it. A GPU's steps share the processor
    too, which they keep busy. May be nested, in another and within `alone`.

    Args:
        device: A torch device or its name.
    """
    return _mine().shares(str(device))


def make_way(device: object) -> None:
    """Within `shared`, between two steps: let whoever waits to have `device` alone go first. Costs a microsecond."""
    _mine().make_way(str(device))


@contextlib.contextmanager
def alone(device: object, *, timeout: float | None = None) -> Iterator[None]:
    """Keep everyone else from `device` for as long as the block lasts; what this thread shares is lent out meanwhile.

    Args:
        device: A torch device or its name.
        timeout: Seconds to wait for others, a quarter of an hour for None, negative to wait for ever.

    Raises:
        DeviceBusyError: Others kept the device for longer than `timeout`; it names them.
    """
    timeout = PATIENCE_SECONDS if timeout is None else timeout
    mine = _mine()
    hold = mine.hold(str(device))
    if hold is None or hold.alone:
        yield
        return
    with mine.lent():
        if not hold.take(None if timeout < 0 else time.monotonic() + timeout):
            raise DeviceBusyError(
                f"`device` {device} must be free to be measured; found that {described(hold.blockers)} has held it for "
                f"{timeout:g} s. Let it go on or end it, then resume."
            )
        mine.alone += 1
        try:
            yield
        finally:
            mine.alone -= 1
            hold.give()


class _Hold:
    """What one thread holds of one device."""

    def __init__(self, device: str) -> None:
        self.depth = 0
        self.alone = False
        self.blockers: frozenset[int] = frozenset()
        self._device = device
        self._handles: list[int] = []
        self._open()

    def _open(self) -> None:
        path = lock_path(self._device)
        self._close()
        for suffix in (".lock", ".turnstile", ".queue"):
            self._handles.append(open_lock(path.with_suffix(suffix)))
        self._use, self._turnstile, self._queue = self._handles

    @property
    def _gone(self) -> bool:
        # others would lock a new file: some systems clean up /dev/shm and /tmp when their user logs out
        return os.fstat(self._use).st_nlink == 0

    def share(self) -> None:
        if self._gone:
            self._open()
        fcntl.flock(self._turnstile, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._use, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def give(self) -> None:
        fcntl.flock(self._use, fcntl.LOCK_UN)
        if self.alone:
            self.alone = False
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def take(self, deadline: float | None) -> bool:
        """Whether the device could be had alone before `deadline` on the monotonic clock; else `blockers` had it."""
        if self._gone:
            self._open()
        self.blockers = frozenset()
        # one at a time, or the turnstile that one opens would be closed by the next
        if acquired(self._queue, deadline):
            try:
                self._take(deadline)
            finally:
                if not self.alone:
                    fcntl.flock(self._queue, fcntl.LOCK_UN)
        self.blockers = self.blockers or holders(self._use)
        return self.alone

    def _take(self, deadline: float | None) -> None:
        closed = CLOSED_SECONDS
        while acquired(self._turnstile, deadline):
            end = time.monotonic() + closed
            try:
                self.alone = acquired(self._use, end if deadline is None else min(end, deadline))
                if self.alone:
                    return
                # whoever has it each time, and not those that came in between
                found = holders(self._use)
                self.blockers = self.blockers & found or found
            finally:
                if not self.alone:
                    fcntl.flock(self._turnstile, fcntl.LOCK_UN)
            if deadline is not None and time.monotonic() >= deadline:
                return
            time.sleep(OPEN_SHARE * closed)
            closed = min(2.0 * closed, LONGEST_CLOSED)

    @property
    def wanted(self) -> bool:
        """Whether someone waits to have the device alone, or may do so unseen."""
        if self._gone:
            return True
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        return False

    def _close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())

    def __del__(self) -> None:
        self._close()


class _Shares(AbstractContextManager[None]):
    """Sharing one device from one thread: entered and left any number of times."""

    def __init__(self, mine: _Mine, holds: list[_Hold], device: str) -> None:
        self._mine = mine
        self._holds = holds
        self._gpu = device if _is_gpu(device) else None

    def __enter__(self) -> None:
        for hold in self._holds:
            if hold.depth == 0 and not self._mine.alone:
                hold.share()
            hold.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gpu is not None and self._holds[0].depth == 1 and not self._mine.alone and self._holds[0].wanted:
            _drain(self._gpu)
        for hold in self._holds:
            hold.depth -= 1
            if hold.depth == 0 and not self._mine.alone:
                hold.give()


class _Mine(threading.local):
    """What this thread holds, and how many devices it has alone."""

    def __init__(self) -> None:
        self.alone = 0
        self._holds: dict[str, _Hold | None] = {}
        self._shares: dict[str, AbstractContextManager[None]] = {}

    def hold(self, device: str) -> _Hold | None:
        """None where there are no such locks."""
        if device not in self._holds:
            self._holds[device] = _opened(device)
        return self._holds[device]

    def shares(self, device: str) -> AbstractContextManager[None]:
        found = self._shares.get(device)
        if found is None:
            holds = [hold for name in _used(device) if (hold := self.hold(name)) is not None]
            found = self._shares[device] = _Shares(self, holds, device) if holds else NOTHING
        return found

    def make_way(self, device: str) -> None:
        for name in _used(device):
            hold = self.hold(name)
            if hold is not None and hold.depth and not self.alone and hold.wanted:
                _drain(device)
                hold.give()
                hold.share()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let go of what is shared, and take it back; a thread cannot wait for itself."""
        held = [hold for hold in self._holds.values() if hold is not None and hold.depth and not self.alone]
        for hold in held:
            hold.give()
        try:
            yield
        finally:
            for hold in held:
                hold.share()


_MINE = _Mine()


def _mine() -> _Mine:
    return _MINE


def _forget() -> None:
    # a forked child has its parent's open files, and with them the parent's locks; closing them here frees nothing
    global _MINE
    _MINE = _Mine()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _opened(device: str) -> _Hold | None:
    if fcntl is None:
        return None
    hold = _Hold(device)
    try:
        # tried once, so that no step has to expect a file system without locks
        hold.wanted  # noqa: B018
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return hold


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _used(device: str) -> tuple[str, ...]:
    """What work on `device` keeps busy, in the order in which it is asked for."""
    return (device, "cpu") if _is_gpu(device) else (device,)


def _drain(device: str) -> None:
    # kernels outlive the step that launched them, and would run on in a measurement
    if _is_gpu(device):
        import torch

        torch.cuda.synchronize(device)
