"""What asking and telling cost as a study grows: StudyRecord on SQLite, 56 variables, 4 objectives, any samplers.

The trials before are written row by row, with the generations that a genetic sampler would have given them; then the
record is opened as a resumed run opens it and trials are asked and told one after another.

    python tests/benchmarks/large_study.py [--samplers nsga2,pymoo-sms] [--sizes 100,1000,10000] [--asks 45]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from forgefront.search.problem import Problem
from forgefront.search.record import StudyRecord
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.studies.registry import resolve

METRICS = {"accuracy": "maximize", "mce": "minimize", "compression_ratio": "maximize", "latency": "minimize"}
GENETIC = "nsga2,nsga3,pymoo-nsga2,pymoo-nsga3,pymoo-sms,pymoo-agemoea2"
POPULATION, CHUNK = 20, 500


class Value:
    """A score."""

    def __init__(self, value: float) -> None:
        self.value = value


def search_space(variables: int = 56) -> dict[str, BaseDistribution]:
    """Two thirds sparsities on a grid, one third bits as an ordinal."""
    return {
        f"variable/{index}": IntDistribution(0, 5) if index % 3 == 2 else FloatDistribution(0.0, 0.9, step=0.05)
        for index in range(variables)
    }


def objectives(params: dict[str, Any]) -> list[float]:
    """Four objectives in conflict."""
    values = [float(value) for value in params.values()] or [0.0]
    quarter = max(1, len(values) // 4)
    return [float(sum(values[start : start + 2 * quarter])) for start in range(0, 4 * quarter, quarter)][:4]


def main() -> None:
    """Measure and print a line for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default=GENETIC)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--asks", type=int, default=2 * POPULATION + 5, help="trials asked and told at each size")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers, sizes = arguments.samplers.split(","), [int(size) for size in arguments.sizes.split(",")]
    print(
        f"ask + tell, milliseconds over {arguments.asks} trials: mean / worst, the processor's mean (opening the record, seconds)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for name in samplers:
                print(f"{size:6d} trials  {name:16s}", end=" ", flush=True)
                opened, seconds, own = measure(Path(folder) / f"{size}-{name}.db", name, size, arguments.asks)
                figures = f"{mean(seconds) * 1e3:7.1f} / {max(seconds) * 1e3:7.1f}  {mean(own) * 1e3:7.1f}"
                print(f"{figures}   ({opened:.1f})", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def measure(path: Path, name: str, size: int, asks: int) -> tuple[float, list[float], list[float]]:
    """Seconds to open a study of `size` trials, those of each trial asked and told after, and the processor's of these.

    Args:
        path: Database to be made.
        name: Registered sampler.
        size: Trials that the study holds before.
        asks: How many more are asked.
    """
    space = search_space()
    sampler: BaseSampler = resolve("sampler", name)(space, 0)
    problem = Problem("large", METRICS, space, derive, lambda metric, control: 1000.0)
    storage = open_storage(sqlite_url(path), create=True)
    try:
        # the control, as any search begins
        record = StudyRecord(storage, problem, sampler)
        record.tell(record.ask().number, result({}))
        fill(storage, record.study._study_id, space, size - 1, sampler)
        start = time.perf_counter()
        record = StudyRecord(storage, problem, sampler)
        assert len(record.trials) == size
        opened = time.perf_counter() - start
        seconds, own = [], []
        for _ in range(asks):
            start, busy = time.perf_counter(), time.process_time()
            trial = record.ask()
            record.tell(trial.number, result(trial.params))
            seconds.append(time.perf_counter() - start)
            own.append(time.process_time() - busy)
        return opened, seconds, own
    finally:
        storage.remove_session()
        storage.engine.dispose()
        path.unlink()


def fill(storage: RDBStorage, study: int, space: dict[str, BaseDistribution], count: int, sampler: BaseSampler) -> None:
    """Write finished trials of random params to a study that has some."""
    generator = np.random.default_rng(0)
    json_of = {name: distribution_to_json(one) for name, one in space.items()}
    key = sampler._get_generation_key() if isinstance(sampler, BaseGASampler) else None
    start = datetime(2026, 1, 1)
    with storage.engine.begin() as connection:
        table = models.TrialModel.__table__
        first = connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar_one()
        last_id = connection.execute(sqlalchemy.select(sqlalchemy.func.max(table.c.trial_id))).scalar_one()
        if isinstance(sampler, BaseGASampler):
            prefix, ids = sampler._get_parent_cache_key_prefix(), range(last_id + 1, last_id + 1 + count)
            # as if every generation had replaced its parents
            stored = [
                {
                    "study_id": study,
                    "key": f"{prefix}{generation}",
                    "value_json": json.dumps(list(ids[(generation - 1) * POPULATION : generation * POPULATION])),
                }
                for generation in range(1, (count - 1) // POPULATION + 1)
            ]
            connection.execute(sqlalchemy.insert(models.StudySystemAttributeModel), stored)
        for begin in range(0, count, CHUNK):
            trials, params, values, users, systems = [], [], [], [], []
            for index in range(begin, min(begin + CHUNK, count)):
                number, row = first + index, {"trial_id": last_id + 1 + index}
                when = start + timedelta(seconds=index)
                trials.append(
                    {**row, "number": number, "study_id": study, "state": TrialState.COMPLETE}
                    | {"datetime_start": when, "datetime_complete": when}
                )
                drawn = {name: _drawn(one, generator) for name, one in space.items()}
                params += [
                    {**row, "param_name": name, "param_value": value, "distribution_json": json_of[name]}
                    for name, value in drawn.items()
                ]
                values += [
                    {
                        **row,
                        "objective": place,
                        "value": value,
                        "value_type": models.TrialValueModel.TrialValueType.FINITE,
                    }
                    for place, value in enumerate(objectives(drawn))
                ]
                users.append({**row, "key": "role", "value_json": '"search"'})
                if key is not None:
                    systems.append({**row, "key": key, "value_json": json.dumps(index // POPULATION)})
            rows: list[tuple[Any, list[dict[str, Any]]]] = [
                (models.TrialModel, trials),
                (models.TrialParamModel, params),
                (models.TrialValueModel, values),
                (models.TrialUserAttributeModel, users),
                (models.TrialSystemAttributeModel, systems),
            ]
            for model, entries in rows:
                if entries:
                    connection.execute(sqlalchemy.insert(model), entries)


def _drawn(space: BaseDistribution, generator: np.random.Generator) -> float:
    if isinstance(space, IntDistribution):
        return float(generator.integers(space.low, space.high + 1))
    assert isinstance(space, FloatDistribution)
    return min(space.low + int(generator.integers(19)) * (space.step or 0.05), space.high)


def result(params: dict[str, Any]) -> dict[str, Any]:
    """What a trial publishes."""
    raw = {name: {"value": value} for name, value in zip(METRICS, (objectives(params) * 4)[:4], strict=True)}
    return {"state": "complete", "params": params, "raw": raw, "seconds": 1.0}


def derive(raw: Any, control: Any) -> dict[str, Any]:
    """Scores are the raw values here."""
    return {name: Value(raw[name]["value"]) for name in METRICS}


if __name__ == "__main__":
    main()
