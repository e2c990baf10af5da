"""What has been measured, one small file a step: written whole or not at all, found again by what it depends on."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...studies.errors import RunError
from ..run_folder import write_json

__all__ = ["Store", "Stored", "digest_of", "pack", "unpack", "writing"]

VERSION = 1
"""Part of every key; to be raised when a step measures something else than before."""


@dataclass(frozen=True)
class Stored:
    """One measured step.

    Args:
        value: What was measured, JSON values.
        seconds: How long that took.
        shared: How long making what other subjects use too took beside that; 0 where nothing had to be made.
    """

    value: dict[str, Any]
    seconds: float
    shared: float = 0.0


class Store:
    """The measured steps of one subject.

    Args:
        folder: Where they are kept; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, depends: Mapping[str, Any]) -> Stored | None:
        """The step that was measured under these conditions, None when there is none or its file is damaged.

        Args:
            name: The step's name, the beginning of its file's.
            depends: All that its value depends on, JSON values.
        """
        try:
            content = json.loads(self._file(name, depends).read_text(encoding="utf-8"))
            stored = Stored(content["value"], float(content["seconds"]), float(content.get("shared", 0.0)))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return stored if content.get("depends") == _plain(depends) and isinstance(stored.value, dict) else None

    def write(self, name: str, depends: Mapping[str, Any], stored: Stored) -> None:
        """Keep a step; a reader sees the whole file or none.

        Raises:
            RunError: The folder cannot be written.
        """
        seconds = {"seconds": stored.seconds, "shared": stored.shared}
        content = {"depends": _plain(depends), **seconds, "value": stored.value}
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._file(name, depends), content)

    def _file(self, name: str, depends: Mapping[str, Any]) -> Path:
        # the user's own corruptions are called module:function
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
        return self.folder / f"{plain}.{digest_of(depends)}.json"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in one line what keeps a block from writing to `folder`.

    Raises:
        RunError: The folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"`run` must be a folder that can be written; found {folder} ({reason}).") from None


def digest_of(depends: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for JSON values, whatever the order of their keys."""
    text = json.dumps(_plain(depends), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(depends: Mapping[str, Any]) -> dict[str, Any]:
    # as it reads back: tuples are lists, keys are text
    plain: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **depends}))
    return plain


def pack(correct: Tensor) -> str:
    """Which images are right, bool (N,), as text: one bit an image, in base64."""
    return base64.b64encode(np.packbits(correct.cpu().numpy().astype(bool)).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """The bool array (count,) that `pack` wrote.

    Raises:
        ValueError: The text does not hold `count` bits.
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8))
    if not count <= len(bits) < count + 8:
        raise ValueError(f"`text` must hold {count} bits; found {len(bits)}.")
    return bits[:count].astype(bool)
