"""What differs between two resolved studies, key by key; a run is only resumed when nothing that matters does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .faults import found_text

__all__ = ["study_differences"]

_ABSENT = object()


def study_differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Sequence[str] = ()) -> list[str]:
    """Lines of the form ``space.sparsity.high: 0.9 -> 0.8``, in the order of `old`.

    Args:
        old: A study, as ``Study.model_dump(mode="json", by_alias=True)`` gives it, or any tree of JSON values.
        new: Another.
        ignore: Dotted keys that may differ, such as ``search.trials`` or ``storage`` (all below it included).
    """
    return [
        f"{key}: {_shown(before)} -> {_shown(after)}"
        for key, before, after in _differences("", old, new)
        if not any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in ignore)
    ]


def _shown(value: Any) -> str:
    return "(absent)" if value is _ABSENT else found_text(value)


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            below = f"{key}.{name}" if key else str(name)
            yield from _differences(below, old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif _holds_tables(old) and _holds_tables(new):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else _ABSENT
            after = new[index] if index < len(new) else _ABSENT
            yield from _differences(f"{key}[{index}]", before, after)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield key, old, new


def _holds_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
