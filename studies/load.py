"""Loads a study file by path or shipped name, with overrides, and writes a resolved study back as TOML."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checks import check_parts as parts_checked
from .checks import check_schema
from .errors import InputError, StudyFileError
from .faults import found_text, nearest
from .overrides import apply_override
from .schema import Study

__all__ = ["load_study", "read_study_text", "shipped", "shipped_descriptions", "study_to_toml"]


def shipped() -> dict[str, Path]:
    """The studies that come with the package: name → file, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def shipped_descriptions() -> dict[str, str]:
    """What each shipped study says of itself: name → one line."""
    parsed = {name: tomllib.loads(path.read_text(encoding="utf-8")) for name, path in shipped().items()}
    return {name: raw["study"].get("description", "") for name, raw in parsed.items()}


def load_study(path_or_name: str | Path, *, check_parts: bool = True, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path_or_name: Path of a TOML file, or the name of a shipped study.
        check_parts: Also check that every part the file names exists and takes the options it is given; this imports
            the parts, torch included. The options of the result then hold the parts' defaults too.
        overrides: Changes of the form ``task.data.root=/data``; the value is TOML, or else taken as text.

    Raises:
        StudyFileError: All faults of the file, one line each.
        InputError: There is no such file, it cannot be read, or an override has no ``KEY=VALUE`` form.
    """
    path = _find(path_or_name)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudyFileError([f"{path.name}: the file must be UTF-8 text; found byte {error.start} is not."]) from None
    except OSError as error:
        raise InputError(f"`study` must be a file that can be read; found {path} ({error.strerror}).") from None
    return read_study_text(text, file=path.name, check_parts=check_parts, overrides=overrides)


def read_study_text(text: str, *, file: str, check_parts: bool = True, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study given as TOML text; `file` is its name in messages. Otherwise as `load_study`."""
    raw = _expand_home(_parse(text, file))
    for override in overrides:
        apply_override(raw, override)
    raw = _expand_home(raw)
    study, lines = check_schema(raw, file)
    if check_parts:
        # a valid study states the sections that its file leaves out, whose parts have options too
        stated = raw if study is None else study.model_dump(mode="json", by_alias=True, exclude_none=True)
        resolved, part_lines = parts_checked(stated, file)
        lines += part_lines
        if study is not None and not lines:
            study = Study.model_validate(resolved)
    if lines or study is None:
        raise StudyFileError(lines)
    return study


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    known = shipped()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    beside = [str(path.with_name(other.name)) for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    match = nearest(path.stem, known) or nearest(str(path), beside)
    hint = f" Did you mean {match}?" if match else ""
    rule = f"the path of a study file or the name of a shipped study ({', '.join(known)})"
    what = f"{path_or_name}, a folder" if path.is_dir() else found_text(str(path_or_name))
    raise InputError(f"`study` must be {rule}; found {what}.{hint}")


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)", message)
        reason = message[: where.start()].strip() if where else message
        lines = text.splitlines() or [""]
        number = int(where[1]) if where and where[1] else len(lines)
        found = found_text(lines[number - 1].strip()) if number <= len(lines) else "nothing"
        raise StudyFileError([f"{file}: line {number} must be valid TOML; found {found} ({reason})."]) from None


def _expand_home(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def study_to_toml(study: Study) -> str:
    """A study with every default stated, as TOML that loads to an equal study."""
    resolved = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    # top-level values come before the first table
    top = {key: value for key, value in resolved.items() if not _is_tables(value)}
    rest = {key: value for key, value in resolved.items() if _is_tables(value)}
    return "\n".join(_table("", {**top, **rest})).strip() + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(i, dict) for i in value)
    )


def _table(name: str, table: Mapping[str, Any]) -> list[str]:
    lines = [f"{_key(key)} = {_inline(value)}" for key, value in table.items() if not _is_tables(value)]
    for key, value in table.items():
        path = f"{name}.{_key(key)}" if name else _key(key)
        if isinstance(value, dict):
            lines += ["", f"[{path}]", *_table(path, value)]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{path}]]", *_table(path, item)]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _inline(key)


def _inline(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value if item is not None) + "]"
    return repr(value)
