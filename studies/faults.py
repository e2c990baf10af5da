"""`Fault`: one thing wrong in a study file, as one line that names the key, the rule, the value and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

__all__ = ["NOTHING", "Fault", "broken", "contradiction", "found_text", "key_text", "nearest"]

NOTHING = object()
"""Stands for a value that is not there."""

LONGEST = 60


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        key: Path of keys and list positions, for example ``("space", "weight_bits", 2)``.
        allowed: What is allowed, continuing "must be".
        found: The value found; `NOTHING` when the key is missing.
        suggestion: The nearest value that is allowed, as the user would write it, or None.
    """

    key: tuple[str | int, ...]
    allowed: str
    found: Any = NOTHING
    suggestion: str | None = None

    def line(self, file: str | None) -> str:
        """The fault as one line, headed by the name of the file when there is one."""
        head = f"{file}: " if file else ""
        tail = f" Did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{head}`{key_text(self.key)}` must be {self.allowed}; found {found_text(self.found)}.{tail}"


def key_text(key: Sequence[str | int]) -> str:
    """A key path as text: ``space.weight_bits[2]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def found_text(value: Any) -> str:
    """A value as the study file would write it, cut to one short line."""
    text = _toml_like(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _toml_like(value: Any) -> str:
    if value is NOTHING or value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\n", "\\n") + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_like(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_like, value)) + "]"
    return str(value)


def nearest(word: object, names: Iterable[str]) -> str | None:
    """The name most like `word`, or None when none is like it."""
    if not isinstance(word, str):
        return None
    by_plain = {_plain(name): name for name in names}
    match = difflib.get_close_matches(_plain(word), by_plain, n=1, cutoff=0.5)
    return by_plain[match[0]] if match else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def broken(allowed: str, suggestion: object = None) -> PydanticCustomError:
    """The error that a pydantic validator raises when a value breaks a rule."""
    shown = None if suggestion is None else found_text(suggestion)
    return PydanticCustomError("rule", "must be {allowed}", {"allowed": allowed, "suggestion": shown})


def contradiction(faults: Sequence[Fault]) -> PydanticCustomError:
    """The error that a model's validator raises; keys of `faults` are relative to that model."""
    return PydanticCustomError("contradiction", "contradictory keys", {"faults": tuple(faults)})
