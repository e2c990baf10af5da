"""Who uses a device: work takes it shared, step by step; a measurement of time takes it alone, and work then pauses.

A readers-writer lock between all processes of a user on a machine, made of two advisory file locks a device. Whoever
wants the device alone closes a turnstile first, which everyone who shares it passes on the way in (Courtois, Heymans
and Parnas 1971, second problem), so that a measurement is not kept waiting by steps that always overlap. The operating
system frees what a process holds when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

from ...studies.errors import DeviceError

try:
    import fcntl
except ImportError:  # no such locks on this system: devices are then used without asking
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone", "lock_path", "make_way", "shared"]

PATIENCE_SECONDS = 900.0
POLL_SECONDS = 0.001
# what a file system answers that has no such locks
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
NOTHING: AbstractContextManager[None] = nullcontext()


def lock_path(device: str) -> Path:
    """The lock file of `device` (``"cpu"``, ``"cuda:0"``, …) for this user; a GPU's is named by its UUID."""
    slug = re.sub(r"[^a-z0-9]+", "-", _identity(device).lower()).strip("-")
    owner = re.sub(r"[^A-Za-z0-9]+", "-", _user())
    return Path(tempfile.gettempdir()) / f"forgefront-{owner}" / f"{slug}.lock"


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


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
def alone(device: object, *, timeout: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Keep everyone else from `device` for as long as the block lasts; what this thread shares is lent out meanwhile.

    Args:
        device: A torch device or its name.
        timeout: Seconds to wait for others, negative to wait for ever.

    Raises:
        DeviceError: Others kept the device for longer than `timeout`.
    """
    mine = _mine()
    hold = mine.hold(str(device))
    if hold is None or hold.alone:
        yield
        return
    with mine.lent():
        if not hold.take(None if timeout < 0 else time.monotonic() + timeout):
            message = f"`device` {device} must be free to be measured; another process has held it for {timeout:g} s."
            raise DeviceError(message)
        mine.alone += 1
        try:
            yield
        finally:
            mine.alone -= 1
            hold.give()


class _Hold:
    """What one thread holds of one device."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.depth = 0
        self.alone = False
        self._use = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._turnstile = os.open(path.with_suffix(".turnstile"), os.O_RDWR | os.O_CREAT, 0o600)

    def share(self) -> None:
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

    def take(self, deadline: float | None) -> bool:
        """Whether the device could be had alone before `deadline` on the monotonic clock."""
        if not _acquired(self._turnstile, deadline):
            return False
        try:
            self.alone = _acquired(self._use, deadline)
        finally:
            if not self.alone:
                fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        return self.alone

    @property
    def wanted(self) -> bool:
        """Whether someone waits to have the device alone."""
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        return False

    def __del__(self) -> None:
        for name in ("_use", "_turnstile"):
            if name in self.__dict__:
                os.close(self.__dict__[name])


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
    hold = _Hold(lock_path(device))
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


def _acquired(handle: int, deadline: float | None) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                return False
        time.sleep(POLL_SECONDS)


@functools.cache
def _identity(device: str) -> str:
    """A name for `device` that all processes agree on, whichever GPUs each of them sees."""
    if not _is_gpu(device):
        return device
    import torch

    index = device.partition(":")[2] or "0"
    try:
        return f"gpu {torch.cuda.get_device_properties(int(index)).uuid}"
    except (AssertionError, AttributeError, RuntimeError, ValueError):  # no such GPU here, or no UUID known
        return f"cuda:{index}"
