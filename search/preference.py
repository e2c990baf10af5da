"""Which member of a front to take: knee, balanced, weighted, pseudo-weights or hypervolume, whatever the front's shape.

Knee: the member with the largest expected marginal utility (Branke et al., PPSN 2004). Balanced and weighted: the
augmented achievement scalarising function (Wierzbicki 1980), equal or stated weights. Pseudo-weights: where on the
front a member lies (Deb, "Multi-Objective Optimization Using Evolutionary Algorithms", 2001, section 8.2). Hypervolume:
the member whose loss would cost the front most (exclusive contribution, Emmerich et al., EMO 2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np

from ..studies.errors import InputError
from ..studies.faults import nearest
from .hypervolume import hypervolume

__all__ = [
    "RULES",
    "Preference",
    "achievement",
    "exclusive_hypervolume",
    "knee_utility",
    "normalize_losses",
    "parse_preference",
    "pseudo_weights",
    "rank",
]

AUGMENTATION = 1e-3
WEIGHT_STEPS = 12
REFERENCE = 1.1
"""Where contributions to the hypervolume end, in spans of the front; beyond 1, so that its ends count too."""
BEST = 32
"""Points that others are compared with before a hypervolume is computed."""
PSEUDO_WEIGHTS = "pseudo-weights"

Kind = Literal["knee", "balanced", "weighted", "pseudo-weights", "hypervolume"]

WITHOUT_WEIGHTS: dict[str, Kind] = {"knee": "knee", "balanced": "balanced", "hypervolume": "hypervolume"}

RULES = {
    "knee": "the knee: leaving it costs most in one objective for the least gain in another",
    "balanced": "balanced: its worst objective is nearest to the best of the front",
    "weighted": "weighted: its worst weighted objective is nearest to the best of the front",
    "pseudo-weights": "pseudo-weights: where it lies on the front is nearest to the weights asked for",
    "hypervolume": "hypervolume: without it the front would dominate least",
}
"""Each kind of preference in a sentence."""


@dataclass(frozen=True)
class Preference:
    """A wish: its kind, and for ``"weighted"`` and ``"pseudo-weights"`` a positive weight for some objectives."""

    kind: Kind
    weights: Mapping[str, float]


def parse_preference(text: str, objectives: Sequence[str]) -> Preference:
    """A preference from ``knee``, ``balanced``, ``hypervolume``, ``accuracy=2,mce=1`` or
    ``pseudo-weights=accuracy:0.5,mce:0.5``.

    Raises:
        InputError: Another word, an objective that the study does not have, or a weight that is not positive.
    """
    text = text.strip()
    if text in WITHOUT_WEIGHTS:
        return Preference(WITHOUT_WEIGHTS[text], {})
    head, _, rest = (piece.strip() for piece in text.partition("="))
    if head == PSEUDO_WEIGHTS:
        return Preference("pseudo-weights", _weights(rest, ":", text, objectives))
    return Preference("weighted", _weights(text, "=", text, objectives))


def _weights(listed: str, sign: str, text: str, objectives: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in listed.split(","):
        name, found, number = (piece.strip() for piece in part.partition(sign))
        if not found:
            allowed = "knee, balanced, hypervolume, NAME=WEIGHT,… or pseudo-weights=NAME:WEIGHT,…"
            close = nearest(name, [*WITHOUT_WEIGHTS, PSEUDO_WEIGHTS]) if sign == "=" else None
            hint = f" Did you mean {close}?" if close else ""
            raise InputError(f"`--prefer` must be {allowed}; found {text!r}.{hint}")
        if name in weights:
            raise InputError(f"`--prefer` must weigh each objective once; found {name} twice.")
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
    return weights


def normalize_losses(losses: np.ndarray) -> np.ndarray:
    """Losses (n, m) scaled per column to [0, 1] between the front's best and worst; a constant column becomes 0.

    What is not a number, or infinitely bad, counts as the worst of its column.
    """
    finite = np.where(np.isfinite(losses), losses, np.nan)
    known = np.isfinite(finite).any(axis=0)
    # what is not known, or infinite, is as bad as the worst that is
    worst = np.nanmax(np.where(known, finite, 0.0), axis=0)
    best = np.nanmin(np.where(known, finite, 0.0), axis=0)
    filled = np.where(np.isneginf(losses), best, np.where(np.isfinite(losses), losses, worst))
    span = np.where(worst > best, worst - best, 1.0)
    scaled: np.ndarray = np.where(known, (filled - best) / span, 0.0)
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


def pseudo_weights(normalized: np.ndarray) -> np.ndarray:
    """Where each member lies on the front, (n, m) with rows that sum to 1: large where it is near to the best.

    An objective that does not vary says nothing of where a member lies: its weight is 0. A member that is worst in
    everything else, such as the only one of a front, lies nowhere: its weights are equal.

    Args:
        normalized: (n, m) losses in [0, 1], of `normalize_losses`.
    """
    varies = normalized.max(axis=0) > normalized.min(axis=0)
    share = np.where(varies, 1.0 - normalized, 0.0)
    total = share.sum(axis=1, keepdims=True)
    weights: np.ndarray = np.where(total > 0.0, share / np.where(total > 0.0, total, 1.0), 1.0 / normalized.shape[1])
    return weights


def exclusive_hypervolume(normalized: np.ndarray) -> np.ndarray:
    """What each member (n,) alone dominates, up to `REFERENCE` in every objective; 0 for one of several equal ones.

    Args:
        normalized: (n, m) losses in [0, 1], of `normalize_losses`.
    """
    members, objectives = normalized.shape
    if objectives == 1:
        ordered = np.sort(np.append(normalized[:, 0], REFERENCE))
        alone = np.where(normalized[:, 0] == ordered[0], ordered[1] - ordered[0], 0.0)
        return np.asarray(alone, dtype=float)
    reference = np.full(objectives, REFERENCE)
    contributions = np.zeros(members)
    for index, point in enumerate(normalized):
        # what the others dominate of the box that this one does (Bringmann & Friedrich 2010)
        limited = np.maximum(point, np.delete(normalized, index, axis=0))
        contributions[index] = np.prod(reference - point) - hypervolume(_thinned(limited), reference)
    # a sum of products is not exact
    return np.maximum(contributions, 0.0)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Without most of the points that others dominate, which are many and cost time."""
    order = np.argsort(points.sum(axis=1), kind="stable")
    best, rest = points[order[:BEST]], points[order[BEST:]]
    inside = np.ones((len(best), len(rest)), dtype=bool)
    for theirs, ours in zip(best.T, rest.T, strict=True):
        inside &= theirs[:, None] <= ours
    return np.concatenate([best, rest[~inside.any(axis=0)]])


