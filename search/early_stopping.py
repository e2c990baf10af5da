"""Which trials go on at a rung: those ahead by non-dominated rank and spread (MO-ASHA, Schmucker et al. 2021).

MO-ASHA (arXiv 2106.12639, algorithm 2) sorts the trials at a rung into non-dominated fronts and, within a front, by an
ε-net: begin anywhere, then take again and again the point that lies farthest from all that were taken (Salinas et al.
2021), so that what is kept is spread over the whole front. Here a trial decides when it arrives, with what was there
when it was handed out, as in ASHA's stopping variant: it goes on if it is among the first `keep` of all, itself
included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .engines.base import Standing
from .non_dominated import non_dominated

__all__ = ["goes_on", "joins_front", "promotion_order"]


def goes_on(
    values: Mapping[str, float | None],
    others: Sequence[Mapping[str, float | None]],
    directions: Mapping[str, str],
    *,
    keep: float,
    warm_up: int,
) -> bool:
    """Whether a trial with these values at a rung goes on.

    Args:
        values: Its values, by objective; None is not a finite number. Objectives not known there are left out.
        others: Of every other trial that had reached the rung.
        directions: ``"minimize"`` or ``"maximize"`` for each objective.
        keep: Share of the trials at the rung that go on, in (0, 1); at least one does.
        warm_up: How many must have reached it before any is stopped.

    Returns:
        True also where nothing is known of all of them. What is not a finite number is worse than anything.
    """
    if len(others) < warm_up:
        return True
    names = [name for name in directions if name in values and all(name in other for other in others)]
    if not names:
        return True
    signs = np.array([-1.0 if directions[name] == "maximize" else 1.0 for name in names])
    # None becomes NaN
    losses = signs * np.array([[one[name] for name in names] for one in [*others, values]], dtype=float)
    order = promotion_order(np.where(np.isfinite(losses), losses, np.inf))
    kept = max(1, math.ceil(keep * len(losses) - 1e-9))
    return len(others) in order[:kept]


def joins_front(values: Mapping[str, float], standing: Standing, directions: Mapping[str, str]) -> bool:
    """Whether a candidate with these values would be on the front as it was when the trial was handed out.

    Args:
        values: By objective, all of them.
        standing: What was known then.
        directions: ``"minimize"`` or ``"maximize"`` for each objective.
    """
    signs = np.array([-1.0 if way == "maximize" else 1.0 for way in directions.values()])
    losses = signs * np.array([[one[name] for name in directions] for one in [*standing.front, values]], dtype=float)
    return bool(np.isfinite(losses[-1]).all() and non_dominated(losses)[-1])


def promotion_order(losses: np.ndarray) -> list[int]:
    """Indices of the points, the first to promote first: by non-dominated rank, then by the ε-net of the front.

    Args:
        losses: (n, m), to be minimised; infinite ones are allowed. Among equals the first comes first.
    """
    left = np.arange(len(losses))
    order: list[int] = []
    scaled = _scaled(losses)
    while len(left):
        front = left[non_dominated(losses[left])]
        order += front[_epsilon_net(scaled[front])].tolist()
        left = np.setdiff1d(left, front)
    return order


def _scaled(losses: np.ndarray) -> np.ndarray:
    """Each column from 0 to 1 over its finite values; what is infinite lies at 2."""
    finite = np.isfinite(losses)
    low = np.min(losses, axis=0, initial=np.inf, where=finite)
    span = np.max(losses, axis=0, initial=-np.inf, where=finite) - low
    with np.errstate(invalid="ignore"):
        scaled: np.ndarray = (losses - low) / np.where(np.isfinite(span) & (span > 0.0), span, 1.0)
    return np.where(finite, scaled, 2.0)


def _epsilon_net(points: np.ndarray) -> np.ndarray:
    """Indices of (n, m) points so that every one lies farthest from those before it; the lowest sum is the first."""
    order = np.zeros(len(points), dtype=int)
    order[0] = int(points.sum(axis=1).argmin())
    nearest = np.full(len(points), np.inf)
    for place in range(1, len(points)):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[order[place - 1]], axis=1))
        # what was taken is never taken again, however many equals there are
        nearest[order[:place]] = -np.inf
        order[place] = int(nearest.argmax())
    return order
