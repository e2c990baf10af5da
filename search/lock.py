"""The study's lock: one coordinator at a time, named to whoever finds it held, and free again when its process dies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..studies.errors import LockHeldError, RunError
from .holder import Holder
from .run_folder import write_json
from .server_lock import server_lock

__all__ = ["Held", "Holder", "coordinator_lock", "current_holder"]


@dataclass(frozen=True)
class Held:
    """A lock that this process holds.

    Args:
        holder: What others are told.
        renew: Makes sure that the server still knows of it, after a connection to it was lost; raises LockHeldError
            when someone else has taken it meanwhile.
    """

    holder: Holder
    renew: Callable[[], None] = lambda: None


@contextmanager
def coordinator_lock(path: Path, url: str | None = None, *, name: str = "") -> Iterator[Held]:
    """Hold a run for as long as the block lasts; the operating system frees it if the process is killed.

    Args:
        path: The lock file; its holder is written beside it, as ``<path>.json``.
        url: Storage URL; on a PostgreSQL or MySQL server the study is also locked there, against other machines and,
            on PostgreSQL, against independent workers.
        name: The study's name on that server.

    Raises:
        LockHeldError: Another coordinator or a worker holds the run; the message names it.
        RunError: The folder cannot be written or the server does not answer.
    """
    with ExitStack() as stack:
        holder, renew = Holder.myself(), Held.renew
        stack.enter_context(_file_lock(path, holder))
        if url is not None and not url.startswith("sqlite"):
            server = stack.enter_context(server_lock(url, name, holder))
            renew = server.renew
        elif url is not None and (database := _elsewhere(url, path)) is not None:
            stack.enter_context(_file_lock(database.with_name(database.name + ".lock"), holder))
        yield Held(holder, renew)


def _elsewhere(url: str, lock: Path) -> Path | None:
    """The SQLite file of `url` where it lies outside the run's folder, so that several runs could share it."""
    from sqlalchemy.engine import make_url

    name = make_url(url.replace("{{", "{").replace("}}", "}")).database
    if not name or name == ":memory:" or not Path(name).parent.is_dir():
        return None
    return None if Path(name).absolute().parent == lock.absolute().parent else Path(name)


def current_holder(path: Path) -> Holder | None:
    """Who holds the lock file now, None when it is free."""
    from filelock import FileLock, Timeout

    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except Timeout:
        return _written_holder(path)
    except OSError:
        return None


@contextmanager
def _file_lock(path: Path, holder: Holder) -> Iterator[None]:
    from filelock import FileLock, Timeout

    # `is_singleton=False`: two coordinators in one process must exclude each other too
    # a moment's patience, because whoever looks at the lock takes it for a moment
    lock = FileLock(path, timeout=1.0, is_singleton=False)
    try:
        lock.acquire()
        write_json(_holder_file(path), asdict(holder))
    except Timeout:
        other = _written_holder(path) or "another process"
        raise LockHeldError(f"`run` must not be in use; found {path.parent} held by {other}.") from None
    except OSError as error:
        lock.release()
        raise RunError(f"`run` must be a folder that can be written; found {path.parent} ({error}).") from error
    try:
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _written_holder(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(_holder_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
