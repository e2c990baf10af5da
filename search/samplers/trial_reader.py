"""Reads each finished trial of a study once, for a finished trial never changes and a study may hold thousands."""

from __future__ import annotations

import abc
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

__all__ = ["TrialReader"]


class TrialReader(abc.ABC):
    """What keeps a summary of a study's finished trials; it begins anew when it is shown another study.

    What a subclass keeps must not depend on the order in which trials finished, nor on a trial's being added twice.
    """

    def __init__(self) -> None:
        self._study: tuple[Any, int] | None = None
        self._seen: set[int] = set()
        self._from = 0

    def read(self, study: Study) -> list[FrozenTrial]:
        """Take in what has finished since the last call, and give the trials that have not."""
        if self._study is None or self._study[0] is not study._storage or self._study[1] != study._study_id:
            self._study, self._seen, self._from = (study._storage, study._study_id), set(), 0
            self._forget()
        trials = study._get_trials(deepcopy=False, use_cache=True)
        unfinished = []
        for trial in trials[self._from :]:
            if not trial.state.is_finished():
                unfinished.append(trial)
            elif trial.number not in self._seen:
                self._add(trial)
                self._seen.add(trial.number)
        # the first one that is not finished yet is where to look from next time
        while self._from < len(trials) and trials[self._from].number in self._seen:
            self._seen.discard(trials[self._from].number)
            self._from += 1
        return unfinished

    @abc.abstractmethod
    def _add(self, trial: FrozenTrial) -> None:
        """Take in a finished trial."""

    @abc.abstractmethod
    def _forget(self) -> None:
        """Begin anew."""
