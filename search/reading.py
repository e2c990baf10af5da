"""Trials read straight from Optuna's tables: only what is asked for, so that thousands of trials take a second.

Optuna's own reader makes an object of every row, and reads every parameter and attribute of every trial.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["read_trials", "stored_trials"]

SCHEMA = 12
"""Version of Optuna's tables that this file knows; any other is left to Optuna's own reader."""

AT_ONCE = 500
"""Trials in one query, where only some are wanted."""


def read_trials(
    study: optuna.Study,
    *,
    numbers: Collection[int] | None = None,
    attributes: Collection[str] | None = None,
    params: Collection[str] | None = None,
) -> list[FrozenTrial]:
    """Trials of a study, in order of their numbers, all as they stood at one moment.

    Args:
        study: Opened from its storage.
        numbers: Which trials; None for all. Those that the study does not have are left out.
        attributes: Which user attributes are read, None for all. Where only some are, system attributes are read for
            constraints alone.
        params: Which parameters are read, None for all.

    Returns:
        Trials with state, values, dates and constraints; for the rest only what was asked for. They hold more where
        Optuna's own reader had to be taken.
    """
    database = getattr(study._storage, "_backend", study._storage)
    if not isinstance(database, RDBStorage) or not _known():
        trials = study.get_trials(deepcopy=False)
        return trials if numbers is None else [trial for trial in trials if trial.number in set(numbers)]
    if numbers is None and attributes is None and params is None:
        return stored_trials(database, study._study_id)
    with _snapshot(database) as connection:
        if numbers is None:
            return _read(connection, study._study_id, None, attributes, params)
        wanted = sorted(set(numbers))
        chunks = (wanted[start : start + AT_ONCE] for start in range(0, len(wanted), AT_ONCE))
        return [trial for chunk in chunks for trial in _read(connection, study._study_id, chunk, attributes, params)]


def stored_trials(database: RDBStorage, study_id: int) -> list[FrozenTrial]:
    """All trials of a study with all that is stored of them, in order of their numbers."""
    if not _known():
        return sorted(database.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number)
    with _snapshot(database) as connection:
        return _read(connection, study_id, None, None, None)


def _known() -> bool:
    from optuna.storages._rdb import models

    return bool(models.SCHEMA_VERSION == SCHEMA)


@contextmanager
def _snapshot(database: RDBStorage) -> Iterator[Connection]:
    """A connection on which all queries see the same moment, whatever a coordinator writes meanwhile."""
    with database.engine.connect() as connection:
        if database.engine.name == "sqlite":
            # Python's driver begins a transaction only before it writes
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        try:
            yield connection
        finally:
            connection.rollback()


def _read(
    connection: Connection,
    study_id: int,
    numbers: Sequence[int] | None,
    attributes: Collection[str] | None,
    params: Collection[str] | None,
) -> list[FrozenTrial]:
    from optuna.storages._rdb import models
    from sqlalchemy import select

    trials = models.TrialModel.__table__
    chosen = [trials.c.study_id == study_id, *([] if numbers is None else [trials.c.number.in_(numbers)])]

    def rows(model: Any, *columns: str, only: Any = None, order: str | None = None) -> Iterator[Any]:
        table = model.__table__
        query = select(*(table.c[name] for name in ("trial_id", *columns))).join(
            trials, trials.c.trial_id == table.c.trial_id
        )
        query = query.where(*chosen) if only is None else query.where(*chosen, only)
        return iter(connection.execute(query if order is None else query.order_by(table.c[order])))

    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, objective, value, kind in rows(models.TrialValueModel, "objective", "value", "value_type"):
        values[trial_id][objective] = models.TrialValueModel.stored_repr_to_value(value, kind)

    user, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
    user_attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    system_attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    asked = None if attributes is None else user.key.in_(sorted(attributes))
    constraints = None if attributes is None else system.key.like("constraints%")
    for model, only, attrs in ((user, asked, user_attrs), (system, constraints, system_attrs)):
        for trial_id, name, text in rows(model, "key", "value_json", only=only):
            attrs[trial_id][name] = json.loads(text)

    spaces: dict[str, BaseDistribution] = {}
    found: dict[int, dict[str, tuple[Any, BaseDistribution]]] = defaultdict(dict)
    parameter = models.TrialParamModel
    if params is None or params:
        named = None if params is None else parameter.param_name.in_(sorted(params))
        columns = ("param_name", "param_value", "distribution_json")
        for trial_id, name, inner, text in rows(parameter, *columns, only=named, order="param_id"):
            space = spaces.get(text)
            if space is None:
                space = spaces[text] = json_to_distribution(text)
            found[trial_id][name] = space.to_external_repr(inner), space

    steps: dict[int, dict[int, float]] = defaultdict(dict)
    step = models.TrialIntermediateValueModel
    for trial_id, place, value, kind in rows(step, "step", "intermediate_value", "intermediate_value_type"):
        steps[trial_id][place] = step.stored_repr_to_intermediate_value(value, kind)

    parts: list[Any] = [
        trials.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    ]
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[value for _, value in sorted(values[trial_id].items())] if trial_id in values else None,
            datetime_start=_local(began),
            datetime_complete=_local(ended),
            params={name: value for name, (value, _) in found[trial_id].items()},
            distributions={name: space for name, (_, space) in found[trial_id].items()},
            user_attrs=user_attrs[trial_id],
            system_attrs=system_attrs[trial_id],
            intermediate_values=steps[trial_id],
            trial_id=trial_id,
        )
        for trial_id, number, state, began, ended in connection.execute(
            select(*parts).where(*chosen).order_by(trials.c.trial_id)
        )
    ]


def _local(moment: datetime | None) -> datetime | None:
    # stored as naive UTC, and naive local time in Optuna's own trials
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
