"""Pareto dominance: which of a set of points no other point beats, and which trials make the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["feasible", "front_numbers", "front_trials", "losses", "non_dominated"]

CHUNK = 256
"""Points that are compared with the front at once."""


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Bool mask (n,) of the points that no other point dominates; equal points do not dominate each other.

    Args:
        points: (n, m) floats, every column to be minimised, none of them NaN.
    """
    points = np.asarray(points, dtype=float)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    unique, where = np.unique(points, axis=0, return_inverse=True)
    # in lexicographic order nothing is dominated by what comes later
    kept = np.zeros(len(unique), dtype=bool)
    front = unique[:0]
    for start in range(0, len(unique), CHUNK):
        chunk = unique[start : start + CHUNK]
        open_ones = ~_dominated(chunk, front)
        open_ones[open_ones] = ~_dominated(chunk[open_ones], chunk[open_ones])
        kept[start : start + CHUNK] = open_ones
        front = np.concatenate([front, chunk[open_ones]])
    mask: np.ndarray = kept[where.reshape(-1)]
    return mask


def _dominated(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bool mask (n,) of `points` (n, m) that are no better anywhere than another, different one of `others` (k, m)."""
    no_worse = np.ones((len(others), len(points)), dtype=bool)
    better = np.zeros_like(no_worse)
    # by column, for (k, n, m) booleans take long
    for theirs, ours in zip(others.T, points.T, strict=True):
        no_worse &= theirs[:, None] <= ours
        better |= theirs[:, None] < ours
    found: np.ndarray = np.any(no_worse & better, axis=0, keepdims=True)[0]
    return found


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
