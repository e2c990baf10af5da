"""An Optuna storage for a study's only writer: a trial is created in one transaction and told in another.

Optuna commits once for every parameter and attribute. Here a trial that is being asked lives in memory until it is
whole, and reads never touch the database; what it holds stays an ordinary Optuna study.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..studies.errors import RunError
from .reading import stored_trials

__all__ = ["SingleWriterStorage"]

# ids of trials that no database knows yet, far above any that it will give
PROVISIONAL = 1 << 62


@dataclass
class _Mirror:
    """One study as the database holds it, and what is not written yet."""

    trials: list[FrozenTrial]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)


class SingleWriterStorage(BaseStorage):
    """An Optuna storage for the one process that writes to a study: few transactions, reads from memory.

    A trial created without a template, and every attribute set on a running trial, are held in memory: `flush` writes
    a trial that has its parameters, telling it writes the rest; each is one transaction. What is not flushed when the
    process dies was never there. An unflushed trial has a provisional id, which keeps working afterwards.

    Args:
        database: The storage to keep studies in.
    """

    def __init__(self, database: RDBStorage) -> None:
        self._database = database
        self._mirrors: dict[int, _Mirror] = {}
        self._where: dict[int, tuple[int, int]] = {}
        self._pending: dict[int, dict[str, dict[str, Any]]] = {}
        self._next_id = PROVISIONAL
        self._lock = threading.RLock()

    # studies: rare writes, so they go straight through

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._database.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        with self._lock:
            self._database.delete_study(study_id)
            self._mirrors.pop(study_id, None)
            self._where = {key: place for key, place in self._where.items() if place[0] != study_id}

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._lock:
            self._database.set_study_user_attr(study_id, key, value)
            self._mirror(study_id).user_attrs[key] = _as_stored(value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._lock:
            self._database.set_study_system_attr(study_id, key, value)
            self._mirror(study_id).system_attrs[key] = _as_stored(value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._database.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._database.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return copy.deepcopy(self._mirror(study_id).user_attrs)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return copy.deepcopy(self._mirror(study_id).system_attrs)

    def get_all_studies(self) -> list[Any]:
        return self._database.get_all_studies()

    # trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            mirror = self._mirror(study_id)
            if template_trial is not None:
                self._flush_all(study_id)
                return self._insert(study_id, len(mirror.trials), template_trial)
            trial_id, self._next_id = self._next_id, self._next_id + 1
            number = len(mirror.trials)
            trial = FrozenTrial(
                number=number,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=trial_id,
            )
            mirror.trials.append(trial)
            self._where[trial_id] = (study_id, number)
            return trial_id

    def flush(self, trial_id: int) -> int:
        """Write a trial that was asked, with its parameters and attributes, in one transaction.

        Returns:
            The id under which the database knows the trial.

        Raises:
            RunError: Another process has added trials to the study.
        """
        with self._lock:
            study_id, number = self._place(trial_id)
            for trial in self._mirrors[study_id].trials[: number + 1]:
                if trial._trial_id >= PROVISIONAL:
                    self._insert(study_id, trial.number, trial)
            return self._mirrors[study_id].trials[number]._trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            known = self._mirrors[self._place(trial_id)[0]].distributions
            if param_name in known:
                check_distribution_compatibility(known[param_name], distribution)
            if trial._trial_id < PROVISIONAL:
                self._database.set_trial_param(trial._trial_id, param_name, param_value_internal, distribution)
            known.setdefault(param_name, distribution)
            changed = copy.copy(trial)
            changed.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            changed.distributions = {**trial.distributions, param_name: distribution}
            self._put(changed)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_attribute(trial_id, "user_attrs", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_attribute(trial_id, "system_attrs", key, value)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            if trial._trial_id < PROVISIONAL:
                self._database.set_trial_intermediate_value(trial._trial_id, step, intermediate_value)
            changed = copy.copy(trial)
            changed.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
            self._put(changed)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self._lock:
            trial = self._updatable(trial_id)
            if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                return False
            changed = copy.copy(trial)
            changed.state = state
            if values is not None:
                changed.values = [float(value) for value in values]
            if state == TrialState.RUNNING:
                changed.datetime_start = datetime.now()
            if state.is_finished():
                changed.datetime_complete = datetime.now()
            if trial._trial_id >= PROVISIONAL:
                self._put(changed)
                self.flush(trial_id)
                return True
            self._update(changed)
            self._put(changed)
            return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            study_id, number = self._place(trial_id)
            return self._mirrors[study_id].trials[number]

    def trial_at(self, study_id: int, number: int) -> FrozenTrial:
        """Trial `number` of a study, without going through the others."""
        with self._lock:
            return self._mirror(study_id).trials[number]

    def reread(self, study_id: int) -> list[FrozenTrial]:
        """Take over what other processes have written, one at a time, since the study was last read here.

        Returns:
            Trials that have finished meanwhile, in order of their numbers.
        """
        with self._lock:
            known = self._mirror(study_id)
            unfinished = {trial._trial_id for trial in known.trials if not trial.state.is_finished()}
            last = max((trial._trial_id for trial in known.trials), default=-1)
            found = self._database._get_trials(study_id, None, unfinished, last)
            known.user_attrs = self._database.get_study_user_attrs(study_id)
            known.system_attrs = self._database.get_study_system_attrs(study_id)
            for trial in sorted(found, key=lambda trial: trial.number):
                if trial.number == len(known.trials):
                    known.trials.append(trial)
                known.trials[trial.number] = trial
                self._where[trial._trial_id] = (study_id, trial.number)
                for name, distribution in trial.distributions.items():
                    known.distributions.setdefault(name, distribution)
            return sorted((trial for trial in found if trial.state.is_finished()), key=lambda trial: trial.number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._lock:
            trials = self._mirror(study_id).trials
            chosen = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def remove_session(self) -> None:
        self._database.remove_session()

    # what the public part stands on

    def _mirror(self, study_id: int) -> _Mirror:
        if study_id not in self._mirrors:
            mirror = _Mirror(
                stored_trials(self._database, study_id),
                self._database.get_study_user_attrs(study_id),
                self._database.get_study_system_attrs(study_id),
            )
            for trial in mirror.trials:
                self._where[trial._trial_id] = (study_id, trial.number)
                for name, distribution in trial.distributions.items():
                    mirror.distributions.setdefault(name, distribution)
            self._mirrors[study_id] = mirror
        return self._mirrors[study_id]

    def _place(self, trial_id: int) -> tuple[int, int]:
        if trial_id not in self._where:
            for study in self._database.get_all_studies():
                self._mirror(study._study_id)
        if trial_id not in self._where:
            raise KeyError(f"No trial with trial-id {trial_id} found.")
        return self._where[trial_id]

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self.get_trial(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _put(self, trial: FrozenTrial) -> None:
        # replaced, never changed: a sampler may hold the trial that it has read
        study_id, number = self._where[trial._trial_id]
        self._mirrors[study_id].trials[number] = trial

    def _set_attribute(self, trial_id: int, kind: str, key: str, value: Any) -> None:
        with self._lock:
            trial = self._updatable(trial_id)
            stored = _as_stored(value)
            changed = copy.copy(trial)
            setattr(changed, kind, {**getattr(trial, kind), key: stored})
            self._put(changed)
            if trial._trial_id < PROVISIONAL:
                self._pending.setdefault(trial._trial_id, {}).setdefault(kind, {})[key] = stored

    def _flush_all(self, study_id: int) -> None:
        unwritten = [trial for trial in self._mirrors[study_id].trials if trial._trial_id >= PROVISIONAL]
        if unwritten:
            self.flush(unwritten[-1]._trial_id)

    def _insert(self, study_id: int, number: int, template: FrozenTrial) -> int:
        if template.state == TrialState.RUNNING and not template.intermediate_values:
            written = self._insert_running(study_id, template)
        else:
            written = self._database._create_new_trial(study_id, template)
        if written.number != number:
            raise RunError(
                f"a study must have one writer; found trial {written.number} where this coordinator was about to "
                f"write trial {number}. Is another program adding trials to the database?"
            )
        mirror = self._mirrors[study_id]
        if number == len(mirror.trials):
            mirror.trials.append(written)
        else:
            mirror.trials[number] = written
        for name, distribution in written.distributions.items():
            mirror.distributions.setdefault(name, distribution)
        self._where[written._trial_id] = (study_id, number)
        return written._trial_id

    def _insert_running(self, study_id: int, template: FrozenTrial) -> FrozenTrial:
        """What Optuna's `create_new_trial` does for a template, in 6 statements in place of 2 for each parameter."""
        import sqlalchemy
        from optuna.storages._rdb import models
        from optuna.storages._rdb.storage import _create_scoped_session

        for name, distribution in self._mirrors[study_id].distributions.items():
            if name in template.distributions:
                check_distribution_compatibility(distribution, template.distributions[name])
        with _create_scoped_session(self._database.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            row = models.TrialModel(
                study_id=study_id, number=None, state=TrialState.RUNNING, datetime_start=template.datetime_start
            )
            session.add(row)
            session.flush()
            key: dict[str, Any] = {"trial_id": row.trial_id}
            parameters = [
                {
                    **key,
                    "param_name": name,
                    "param_value": template.distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(template.distributions[name]),
                }
                for name, value in template.params.items()
            ]
            rows = {
                models.TrialParamModel: parameters,
                models.TrialUserAttributeModel: _attribute_rows(key, template.user_attrs),
                models.TrialSystemAttributeModel: _attribute_rows(key, template.system_attrs),
            }
            for model, values in rows.items():
                if values:
                    session.execute(sqlalchemy.insert(model), values)
            row.number = row.count_past_trials(session)
            session.flush()
            written = copy.copy(template)
            written.number, written._trial_id = int(row.number), int(row.trial_id)
        return written

    def _update(self, trial: FrozenTrial) -> None:
        import sqlalchemy
        from optuna.storages._rdb import models
        from optuna.storages._rdb.storage import _create_scoped_session

        kinds: dict[str, Any] = {
            "user_attrs": models.TrialUserAttributeModel,
            "system_attrs": models.TrialSystemAttributeModel,
        }
        pending = self._pending.pop(trial._trial_id, {})
        key = {"trial_id": trial._trial_id}
        values = [models.TrialValueModel.value_to_stored_repr(value) for value in trial.values or ()]
        with _create_scoped_session(self._database.scoped_session) as session:
            row = models.TrialModel.find_or_raise_by_id(trial._trial_id, session, for_update=True)
            if row.state.is_finished():
                raise RunError(f"a study must have one writer; found trial {trial.number} finished by another program.")
            for kind, attributes in pending.items():
                model = kinds[kind]
                # what was flushed with the trial may be set again
                known = (model.trial_id == trial._trial_id, model.key.in_(attributes))
                session.execute(sqlalchemy.delete(model).where(*known))
                session.execute(sqlalchemy.insert(model), _attribute_rows(key, attributes))
            if values:
                rows = [
                    {**key, "objective": index, "value": value, "value_type": value_type}
                    for index, (value, value_type) in enumerate(values)
                ]
                session.execute(sqlalchemy.insert(models.TrialValueModel), rows)
            row.state = trial.state
            row.datetime_start = trial.datetime_start
            row.datetime_complete = trial.datetime_complete


def _attribute_rows(key: dict[str, Any], attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**key, "key": name, "value_json": json.dumps(value)} for name, value in attributes.items()]


def _as_stored(value: Any) -> Any:
    # what a resumed run would read back, so that both see the same
    return json.loads(json.dumps(value))
