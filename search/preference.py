"""Which member of a front to take: knee, balanced or weighted, each guarded against degenerate fronts.

Knee: the member with the largest expected marginal utility (Branke et al., PPSN 2004). Balanced and weighted: the
augmented achievement scalarising function (Wierzbicki 1980), equal or stated weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np

from ..studies.errors import InputError
from ..studies.faults import nearest

__all__ = ["Preference", "achievement", "knee_utility", "normalize_losses", "parse_preference", "rank"]

AUGMENTATION = 1e-3
WEIGHT_STEPS = 12


@dataclass(frozen=True)
class Preference:
    """A wish: ``"knee"``, ``"balanced"``, or ``"weighted"`` with a positive weight for some objectives."""

    kind: Literal["knee", "balanced", "weighted"]
    weights: Mapping[str, float]


def parse_preference(text: str, objectives: Sequence[str]) -> Preference:
    """A preference from ``knee``, ``balanced`` or ``accuracy=2,mce=1``.

    Raises:
        InputError: Another word, an objective that the study does not have, or a weight that is not positive.
    """
    text = text.strip()
    if text == "knee":
        return Preference("knee", {})
    if text == "balanced":
        return Preference("balanced", {})
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(f"`--prefer` must be knee, balanced or NAME=WEIGHT,…; found {text!r}.")
        if name not in objectives:
            close = nearest(name, objectives)
            hint = f" Did you mean {close}?" if close else ""
            raise InputError(f"`--prefer` must weigh objectives ({', '.join(objectives)}); found {name!r}.{hint}")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = float("nan")
        if not (np.isfinite(weights[name]) and weights[name] > 0):
            raise InputError(f"`--prefer {name}` must be a positive number; found {number!r}.")
    return Preference("weighted", weights)


def normalize_losses(losses: np.ndarray) -> np.ndarray:
    """Losses (n, m) scaled per column to [0, 1] between the front's best and worst; a constant column becomes 0."""
    best, worst = losses.min(axis=0), losses.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    scaled: np.ndarray = (losses - best) / span
    return scaled


def achievement(normalized: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Augmented achievement value (n,) of normalized losses (n, m); smaller is better."""
    weighted = normalized * weights
    value: np.ndarray = weighted.max(axis=1) + AUGMENTATION * normalized.sum(axis=1)
    return value


def _simplex(objectives: int) -> np.ndarray:
    # all weight vectors with steps of 1/WEIGHT_STEPS: deterministic, and few enough for any number of objectives in use
    steps = WEIGHT_STEPS if objectives <= 5 else 6
    rows = {
        tuple(np.bincount(choice, minlength=objectives))
        for choice in combinations_with_replacement(range(objectives), steps)
    }
    return np.array(sorted(rows), dtype=float) / steps


def knee_utility(normalized: np.ndarray) -> np.ndarray:
    """Expected marginal utility (n,) of each member: how much a user of random linear taste would miss it."""
    members, objectives = normalized.shape
    utility = np.zeros(members)
    if members == 1:
        return utility
    costs = _simplex(objectives) @ normalized.T
    order = np.argsort(costs, axis=1, kind="stable")
    rows = np.arange(len(costs))
    best, second = order[:, 0], order[:, 1]
    np.add.at(utility, best, costs[rows, second] - costs[rows, best])
    return utility / len(costs)


def rank(losses: np.ndarray, preference: Preference, objectives: Sequence[str]) -> np.ndarray:
    """Row numbers of `losses` (n, m), all to be minimized, from the most to the least preferred."""
    normalized = normalize_losses(losses)
    weights = np.array([preference.weights.get(name, 0.0) for name in objectives])
    if preference.kind == "weighted":
        return np.argsort(achievement(normalized, weights / weights.sum()), kind="stable")
    balanced = achievement(normalized, np.ones(len(objectives)))
    if preference.kind == "balanced":
        return np.argsort(balanced, kind="stable")
    return np.lexsort((balanced, -knee_utility(normalized)))
