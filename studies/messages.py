"""Turns pydantic's errors into `Fault`s: which key, what is allowed, what was found and the nearest match."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from .faults import NOTHING, Fault, found_text, nearest

__all__ = ["faults_of", "keys_of"]

_ALLOWED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text in quotes",
    "path_type": "a path in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "none_required": "left out",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
    "literal_error": "{expected}",
    "missing": "given",
}

_EXAMPLES = {
    "validation": 'given, for example { from = "train", count = 1000 }',
    "objectives": 'given, for example [[objectives]] with name = "accuracy"',
}


def faults_of(
    error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel], *, known: Sequence[str] = ()
) -> list[Fault]:
    """The faults in `error`, one for each key, in the order of the model's fields.

    Args:
        error: What pydantic raised for `raw`.
        raw: The table that was validated.
        model: The model that it was validated against.
        known: Keys that are no fields of `model`, yet may have been meant where an unknown key was found.
    """
    merged: dict[tuple[str | int, ...], Fault] = {}
    for entry in error.errors(include_url=False):
        for fault in _faults_of_entry(entry, raw, model, known):
            earlier = merged.get(fault.key)
            if earlier is None:
                merged[fault.key] = fault
            elif fault.allowed not in earlier.allowed:
                # the members of a union each report; "none_required" is one of them and says nothing new
                allowed = " or ".join(text for text in (earlier.allowed, fault.allowed) if text != "left out")
                suggestion = earlier.suggestion or fault.suggestion
                merged[fault.key] = Fault(fault.key, allowed, fault.found, suggestion)
    # a list that is too short only for its wrong entries is not at fault itself
    inner = {key[:depth] for key in merged for depth in range(len(key))}
    return [fault for key, fault in merged.items() if key not in inner]


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a table, as a study file writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _faults_of_entry(entry: Any, raw: Any, model: type[BaseModel], known: Sequence[str]) -> list[Fault]:
    kind, context = entry["type"], entry.get("ctx", {})
    key, found = _walk(entry["loc"], raw, missing=kind == "missing")
    if kind == "contradiction":
        return [Fault((*key, *fault.key), fault.allowed, fault.found, fault.suggestion) for fault in context["faults"]]
    if kind == "rule":
        return [Fault(key, context["allowed"], found, context["suggestion"])]
    if kind == "extra_forbidden":
        return [_unknown_key(key, model, known)]
    if kind == "missing":
        return [Fault(key, _EXAMPLES.get(str(key[-1]), "given"), NOTHING)]
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        match = nearest(found, choices)
        return [Fault(key, context["expected"].replace("'", ""), found, found_text(match) if match else None)]
    text = _ALLOWED.get(kind)
    allowed = text.format(**context) if text else _plain_message(entry["msg"])
    return [Fault(key, allowed, found, _suggestion(kind, context, found))]


def _unknown_key(key: tuple[str | int, ...], model: type[BaseModel], known: Sequence[str]) -> Fault:
    table, word = _model_at(model, key[:-1]), str(key[-1])
    choices = [*(keys_of(table) if table else ()), *known]
    if not choices:
        return Fault(key, "left out (no options are taken here)", word)
    match = nearest(word, choices)
    # a key that is known in another table was put in the wrong one
    elsewhere = None if match else next((path for path in _paths(model) if path.endswith(f".{word}")), None)
    allowed = "a known key" if match and len(choices) > 8 else f"one of the keys {', '.join(choices)}"
    return Fault(key, allowed, word, match or elsewhere)


def _paths(model: type[BaseModel], above: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        path = f"{above}.{field.alias or name}" if above else field.alias or name
        inner = _model_in(field.annotation)
        paths += [path, *(_paths(inner, path) if inner else ())]
    return paths


def _plain_message(message: str) -> str:
    text = message.splitlines()[0].removeprefix("Input should be ").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _suggestion(kind: str, context: Mapping[str, Any], found: Any) -> str | None:
    """The value that repairs a fault of type or range, where it is plain what was meant."""
    for bound in ("ge", "le"):
        if bound in context:
            return found_text(context[bound])
    if kind == "greater_than" and isinstance(found, int) and isinstance(context["gt"], int):
        return str(context["gt"] + 1)
    if kind in ("int_type", "int_parsing", "int_from_float", "float_type", "float_parsing"):
        try:
            number = float(found) if not isinstance(found, bool) else None
        except (TypeError, ValueError):
            return None
        if number is None or number != number or abs(number) > 1e15:
            return None
        return f"{number:g}" if kind.startswith("float") else str(round(number))
    if kind.startswith("bool") and isinstance(found, (str, int)):
        return {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}.get(
            str(found).lower()
        )
    if kind in ("string_type", "path_type") and isinstance(found, (int, float, bool)):
        return f'"{found_text(found)}"'
    if kind in ("list_type", "tuple_type") and not isinstance(found, dict):
        return f"[{found_text(found)}]"
    return None


def _walk(location: Sequence[str | int], raw: Any, *, missing: bool) -> tuple[tuple[str | int, ...], Any]:
    """The part of pydantic's location that is in the file (it adds names of union members), and the value there."""
    key: list[str | int] = []
    for position, step in enumerate(location):
        if _holds(raw, step):
            raw = raw[step]
        elif missing and position == len(location) - 1:
            key.append(step)
            return tuple(key), NOTHING
        else:
            continue
        key.append(step)
    return tuple(key), raw


def _holds(raw: Any, step: str | int) -> bool:
    if isinstance(raw, Mapping):
        return step in raw
    return isinstance(raw, (list, tuple)) and isinstance(step, int) and step < len(raw)


def _model_at(model: type[BaseModel], key: Sequence[str | int]) -> type[BaseModel] | None:
    for step in key:
        if isinstance(step, int):
            continue
        annotations = [field.annotation for name, field in model.model_fields.items() if step in (name, field.alias)]
        inner = _model_in(annotations[0]) if annotations else None
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        model = _model_in(argument)
        if model is not None:
            return model
    return None
