"""Hypervolume (Zitzler & Thiele 1998): the volume that a front dominates, up to a reference point that never moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .non_dominated import front_trials, losses

__all__ = ["HYPERVOLUME", "front_hypervolume", "hypervolume", "hypervolume_history", "scaled_hypervolume"]

HYPERVOLUME = "hypervolume"
"""User attribute of a complete trial: hypervolume of the front when it was told, itself included."""


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


def scaled_hypervolume(losses: np.ndarray, signs: np.ndarray, reference: Sequence[float]) -> float:
    """Hypervolume with each axis in units of its reference value (or as it is where that is 0).

    Args:
        losses: (n, m) floats to be minimised.
        signs: (m,) 1 for an objective to be minimised, -1 for one to be maximised, whose losses are negated values.
        reference: (m,) the worst value that counts for each objective, in the objective's own direction and unit.
    """
    bound = np.asarray(reference, dtype=float)
    scale = np.where(bound == 0.0, 1.0, np.abs(bound))
    return hypervolume(losses / scale, bound * signs / scale)


def front_hypervolume(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], reference: Sequence[float]
) -> float:
    """`scaled_hypervolume` of the feasible front.

    Args:
        trials: Trials of a study, in any state.
        directions: The study's directions.
        reference: (m,) the worst value that counts for each objective, in the objective's own direction and unit.
    """
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
    return scaled_hypervolume(losses(front_trials(trials, directions), directions), signs, reference)


def hypervolume_history(trials: Sequence[FrozenTrial]) -> list[float]:
    """Hypervolume of the front after each complete trial, in the order in which they were told.

    It is stored with each trial; since a front never shrinks, their order is that of the values. Trials of before it
    was stored are left out.
    """
    stored = (trial.user_attrs.get(HYPERVOLUME) for trial in trials if trial.state == TrialState.COMPLETE)
    return sorted(float(value) for value in stored if value is not None)