def rank(losses: np.ndarray, preference: Preference, objectives: Sequence[str]) -> np.ndarray:
    """Row numbers of `losses` (n, m), all to be minimized, from the most to the least preferred."""
    normalized = normalize_losses(losses)
    weights = np.array([preference.weights.get(name, 0.0) for name in objectives])
    if preference.kind == "weighted":
        return np.argsort(achievement(normalized, weights / weights.sum()), kind="stable")
    balanced = achievement(normalized, np.ones(len(objectives)))
    if preference.kind == "balanced":
        return np.argsort(balanced, kind="stable")
    if preference.kind == "hypervolume":
        return np.lexsort((balanced, -exclusive_hypervolume(normalized)))
    if preference.kind == PSEUDO_WEIGHTS:
        # what does not vary has no weight anywhere on the front, and would hold all members away from what is asked
        asked = np.where(np.ptp(normalized, axis=0) > 0.0, weights, 0.0)
        asked /= asked.sum() or 1.0
        distance = np.linalg.norm(pseudo_weights(normalized) - asked, axis=1) if asked.any() else np.zeros(len(losses))
        # rounded, so that members at the same distance are ordered by balance and not by the last bit
        return np.lexsort((balanced, np.round(distance, 12)))
    return np.lexsort((balanced, -knee_utility(normalized)))
