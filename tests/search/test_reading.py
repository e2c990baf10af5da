"""Trials read straight from the tables are those that Optuna reads, and only what was asked for is read."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from forgefront.search import reading
from forgefront.search.non_dominated import non_dominated
from forgefront.search.reading import read_trials
from forgefront.search.storage import open_storage, sqlite_url

SPACE = {
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "sparsity": FloatDistribution(0.0, 0.9, step=0.05),
    "bits": IntDistribution(0, 5),
    "structure": CategoricalDistribution(["weight", "filter", None]),
}
PARAMS = {"rate": 1e-3, "sparsity": 0.35, "bits": 3, "structure": "filter"}


def every_kind() -> list[optuna.trial.FrozenTrial]:
    """A trial in each state, with everything that one can hold."""
    full = {"user_attrs": {"role": "search", "scores": {"a": {"value": 1.5}}}, "params": PARAMS, "distributions": SPACE}
    return [
        create_trial(values=[0.5, 2.0], user_attrs={"role": "control"}),
        create_trial(values=[float("inf"), float("-inf")], constraints={"a <= 1": -0.5, "b >= 2": 1.0}, **full),
        create_trial(values=[0.1, 0.2], system_attrs={"constraints": [0.5, -1.0], "other": [1]}, **full),
        create_trial(state=TrialState.PRUNED, intermediate_values={2: 0.5, 1: float("nan"), 3: float("inf")}, **full),
        create_trial(state=TrialState.FAIL, user_attrs={"reason": "the loss became infinite"}),
        create_trial(state=TrialState.RUNNING, params={"bits": 2}, distributions={"bits": SPACE["bits"]}),
        create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": PARAMS}),
    ]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = open_storage(sqlite_url(tmp_path / "study.db"), create=True)
    # another study in the same database, whose trials must not be seen
    optuna.create_study(study_name="other", storage=storage, directions=["minimize"] * 2).add_trials(every_kind())
    study = optuna.create_study(study_name="this", storage=storage, directions=["minimize", "maximize"])
    study.add_trials(every_kind())
    return study


def test_whole_trials_equal_those_of_optuna(study: optuna.Study) -> None:
    ours, theirs = read_trials(study), study.get_trials(deepcopy=False)
    assert len(ours) == 7
    assert [repr(trial) for trial in ours] == [repr(trial) for trial in theirs]


def test_a_server_is_read_as_a_file_is(postgresql) -> None:
    storage = open_storage(postgresql.database(), create=True)
    study = optuna.create_study(study_name="this", storage=storage, directions=["minimize", "maximize"])
    study.add_trials(every_kind())
    try:
        assert [repr(one) for one in read_trials(study)] == [repr(one) for one in study.get_trials(deepcopy=False)]
        assert [trial.params for trial in read_trials(study, numbers=[1, 5], params=["bits"])] == [
            {"bits": 3},
            {"bits": 2},
        ]
        assert read_trials(study, attributes=())[1].constraints == {"a <= 1": -0.5, "b >= 2": 1.0}
    finally:
        storage.engine.dispose()


def test_only_what_is_named_is_read(study: optuna.Study) -> None:
    trials = read_trials(study, attributes=["role"], params=["bits"])
    assert [trial.user_attrs for trial in trials[:2]] == [{"role": "control"}, {"role": "search"}]
    assert [trial.params for trial in trials] == [{}, {"bits": 3}, {"bits": 3}, {"bits": 3}, {}, {"bits": 2}, {}]
    assert trials[1].constraints == {"a <= 1": -0.5, "b >= 2": 1.0}
    assert trials[2].constraints == {"0": 0.5, "1": -1.0}
    assert "other" not in trials[2].system_attrs
    assert read_trials(study, params=())[1].params == {}


@pytest.mark.parametrize("wanted", [[], [4], [5, 1, 1], [3, 99]])
def test_some_trials_by_number(study: optuna.Study, wanted: list[int]) -> None:
    known = sorted({number for number in wanted if number < 7})
    assert [trial.number for trial in read_trials(study, numbers=wanted)] == known


def test_more_trials_than_one_query_holds(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    study.add_trials([create_trial(values=[1.0, float(index)]) for index in range(8)])
    assert [trial.values[1] for trial in read_trials(study, numbers=range(7, 15))] == [
        float(index) for index in range(8)
    ]


def test_another_version_of_the_tables_is_left_to_optuna(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SCHEMA", 11)
    trials = read_trials(study, numbers=[1, 3], attributes=[], params=())
    assert [(trial.number, trial.params) for trial in trials] == [(1, PARAMS), (3, PARAMS)]


def test_a_study_in_memory_is_read_as_well() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials(every_kind())
    assert [trial.number for trial in read_trials(study, numbers=[0, 6])] == [0, 6]


def test_all_is_of_one_moment_while_another_process_writes(study: optuna.Study, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        # a value and an attribute of one trial change together, always
        connection = sqlite3.connect(tmp_path / "study.db", timeout=60, isolation_level=None)
        number = 0.0
        while not stop.is_set():
            number += 1.0
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE trial_values SET value = ? WHERE value_type = 'FINITE'", (number,))
            connection.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'role'", (str(number),))
            connection.execute("COMMIT")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    pairs: list[tuple[float, object]] = []
    end = time.monotonic() + 60.0
    try:
        # until several states were seen, however slow the disk
        while len(pairs) < 15 or (len(set(pairs)) < 4 and time.monotonic() < end):
            trial = read_trials(study, numbers=[0])[0]
            pairs.append((trial.values[0], trial.user_attrs["role"]))
    finally:
        stop.set()
        writer.join()
    told = [pair for pair in pairs if pair[1] != "control"]
    assert len({value for value, _ in told}) > 1
    assert all(value == role for value, role in told)


@pytest.mark.parametrize("objectives", [1, 2, 4, 6])
@pytest.mark.parametrize("points", [0, 1, 3, 300, 700])
def test_non_dominated_points_are_those_of_the_definition(points: int, objectives: int) -> None:
    generator = np.random.default_rng([points, objectives])
    for values in (generator.integers(0, 4, (points, objectives)), generator.normal(size=(points, objectives))):
        table = values.astype(float)
        table[generator.random(table.shape) < 0.05] = np.inf
        table[generator.random(table.shape) < 0.02] = -np.inf
        beaten = [
            bool(((table <= row).all(axis=1) & (table < row).any(axis=1)).any()) if points else False for row in table
        ]
        np.testing.assert_array_equal(non_dominated(table), ~np.array(beaten, dtype=bool))
