"""Pareto dominance: which of a set of points no other point beats, and which trials make the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["feasible", "front_numbers", "front_trials", "losses", "non_dominated"]


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Bool mask (n,) of the points that no other point dominates; equal points do not dominate each other.

    Args:
        points: (n, m) floats, every column to be minimised, none of them NaN.
    """
    points = np.asarray(points, dtype=float)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    import moocore

    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial is complete and meets every constraint."""
    return trial.state == TrialState.COMPLETE and all(value <= 0.0 for value in trial.constraints.values())


def losses(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> np.ndarray:
    """Values of complete trials, (n, m), signed so that every column is to be minimised."""
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
    return np.array([trial.values for trial in trials], dtype=float).reshape(len(trials), len(signs)) * signs


def front_trials(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The feasible non-dominated trials, in the order given."""
    candidates = [trial for trial in trials if feasible(trial)]
    mask = non_dominated(losses(candidates, directions))
    return [trial for trial, kept in zip(candidates, mask, strict=True) if kept]


def front_numbers(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[int]:
    """Numbers of the feasible non-dominated trials, in the order given."""
    return [trial.number for trial in front_trials(trials, directions)]
