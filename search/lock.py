"""The study's lock: one coordinator at a time, named to whoever finds it held, and free again when its process dies."""

from __future__ import annotations

import json
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ..studies.errors import LockHeldError, RunError
from .run_folder import write_json

__all__ = ["Holder", "coordinator_lock", "current_holder"]


@dataclass(frozen=True)
class Holder:
    """Who holds a study."""

    pid: int
    host: str
    since: str

    @classmethod
    def myself(cls) -> Holder:
        """This process, now."""
        return cls(os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat(timespec="seconds"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def coordinator_lock(path: Path, url: str | None = None, *, name: str = "") -> Iterator[Holder]:
    """Hold a run for as long as the block lasts; the operating system frees it if the process is killed.

    Args:
        path: The lock file; its holder is written beside it, as ``<path>.json``.
        url: Storage URL; on a PostgreSQL or MySQL server the study is also locked there, against other machines.
        name: The study's name on that server.

    Raises:
        LockHeldError: Another coordinator holds the run; the message names it.
        RunError: The folder cannot be written or the server does not answer.
    """
    with ExitStack() as stack:
        holder = Holder.myself()
        stack.enter_context(_file_lock(path, holder))
        if url is not None and not url.startswith("sqlite"):
            stack.enter_context(_server_lock(url, name, holder))
        elif url is not None and (database := _elsewhere(url, path)) is not None:
            stack.enter_context(_file_lock(database.with_name(database.name + ".lock"), holder))
        yield holder


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
    except Timeout:
        other = _written_holder(path) or "another process"
        raise LockHeldError(f"`run` must not be in use; found {path.parent} held by {other}.") from None
    except OSError as error:
        raise RunError(f"`run` must be a folder that can be written; found {path.parent} ({error}).") from error
    try:
        write_json(_holder_file(path), asdict(holder))
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _server_lock(url: str, name: str, holder: Holder) -> Iterator[None]:
    """A lock that belongs to a connection of its own, which the server drops when this process dies."""
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    key = zlib.crc32(f"forgefront:{name}".encode())
    try:
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        connection = engine.connect()
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).split("\n", 1)[0]
        raise RunError(f"`storage.url` must name a server that answers; found one that does not ({reason}).") from error
    with connection:
        if engine.name == "postgresql":
            me = f"forgefront {holder.pid}@{holder.host}"[:63]
            connection.execute(sqlalchemy.text("SELECT set_config('application_name', :me, false)"), {"me": me})
            held = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
            other = sqlalchemy.text(
                "SELECT a.application_name || ' since ' || date_trunc('second', a.backend_start) "
                "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = 0 AND l.objid = :key"
            )
        elif engine.name in ("mysql", "mariadb"):
            held = sqlalchemy.text("SELECT GET_LOCK(CONCAT('forgefront:', :key), 0)")
            other = sqlalchemy.text("SELECT CONCAT('connection ', IS_USED_LOCK(CONCAT('forgefront:', :key)))")
        else:
            raise RunError(f"`storage.url` must be sqlite, postgresql or mysql, which can lock; found {engine.name}.")
        if not connection.execute(held, {"key": key}).scalar():
            found = connection.execute(other, {"key": key}).scalar() or "another coordinator"
            raise LockHeldError(f"`storage.url` must hold a study that is not in use; found {name!r} held by {found}.")
        yield


def _holder_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _written_holder(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(_holder_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
