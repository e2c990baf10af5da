"""Whether scores meet a study's conditions, before the study itself has been told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..studies.conditions import Condition
from .score_columns import score_columns

__all__ = ["meets", "score_numbers"]


def score_numbers(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What a condition may name: each metric's value and the numbers of its details, by column.

    Args:
        scores: ``value``, ``standard_error`` and ``details`` by metric.
    """
    columns = {key: value for name, score in scores.items() for key, value in score_columns(name, score).items()}
    # a metric's own value before another's detail of that name
    columns |= {name: score["value"] for name, score in scores.items()}
    return {key: float(value) for key, value in columns.items() if value is not None}


def meets(conditions: Sequence[Condition], numbers: Mapping[str, float], control: Mapping[str, float]) -> bool:
    """Whether all conditions hold; a number that is missing or NaN, here or of the control, breaks its condition.

    Args:
        conditions: The study's.
        numbers: Of the candidate, by column.
        control: Of the control, by column.
    """
    return all(one.holds(numbers.get(one.metric, math.nan), control.get(one.metric, math.nan)) for one in conditions)
