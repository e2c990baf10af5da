"""How long `status`, `front`, `pick` and `report` take on a large study: whole commands, as a person waits for them.

The study has 56 variables, 4 objectives, and attributes as large as a real trial's (plan of 18 layers, raw numbers of 15
corruptions), written row by row into an ordinary Optuna database on SQLite.

    python tests/benchmarks/reading.py [--trials 10000] [--folder runs/large] [--commands status,front,pick]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState

from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.studies.load import read_study_text, study_to_toml

STUDY = """
[study]
name = "large"
[task.data]
name = "digits"
validation = { from = "train", count = 300 }
[task.model]
name = "digits-cnn"
[training]
steps = 1
[space]
weight_bits = [8, 4]
[[objectives]]
name = "accuracy"
[[objectives]]
name = "mce"
[[objectives]]
name = "compression_ratio"
[[objectives]]
name = "latency"
[search]
seeds = 0
trials = %d
"""
DIRECTIONS = ["maximize", "minimize", "maximize", "minimize"]
CORRUPTIONS = [f"corruption_{index}" for index in range(15)]
LAYERS = 18
TABLES = (
    models.TrialModel,
    models.TrialValueModel,
    models.TrialParamModel,
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
)
CHUNK = 500


def make_study(folder: Path, trials: int) -> Path:
    """A finished run of `trials` trials in `folder`, the control first."""
    study = read_study_text(STUDY % trials, file="study.toml", check_parts=False)
    run = RunFolder.create(folder, study_to_toml(study))
    storage = open_storage(sqlite_url(run.database), create=True)
    record = optuna.create_study(study_name="large", storage=storage, directions=DIRECTIONS)
    record.set_metric_names([part.name for part in study.objectives])
    record.set_user_attr("reference_point", [0.0, 300.0, 1.0, 1.0])
    generator = np.random.default_rng(0)
    began = datetime(2026, 1, 1)
    space = {f"layer{layer}/{kind}": kind for layer in range(LAYERS) for kind in ("sparsity", "clusters", "bits")}
    space |= {"augmentation_strength": "sparsity", "class_weight_scale": "sparsity"}
    distributions = {"sparsity": FloatDistribution(0.0, 0.9, step=0.05), "clusters": IntDistribution(0, 4)}
    distributions["bits"] = IntDistribution(0, 5)
    texts = {kind: distribution_to_json(distribution) for kind, distribution in distributions.items()}
    with storage.engine.begin() as connection:
        study_id = connection.execute(sqlalchemy.select(models.StudyModel.study_id)).scalar_one()
    for first in range(0, trials, CHUNK):
        rows: dict[Any, list[dict[str, Any]]] = {model: [] for model in TABLES}
        for number in range(first, min(first + CHUNK, trials)):
            key = {"trial_id": number + 1}
            failed = number % 97 == 96
            params = {} if number == 0 else {name: generator.integers(0, 5) for name in space}
            rows[models.TrialModel].append(
                {
                    **key,
                    "number": number,
                    "study_id": study_id,
                    "state": TrialState.FAIL if failed else TrialState.COMPLETE,
                    "datetime_start": began + timedelta(seconds=60 * number),
                    "datetime_complete": began + timedelta(seconds=60 * number + 55),
                }
            )
            rows[models.TrialParamModel] += [
                {
                    **key,
                    "param_name": name,
                    "param_value": float(value) if space[name] != "sparsity" else 0.05 * float(value),
                    "distribution_json": texts[space[name]],
                }
                for name, value in params.items()
            ]
            values = _values(generator, number)
            attributes = {"role": "search" if number else "control", "seconds": 55.0}
            attributes |= {"reason": "the loss became infinite"} if failed else _attributes(generator, values)
            rows[models.TrialUserAttributeModel] += [
                {**key, "key": name, "value_json": json.dumps(value)} for name, value in attributes.items()
            ]
            if failed:
                continue
            rows[models.TrialValueModel] += [
                {**key, "objective": index, "value": value, "value_type": models.TrialValueModel.TrialValueType.FINITE}
                for index, value in enumerate(values)
            ]
            system = {"constraints:accuracy >= control - 0.4": 0.5 - values[0], "SeededNSGAIISampler:generation": 3}
            rows[models.TrialSystemAttributeModel] += [
                {**key, "key": name, "value_json": json.dumps(value)} for name, value in system.items()
            ]
        with storage.engine.begin() as connection:
            for model, content in rows.items():
                connection.execute(sqlalchemy.insert(model), content)
    storage.engine.dispose()
    return folder


def _values(generator: np.random.Generator, number: int) -> list[float]:
    """Accuracy, mCE, compression and latency in conflict, with noise, so that several hundred trials are on the front."""
    strength = generator.beta(1.2, 1.2, size=3) if number else np.zeros(3)
    accuracy = 0.92 - 0.5 * strength.max() ** 3 - 0.1 * strength.mean() + generator.normal(0.0, 0.004)
    mce = 100.0 + 90.0 * strength.mean() ** 2 - 12.0 * strength[0] + generator.normal(0.0, 1.0)
    ratio = 4.0 + 30.0 * strength[1] * strength.mean()
    latency = 1.0 - 0.5 * strength[2] * strength.mean()
    return [float(np.round(value, 4)) for value in (accuracy, mce, ratio, latency)]


def _attributes(generator: np.random.Generator, values: list[float]) -> dict[str, Any]:
    tally = {name: generator.integers(0, 200, size=(2, 10)).tolist() for name in CORRUPTIONS}
    errors = {name: {str(severity): float(generator.random()) for severity in range(1, 6)} for name in CORRUPTIONS}
    details = {f"detail_{index}": float(generator.random()) for index in range(30)}
    layer = {
        "pruning": {"sparsity": 0.45, "structure": "weight", "mask": "magnitude", "scope": "layer", "target": None},
        "clustering": {"clusters": 32, "per": "layer", "gradient": "mean", "lloyd_iterations": 10},
        "quantization": {"mode": "aware", "weight_bits": 8, "activation_bits": 8, "scales": "range"},
    }
    names = ("accuracy", "mce", "compression_ratio", "latency")
    return {
        "plan": {"version": 3, "layers": {f"network.layer{index}.conv": layer for index in range(LAYERS)}},
        "achieved": {"parameters": 37266, "parameters_before": 37266, "zero_weights": 16496},
        "raw": {
            "accuracy": {"correct": [50] * 10, "total": [60] * 10},
            "mce": {"errors": errors, "tally": tally, "covariance": generator.random((15, 8)).tolist()},
        },
        "scores": {
            name: {
                "value": value,
                "standard_error": 0.01 * abs(value),
                "details": {"errors": errors, **details} if name == "mce" else {"images": 300},
            }
            for name, value in zip(names, values, strict=True)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument(
        "--folder", type=Path, help="where the study is, or will be kept; by default a temporary folder"
    )
    parser.add_argument("--commands", default="status,front,pick")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "large"
        if not folder.exists():
            make_study(folder, arguments.trials)
        size = (folder / "study.db").stat().st_size / 2**20
        print(f"{folder}: a database of {size:.0f} MiB")
        for command in arguments.commands.split(","):
            extra = ["--out", str(Path(temporary) / "report.html")] if command == "report" else []
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "forgefront", command, str(folder), *extra],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            # the most that any child so far has held
            peak = after.ru_maxrss / 1024
            if done.returncode:
                sys.exit(f"{command} failed: {done.stderr}")
            print(f"{command:8s} {wall:6.2f} s ({busy:.2f} s of CPU), at most {peak:.0f} MiB")


if __name__ == "__main__":
    main()
