"""What a sampler may learn from: complete trials, and what stopped ones had reached, read from the storage alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["RUNGS", "Observation", "Observations"]

RUNGS = "rungs"
"""User attribute of a trial: for each rung it reached ``{"fraction": …, "values": {objective: value}}``."""


@dataclass(frozen=True)
class Observation:
    """One trial as a sampler sees it.

    Args:
        number: The trial's number.
        params: Its params.
        losses: (m,) floats, every objective signed so that less is better; NaN where a stopped trial has no value.
        errors: (m,) standard errors of the losses, 0 where none is stored.
        violation: Sum of what its constraints are exceeded by, 0 for a feasible one.
        fraction: Share of the training after which the losses were measured; 1 for a complete trial.
        rungs: Losses at the rungs it reached, by fraction.
    """

    number: int
    params: Mapping[str, Any]
    losses: np.ndarray
    errors: np.ndarray
    violation: float = 0.0
    fraction: float = 1.0
    rungs: Mapping[float, np.ndarray] | None = None


class Observations:
    """Observations of one study, each trial read once: those that are finished never change.

    The control has no params and is left out, as are failed trials and those that reached no rung.
    """

    def __init__(self) -> None:
        self._study: tuple[Any, int] | None = None
        self._known: dict[int, Observation | None] = {}
        self._from = 0

    def of(self, study: optuna.Study) -> list[Observation]:
        """All observations, in order of the trials' numbers.

        Args:
            study: A study of one objective or more.
        """
        # a mapping of another study is of no use; ids are the storage's own
        key = (study._storage, study._study_id)
        if self._study is None or self._study[0] is not key[0] or self._study[1] != key[1]:
            self._study, self._known, self._from = key, {}, 0
        trials = study._get_trials(deepcopy=False, use_cache=True)
        names = study.metric_names or [str(index) for index in range(len(study.directions))]
        signs = np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in study.directions])
        for trial in trials[self._from :]:
            if trial.state.is_finished() and trial.number not in self._known:
                self._known[trial.number] = _observation(trial, names, signs)
        # the first one that is not finished yet is where to look from next time
        while self._from < len(trials) and trials[self._from].number in self._known:
            self._from += 1
        return [seen for _, seen in sorted(self._known.items()) if seen is not None]


def _observation(trial: FrozenTrial, names: list[str], signs: np.ndarray) -> Observation | None:
    if not trial.params or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    rungs = {
        float(rung["fraction"]): signs * np.array([rung["values"].get(name, np.nan) for name in names], dtype=float)
        for rung in trial.user_attrs.get(RUNGS, ())
    }
    scores = trial.user_attrs.get("scores", {})
    errors = np.array([float(scores.get(name, {}).get("standard_error") or 0.0) for name in names])
    violation = sum(max(0.0, value) for value in trial.constraints.values())
    if trial.state == TrialState.COMPLETE:
        losses = signs * np.array(trial.values, dtype=float)
        return Observation(trial.number, trial.params, losses, errors, violation, 1.0, rungs)
    if not rungs:
        return None
    reached = max(rungs)
    return Observation(trial.number, trial.params, rungs[reached], errors, violation, reached, rungs)
