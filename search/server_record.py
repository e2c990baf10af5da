"""A study on a server: read again after others have written, and written again after a connection was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from .non_dominated import feasible
from .observations import RUNGS
from .patience import patiently
from .problem import Problem
from .record import StudyRecord

__all__ = ["PatientRecord", "ServerRecord"]


class ServerRecord(StudyRecord):
    """A record of a study that several processes write to, one at a time."""

    def __init__(self, database: RDBStorage, problem: Problem, sampler: BaseSampler) -> None:
        self._opened = (database, problem, sampler)
        super().__init__(*self._opened)

    def refresh(self) -> None:
        """Take over what others have written since."""
        for trial in self._storage.reread(self.study._study_id):
            self._take_rungs(trial.user_attrs.get(RUNGS, ()))
            if trial.state == TrialState.COMPLETE and feasible(trial):
                self._front.add(trial.number, trial.values)

    def reopen(self) -> None:
        """Read everything anew, after a write of unknown outcome."""
        super().__init__(*self._opened)

    def write_attribute(self, number: int, key: str, value: Any) -> None:
        """Set a user attribute of a running trial, at once."""
        database, _, _ = self._opened
        database.set_trial_user_attr(self._trial(number)._trial_id, key, value)


class PatientRecord(ServerRecord):
    """The record of a coordinator, which waits for a server that has gone.

    Args:
        database: Where the study is.
        problem: The search.
        sampler: An Optuna sampler.
        renew: Takes the study's lock again on a new connection; raises when someone else has it.
        say: Told when the server goes and when it is back.
    """

    def __init__(
        self,
        database: RDBStorage,
        problem: Problem,
        sampler: BaseSampler,
        *,
        renew: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._renew = renew
        self._say = say
        super().__init__(database, problem, sampler)

    def ask(self) -> FrozenTrial:
        """As `StudyRecord.ask`; a trial that was written just when the connection was lost is the one."""
        before = len(self.trials)

        def ask() -> FrozenTrial:
            return self.trials[before] if len(self.trials) > before else super(PatientRecord, self).ask()

        return patiently(ask, self._recover, say=self._say)

    def tell(self, number: int, result: Mapping[str, Any]) -> FrozenTrial:
        """As `StudyRecord.tell`; a trial that was told just when the connection was lost is told."""

        def tell() -> FrozenTrial:
            trial = self._trial(number)
            return trial if trial.state.is_finished() else super(PatientRecord, self).tell(number, result)

        return patiently(tell, self._recover, say=self._say)

    def _recover(self) -> None:
        self._renew()
        self.reopen()
