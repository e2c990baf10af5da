"""The hypervolume of a study's front over its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from .hypervolume import HYPERVOLUME, front_hypervolume
from .non_dominated import feasible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_history", "history_by_trial"]

POINTS = 120
"""Trials at which the hypervolume is computed, where trials do not have it stored."""


def history_by_trial(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], reference: Sequence[float]
) -> list[tuple[int, float]]:
    """Number of a trial and the hypervolume of the front of all trials up to it, rising.

    Args:
        trials: Of a study, in order of their numbers; those with the attribute ``hypervolume`` are taken at their word,
            if all feasible ones have it. Otherwise it is computed, for long studies at some trials only.
        directions: The study's directions.
        reference: The study's reference point.
    """
    scored = [trial for trial in trials if feasible(trial)]
    if not scored:
        return []
    if all(HYPERVOLUME in trial.user_attrs for trial in scored):
        volumes = [float(trial.user_attrs[HYPERVOLUME]) for trial in scored]
        # trials may be told in another order than that of their numbers
        return [
            (trial.number, float(volume)) for trial, volume in zip(scored, np.maximum.accumulate(volumes), strict=True)
        ]
    last = np.unique(np.linspace(0, len(scored) - 1, min(POINTS, len(scored))).round().astype(int))
    return [(scored[index].number, front_hypervolume(scored[: index + 1], directions, reference)) for index in last]


def draw_history(axes: Axes, history: Sequence[tuple[int, float]]) -> None:
    """Hypervolume over trials, as steps."""
    from matplotlib.ticker import MaxNLocator

    numbers, volumes = zip(*history, strict=True)
    axes.step(numbers, volumes, where="post", color="#c2410c", linewidth=1.8)
    axes.plot(numbers[-1:], volumes[-1:], "o", color="#c2410c", markersize=5)
    axes.fill_between(numbers, volumes, min(volumes), step="post", color="#c2410c", alpha=0.1)
    axes.set_xlabel("trial")
    axes.set_ylabel("hypervolume")
    axes.set_title("hypervolume of the front")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
