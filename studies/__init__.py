"""Study files: the schema that validates them, the shipped ones, and the registry of named parts (no torch here)."""

from __future__ import annotations

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
