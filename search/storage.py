"""Where a study is kept: Optuna's own database, opened only after it has been found whole and Optuna's."""

from __future__ import annotations

import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from ..studies.errors import RunError

__all__ = ["open_storage", "sqlite_url", "with_driver"]

BUSY_SECONDS = 60
SQLITE_HEADER = b"SQLite format 3\x00"


def sqlite_url(database: Path) -> str:
    """The storage URL of a SQLite file."""
    # Optuna fills `{SCHEMA_VERSION}` into URLs, so a brace in a folder's name must be doubled
    return "sqlite:///" + str(database.absolute()).replace("{", "{{").replace("}", "}}")


def with_driver(url: str) -> str:
    """`url` with psycopg 3 as its driver where it names PostgreSQL without one and psycopg 2 is not installed."""
    name, separator, rest = url.partition("://")
    if name not in ("postgresql", "postgres") or not separator:
        return url
    driver = "" if find_spec("psycopg2") is not None or find_spec("psycopg") is None else "+psycopg"
    return f"postgresql{driver}://{rest}"


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """Open Optuna's storage at a database URL; SQLite gets write-ahead logging and waits 60 s for a lock.

    Args:
        url: An SQLAlchemy URL such as ``sqlite:////runs/digits/study.db`` or ``postgresql://host/name``.
        create: Whether a missing SQLite file is created.

    Raises:
        RunError: The URL is malformed or needs a driver that is not installed, the server does not answer, or the
            database is missing, damaged, foreign, or of another version of Optuna.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    url = with_driver(url)
    try:
        address = make_url(url.replace("{{", "{").replace("}}", "}"))
    except (ArgumentError, ValueError):
        raise RunError(f'`storage.url` must be a database URL such as sqlite:///study.db; found "{url}".') from None
    shown = address.render_as_string(hide_password=True)
    engine_options: dict[str, Any] = {}
    if address.get_backend_name() == "sqlite":
        if address.database and address.database != ":memory:":
            _check_sqlite_file(Path(address.database), create)
            shown = address.database
        engine_options = {"connect_args": {"timeout": BUSY_SECONDS}, "pool_events": [(_prepare_sqlite, "connect")]}
    else:
        # a connection that the server has dropped meanwhile is replaced before it is used
        engine_options = {"pool_pre_ping": True}
    try:
        return RDBStorage(url, engine_kwargs=engine_options)
    except ImportError as error:
        cause = error.__cause__ or error
        rule = "`storage.url` must name a database whose driver is installed"
        raise RunError(f"{rule}; found {shown} ({cause}).") from error
    except (SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        reason = " ".join(str(error).split("\n[", 1)[0].split())
        raise RunError(f"{shown} must be a readable Optuna database; found one that is not ({reason}).") from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_SECONDS * 1000}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _check_sqlite_file(database: Path, create: bool) -> None:
    if not database.exists():
        if not create:
            raise RunError(f"`run` must hold a database; found no file {database}.")
        if not database.parent.is_dir():
            raise RunError(f"`storage.url` must lie in an existing folder; found {database}.")
        return
    try:
        with database.open("rb") as file:
            header = file.read(len(SQLITE_HEADER))
    except OSError as error:
        raise RunError(f"{database} must be a readable file; found one that is not ({error}).") from error
    if not header:
        if not create:
            raise RunError(f"{database} must be an Optuna database; found an empty file.")
        return
    if header != SQLITE_HEADER:
        raise RunError(f"{database} must be an SQLite database; found another kind of file.")
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS)
    try:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        # reading needs a little room too, for the shared memory of the write-ahead log
        rule = f"{database} must be on a disk that can be read and written"
        raise RunError(f"{rule}; found that it is not ({error}). Is it full? What is stored there is safe.") from error
    except sqlite3.DatabaseError as error:
        raise RunError(f"{database} must be an intact SQLite database; found a damaged one ({error}).") from error
    finally:
        connection.close()
    if verdict != "ok":
        fault = " ".join(verdict.split())
        raise RunError(f"{database} must be an intact SQLite database; found a damaged one ({fault}).")
    # checked before Optuna opens it, which would add its tables to anybody's database
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise RunError(f"{database} must be an Optuna database; found one of another program.")
