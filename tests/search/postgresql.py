"""A PostgreSQL server of this machine's own, in a temporary folder, for tests; it is gone with its process."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest where there are several."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [Path(folder) for place in PLACES for folder in glob.glob(place)]
    folders = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return max(folders, key=lambda folder: (len(str(folder)), str(folder)), default=None)


def _user() -> dict:
    """Arguments of `Popen`: the server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise LookupError("no user to run a server as")


class Server:
    """A running server.

    Args:
        binaries: Folder of its programs.
    """

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.user = _user()
        # not pytest's folder, which only its owner may enter
        self.folder = Path(tempfile.mkdtemp(prefix="forgefront-postgresql-"))
        if self.user:
            os.chown(self.folder, self.user["user"], self.user["group"])
        self.port = _free_port()
        self.process: subprocess.Popen | None = None
        self._numbers = count()
        command = [binaries / "initdb", "-D", self.folder / "data", "-U", "forgefront", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*command, "--locale=C", "--no-sync"], check=True, capture_output=True, cwd=self.folder, **self.user
        )
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "fsync": "off"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.user,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self._info("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, dropping every connection."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """URL of a new, empty database, without a driver's name."""
        name = f"study{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://forgefront@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> list[tuple]:
        """Run a statement; its rows."""
        with psycopg.connect(self._info("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _info(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=forgefront dbname={database}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
