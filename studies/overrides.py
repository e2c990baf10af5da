"""Overrides of a study file from the command line: ``--set task.data.root=/data``."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from .errors import InputError
from .faults import found_text, key_text

__all__ = ["apply_override"]

_STEP = re.compile(r"([^.\[\]]+)((?:\[\d+\])*)")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one key of a parsed study file, in place; tables on the way are made where they are missing.

    Args:
        raw: The parsed file.
        override: ``KEY=VALUE``; the key as messages print it, the value TOML or else text.

    Raises:
        InputError: `override` is not of that form, or its key leads through something that is no table.
    """
    key, equals, text = override.partition("=")
    steps = _steps(key.strip())
    if not equals or steps is None:
        raise InputError(f"`--set` must be KEY=VALUE, such as task.data.root=/data; found {found_text(override)}.")
    holder: Any = raw
    for depth, step in enumerate(steps[:-1]):
        if isinstance(holder, dict) and isinstance(step, str):
            # a single table may stand for a list of one
            empty: Any = [] if isinstance(steps[depth + 1], int) else {}
            holder = holder.setdefault(step, empty)
        elif isinstance(step, int) and isinstance(holder, list) and step < len(holder):
            holder = holder[step]
        elif not (step == 0 and isinstance(holder, dict)):
            raise _no_way(override, steps[:depth], holder)
    last: Any = steps[-1]
    in_table = isinstance(holder, dict) and isinstance(last, str)
    in_list = isinstance(holder, list) and isinstance(last, int) and last < len(holder)
    if not (in_table or in_list):
        raise _no_way(override, steps[:-1], holder)
    holder[last] = _value(text.strip())


def _no_way(override: str, steps: list[str | int], holder: Any) -> InputError:
    what = f"a list of {len(holder)}" if isinstance(holder, list) else found_text(holder)
    rule = "a list with that entry" if isinstance(holder, list) else "a table"
    return InputError(f"`{key_text(steps)}` must be {rule} for --set {override}; found {what}.")


def _steps(key: str) -> list[str | int] | None:
    steps: list[str | int] = []
    for part in key.split("."):
        match = _STEP.fullmatch(part.strip())
        if match is None:
            return None
        steps.append(match[1])
        steps += [int(index) for index in re.findall(r"\d+", match[2])]
    return steps


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
