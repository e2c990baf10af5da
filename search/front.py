"""The front as trials come in: each new one is held against its members alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from .hypervolume import scaled_hypervolume
from .non_dominated import feasible, front_trials

__all__ = ["Front"]


class Front:
    """The feasible non-dominated trials of a study, and their hypervolume.

    Args:
        directions: The study's directions.
        names: Its objectives.
        trials: What has finished so far.
    """

    def __init__(
        self, directions: Sequence[StudyDirection], names: Sequence[str], trials: Sequence[FrozenTrial] = ()
    ) -> None:
        self._directions = list(directions)
        self._names = list(names)
        self._signs = np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in directions])
        members = front_trials(trials, directions) if any(map(feasible, trials)) else []
        self._numbers = [trial.number for trial in members]
        self._losses = np.array([trial.values for trial in members], dtype=float).reshape(-1, len(self._signs))
        self._losses *= self._signs
        self._volume: float | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the members, rising."""
        return tuple(sorted(self._numbers))

    @property
    def values(self) -> tuple[Mapping[str, float], ...]:
        """Values of the members by objective, in order of their numbers."""
        rows = [self._losses[index] * self._signs for index in np.argsort(self._numbers)]
        return tuple(dict(zip(self._names, map(float, row), strict=True)) for row in rows)

    def add(self, number: int, values: Sequence[float]) -> None:
        """Take in a feasible trial; it joins unless a member is at least as good everywhere and better somewhere."""
        losses = np.asarray(values, dtype=float) * self._signs
        no_worse, better = (self._losses <= losses).all(axis=1), (self._losses < losses).any(axis=1)
        if (no_worse & better).any():
            return
        beaten = (losses <= self._losses).all(axis=1) & (losses < self._losses).any(axis=1)
        self._numbers = [member for member, out in zip(self._numbers, beaten, strict=True) if not out] + [number]
        self._losses = np.vstack([self._losses[~beaten], losses])
        self._volume = None

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Hypervolume up to `reference`, (m,) in the objectives' units; see `hypervolume.front_hypervolume`."""
        if self._volume is None:
            self._volume = scaled_hypervolume(self._losses, self._signs, reference)
        return self._volume
