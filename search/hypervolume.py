"""Hypervolume (Zitzler & Thiele 1998): the volume that a front dominates, up to a reference point that never moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from .non_dominated import front_trials, losses

__all__ = ["front_hypervolume", "hypervolume"]


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by `points` and bounded by `reference`.

    Args:
        points: (n, m) floats, every column to be minimised; points that are not better than `reference` in every
            column add nothing.
        reference: (m,) floats, finite.

    Returns:
        At least 0; 0 for no points.
    """
    points = np.asarray(points, dtype=float).reshape(-1, len(reference))
    inside = points[(points < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    import moocore

    return float(moocore.hypervolume(inside, ref=reference))


def front_hypervolume(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], reference: Sequence[float]
) -> float:
    """Hypervolume of the feasible front, each axis in units of its reference value (or as it is where that is 0).

    Args:
        trials: Trials of a study, in any state.
        directions: The study's directions.
        reference: (m,) the worst value that counts for each objective, in the objective's own direction and unit.
    """
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
    bound = np.asarray(reference, dtype=float)
    scale = np.where(bound == 0.0, 1.0, np.abs(bound))
    front = front_trials(trials, directions)
    return hypervolume(losses(front, directions) / scale, bound * signs / scale)
