"""A run on disk: the database, the frozen study file, the lock, and one folder a trial, each written atomically."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..studies.atomic_file import published
from ..studies.errors import RunError

__all__ = ["RunFolder", "read_json", "write_json", "write_text"]

RESULT = "result.json"


class RunFolder:
    """Names of what a run keeps on disk.

    Args:
        path: The run's folder; nothing is read or created.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.database = self.path / "study.db"
        self.study_file = self.path / "study.toml"
        self.lock = self.path / "lock"
        self.tensorboard = self.path / "tensorboard"
        self.trials = self.path / "trials"
        self.corrupted = self.path / "corrupted"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, path: str | Path, study_toml: str) -> RunFolder:
        """Create the folder with its frozen study file, or open it when that file is there already.

        Args:
            path: The run's folder; parents are created.
            study_toml: Text of the study file, kept as ``study.toml``.

        Raises:
            RunError: `path` is a file, or a folder that holds something else.
        """
        folder = cls(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise RunError(f"`run` must be a folder; found the file {folder.path}.")
        if folder.study_file.exists():
            return folder
        # a folder that only a hidden file or a released lock lies in is as good as new
        foreign = [
            entry.name
            for entry in (folder.path.iterdir() if folder.path.is_dir() else ())
            if not entry.name.startswith((".", "lock", "study.toml"))
        ]
        if foreign:
            raise RunError(f"`run` must be a new or an existing run's folder; found {folder.path} with {foreign[0]!r}.")
        try:
            folder.trials.mkdir(parents=True, exist_ok=True)
            write_text(folder.study_file, study_toml)
        except OSError as error:
            raise RunError(f"`run` must be a folder that can be written; found {folder.path} ({error}).") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of an existing run.

        Raises:
            RunError: There is no such folder, or it is not a run's.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise RunError(f"`run` must be the folder of an existing run; found {folder.path}, which does not exist.")
        if not folder.study_file.is_file():
            raise RunError(f"`run` must be the folder of a run; found {folder.path} without study.toml.")
        return folder

    def trial(self, number: int) -> Path:
        """The folder of trial `number`; it appears, whole, when the trial has finished."""
        return self.trials / str(number)

    def attempt(self, number: int) -> Path:
        """A fresh folder for one attempt at trial `number`, so that a dying worker never writes into another's."""
        self.trials.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_attempt_prefix(number, os.getpid(), platform.node()), dir=self.trials))

    def discard_attempts_of(self, number: int, pid: int, node: str | None = None) -> None:
        """Remove what a process that has ended left of its attempts at trial `number`.

        Args:
            number: The trial's.
            pid: The process's.
            node: The machine that it ran on, None for this one.
        """
        for left in self.trials.glob(f"{_attempt_prefix(number, pid, node or platform.node())}*"):
            shutil.rmtree(left, ignore_errors=True)

    def checkpoint(self, number: int, repeat: int = 0) -> Path:
        """The file that a training of trial `number` keeps its state in, until the trial is published."""
        return self.checkpoints / (f"{number}-repeat-{repeat}.pt" if repeat else f"{number}.pt")

    def publish(self, attempt: Path, number: int, result: dict[str, Any]) -> None:
        """Finish an attempt: write its result.json once all else is on disk, then give the folder the trial's name."""
        attempt.chmod(0o755)
        _sync_tree(attempt)
        write_json(attempt / RESULT, result)
        final = self.trial(number)
        if final.exists():
            shutil.rmtree(final)
        os.replace(attempt, final)
        _sync(self.trials)
        self.discard_checkpoints(number)

    def discard_checkpoints(self, number: int) -> None:
        """Remove the checkpoints of a trial that has ended."""
        # with what a killed process left of one that it was writing
        for pattern in (f"{number}.pt", f"{number}-repeat-*.pt", f".{number}.pt.*", f".{number}-repeat-*.pt.*"):
            for path in self.checkpoints.glob(pattern):
                path.unlink(missing_ok=True)

    def result(self, number: int) -> dict[str, Any] | None:
        """The stored result of trial `number`; None when there is none or it cannot be read."""
        try:
            result = json.loads((self.trial(number) / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and result.get("number") == number else None

    def discard(self, number: int) -> None:
        """Remove what an earlier life of the run left for trial `number`."""
        shutil.rmtree(self.trial(number), ignore_errors=True)

    def discard_attempts(self) -> None:
        """Remove the attempts that a dead coordinator left unfinished; only the lock's holder may call this."""
        if self.trials.is_dir():
            for entry in self.trials.iterdir():
                if "." in entry.name and entry.name.partition(".")[0].isdigit():
                    shutil.rmtree(entry, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, after any crash, sees the old text or the new, never a part."""
    with published(path) as file:
        file.write(text.encode())
    _sync(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; values that are not JSON raise TypeError before anything is touched."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of the run.

    Raises:
        RunError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"`run` must hold {path.name}; found no file {path}.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} must be a JSON file; found one that cannot be read ({error}).") from error


def _attempt_prefix(number: int, pid: int, node: str) -> str:
    # process ids are a machine's own, and several may share the folder
    return f"{number}.{re.sub('[^A-Za-z0-9-]', '-', node)}-{pid}."


def _sync_tree(folder: Path) -> None:
    """Bring every file below `folder`, and every name, to the disk."""
    for path, _, names in os.walk(folder, topdown=False):
        for file in (Path(path, name) for name in names):
            if file.is_file():
                # Windows syncs only what may be written
                with file.open("rb" if os.name == "posix" else "r+b") as opened:
                    os.fsync(opened.fileno())
        _sync(Path(path))


def _sync(folder: Path) -> None:
    # a rename survives a power cut only once its directory is on disk; Windows cannot open one
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
