"""A study's locks on a database server: each belongs to a session, which the server ends when its process dies.

On PostgreSQL these are advisory locks. One of the study's name is held alone by a coordinator and shared by independent
workers; pairs of that name's checksum and a number are a trial's (0 and up) or a stretch of work's (below 0).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ResourceClosedError,
    SQLAlchemyError,
)

from ..studies.errors import LockHeldError, RunError
from .holder import Holder
from .storage import with_driver

__all__ = ["ServerSession", "is_lost", "server_lock"]

# a machine that is gone without a word is given up after half a minute, and its locks with it
KEEP_ALIVE = {"tcp_keepalives_idle": 15, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
LOCK_WAIT = "1s"
LOCK_NOT_AVAILABLE = "55P03"


def is_lost(error: BaseException) -> bool:
    """Whether an error, or what caused it, means that the server could not be reached, now or any more."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PendingRollbackError | ResourceClosedError):
            return True
        if isinstance(seen, DBAPIError):
            state = _state(seen)
            unreachable = state is None and isinstance(seen, OperationalError | InterfaceError)
            # 08: connection exceptions, 57P: the server is shutting down, starting up, or has ended the session
            return seen.connection_invalidated or unreachable or (state or "").startswith(("08", "57P"))
        seen = seen.__cause__
    return False


class ServerSession:
    """One connection to a server, kept for its locks.

    Args:
        url: Storage URL.
        study: The study's name on that server.
        holder: Who asks.
        role: What others are told that it is, ``"coordinator"`` or ``"worker"``.

    Raises:
        RunError: The server does not answer, or its kind has no such locks.
    """

    def __init__(self, url: str, study: str, holder: Holder, *, role: str) -> None:
        import sqlalchemy
        from sqlalchemy.pool import NullPool

        self._text = sqlalchemy.text
        self._study = study
        self._name = f"forgefront {role} {holder.pid}@{holder.host}"[:63]
        self._checksum = zlib.crc32(f"forgefront:{study}".encode())
        try:
            engine = sqlalchemy.create_engine(with_driver(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
            self._engine = engine
            self._connection = self._connected()
        except (SQLAlchemyError, ImportError) as error:
            reason = str(error).split("\n", 1)[0]
            rule = "`storage.url` must name a server that answers"
            raise RunError(f"{rule}; found one that does not ({reason}).") from error

    @property
    def kind(self) -> str:
        """``"postgresql"``, ``"mysql"``, …"""
        return self._engine.name

    def close(self) -> None:
        """End the session, and with it all of its locks."""
        self._connection.close()

    def reconnect(self) -> None:
        """A new session in place of a lost one; it holds nothing yet.

        Raises:
            SQLAlchemyError: The server still does not answer.
        """
        with suppress(SQLAlchemyError):
            self._connection.invalidate()
        with suppress(SQLAlchemyError):
            self._connection.close()
        self._connection = self._connected()

    def execute(self, statement: str, **values: Any) -> Any:
        """Run one statement, in a transaction of its own."""
        return self._connection.execute(self._text(statement), values)

    # the study

    def hold_study(self, *, shared: bool = False) -> None:
        """Hold the study, alone or together with workers, until the session ends.

        Raises:
            LockHeldError: It is held in a way that excludes this; the message says by whom.
            RunError: This kind of server has no such lock.
        """
        if self.kind == "postgresql":
            function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
            held = self.execute(f"SELECT {function}(:key)", key=self._checksum).scalar()
        elif self.kind in ("mysql", "mariadb") and not shared:
            held = self.execute("SELECT GET_LOCK(CONCAT('forgefront:', :key), 0)", key=self._checksum).scalar()
        else:
            kinds = "postgresql" if shared else "sqlite, postgresql or mysql"
            raise RunError(f"`storage.url` must be {kinds}, which can lock; found {self.kind}.")
        if not held:
            raise LockHeldError(
                f"`storage.url` must hold a study that is not in use; found {self._study!r} held by {self._holders()}."
            )

    def _holders(self) -> str:
        if self.kind != "postgresql":
            name = "SELECT CONCAT('connection ', IS_USED_LOCK(CONCAT('forgefront:', :key)))"
            return self.execute(name, key=self._checksum).scalar() or "another coordinator"
        rows = self.execute(
            "SELECT a.application_name || ' since ' || date_trunc('second', a.backend_start) "
            "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = 0 "
            "AND l.objid = :key AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "ORDER BY a.backend_start",
            key=self._checksum,
        )
        names = [row[0] for row in rows]
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{names[0]}{others}" if names else "another coordinator"

    # numbers of the study, on PostgreSQL alone

    def try_number(self, number: int) -> bool:
        """Hold `number` if nobody else does."""
        return bool(self.execute("SELECT pg_try_advisory_lock(:first, :second)", **self._pair(number)).scalar())

    def free_number(self, number: int) -> None:
        """Let go of `number`."""
        self.execute("SELECT pg_advisory_unlock(:first, :second)", **self._pair(number))

    def held_numbers(self) -> set[int]:
        """Numbers that any session holds."""
        rows = self.execute(
            "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = :key "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            key=self._checksum,
        )
        return {_signed(int(row[0])) for row in rows}

    @contextmanager
    def alone(self, number: int, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold `number` for the block; waits for whoever has it, and calls `check` every second meanwhile."""
        while True:
            check()
            try:
                self.execute("SELECT pg_advisory_lock(:first, :second)", **self._pair(number))
                break
            except DBAPIError as error:
                if _state(error) != LOCK_NOT_AVAILABLE:
                    raise
        try:
            yield
        finally:
            # a lost session holds nothing any more
            with suppress(SQLAlchemyError):
                self.free_number(number)

    def _pair(self, number: int) -> dict[str, int]:
        return {"first": _signed(self._checksum), "second": number}

    def _connected(self) -> Any:
        connection = self._engine.connect()
        if self.kind == "postgresql":
            settings = {"application_name": self._name, "lock_timeout": LOCK_WAIT, **KEEP_ALIVE}
            for key, value in settings.items():
                connection.execute(
                    self._text("SELECT set_config(:key, :value, false)"), {"key": key, "value": str(value)}
                )
        return connection


class _StudyLock:
    """What a coordinator holds on a server."""

    def __init__(self, session: ServerSession) -> None:
        self._session = session
        session.hold_study()

    def renew(self) -> None:
        """Hold the study again if the session was lost."""
        try:
            self._session.execute("SELECT 1")
        except SQLAlchemyError:
            self._session.reconnect()
            self._session.hold_study()


@contextmanager
def server_lock(url: str, study: str, holder: Holder) -> Iterator[_StudyLock]:
    """A coordinator's hold on a study, for as long as the block lasts; raises as `ServerSession.hold_study` does."""
    session = ServerSession(url, study, holder, role="coordinator")
    try:
        yield _StudyLock(session)
    finally:
        session.close()


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _signed(number: int) -> int:
    """An unsigned 32-bit number as the signed one that PostgreSQL's functions take."""
    return number - (1 << 32) if number >= 1 << 31 else number
