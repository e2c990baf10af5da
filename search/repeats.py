"""Several trainings of one candidate under different seeds: its scores are the means, with errors that say so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["combined"]


def combined(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One metric's scores of k trainings as one score.

    The value is the mean; its standard error is sqrt(e² + s²/k), with e the root mean square of the single ones (the
    images are the same each time, so that their part does not shrink) and s the standard deviation between trainings.
    Numbers among the details become means too; other details are the first training's.

    Args:
        scores: ``{"value": …, "standard_error": …, "details": {…}}``, k of 1 or more.
    """
    first = dict(scores[0])
    if len(scores) == 1:
        return first
    values = [float(score["value"]) for score in scores]
    sampled = [float(score.get("standard_error") or 0.0) for score in scores]
    between = statistics.variance(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    error = math.sqrt(statistics.fmean(value**2 for value in sampled) + between) if between >= 0 else math.nan
    details = {key: _mean([_detail(score, key) for score in scores]) for key in first.get("details") or {}}
    return {**first, "value": statistics.fmean(values), "standard_error": error, "details": details}


def _detail(score: Mapping[str, Any], key: str) -> Any:
    return (score.get("details") or {}).get(key)


def _mean(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return statistics.fmean(numbers) if len(numbers) == len(values) else values[0]
