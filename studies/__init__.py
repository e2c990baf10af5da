"""Study files: the schema that validates them, the shipped ones, and the registry of named parts (no torch here)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conditions import Condition, parse_condition
    from .epsilon import Epsilon, Fraction
    from .load import load_study, shipped, study_to_toml
    from .registry import names, resolve, validate_options
    from .schema import Study
    from .seeds import Seed, trial_seed

__all__ = [
    "Condition",
    "Epsilon",
    "Fraction",
    "Seed",
    "Study",
    "load_study",
    "names",
    "parse_condition",
    "resolve",
    "shipped",
    "study_to_toml",
    "trial_seed",
    "validate_options",
]

# pydantic takes a noticeable part of a second, and `forgefront --help` needs only this room's exceptions
_HOMES = {
    "conditions": ("Condition", "parse_condition"),
    "epsilon": ("Epsilon", "Fraction"),
    "load": ("load_study", "shipped", "study_to_toml"),
    "registry": ("names", "resolve", "validate_options"),
    "schema": ("Study",),
    "seeds": ("Seed", "trial_seed"),
}
_LAZY = {name: home for home, members in _HOMES.items() for name in members}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
