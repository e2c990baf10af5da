"""What the search itself costs a trial: ask, tell, storage and logs, against untouched Optuna on plain SQLite.

Both use NSGA-II on the same space and the same objectives, which take no time. They take turns, trial by trial, so that a
busy machine slows both. Ours is the whole coordinator: result.json (synced to disk), events and TensorBoard included.

    python tests/benchmarks/search_overhead.py [--trials 200] [--variables 56]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from forgefront.search.coordinator import Coordinator
from forgefront.search.engines.base import TrialOutcome, TrialRequest
from forgefront.search.engines.serial import SerialEngine
from forgefront.search.events import StudyStarted, TrialFinished
from forgefront.search.problem import Problem
from forgefront.search.run_folder import RunFolder
from forgefront.search.samplers.nsga2 import nsga2
from forgefront.search.stopping import StopRules
from forgefront.search.tensorboard import write_trial

METRICS = {"accuracy": "maximize", "mce": "minimize", "compression_ratio": "maximize", "latency": "minimize"}
POPULATION = 20


@dataclass(frozen=True)
class Value:
    """A score."""

    value: float


def search_space(variables: int) -> dict[str, BaseDistribution]:
    """Two thirds sparsities on a grid, one third bits as an ordinal."""
    return {
        f"variable/{index}": IntDistribution(0, 5) if index % 3 == 2 else FloatDistribution(0.0, 0.9, step=0.05)
        for index in range(variables)
    }


def objectives(params: dict[str, Any]) -> list[float]:
    """Four objectives in conflict."""
    values = list(params.values()) or [0.0]
    quarter = max(1, len(values) // 4)
    return [float(sum(values[start : start + 2 * quarter])) for start in range(0, 4 * quarter, quarter)][:4]


class InstantRunner:
    """Publishes a result as large as a real trial's, at once."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, request: TrialRequest, report: Any) -> TrialOutcome:
        values = objectives(dict(request.params))
        table = {f"corruption-{index}": [0.123456789] * 5 for index in range(15)}
        raw = {name: {"value": value, "table": table} for name, value in zip(METRICS, values, strict=True)}
        layers = {f"layer-{index}": {"pruning": {"sparsity": 0.5}, "bits": 8} for index in range(20)}
        history = [{"epoch": epoch, "loss": 1.0 / (epoch + 1), "accuracy": 0.5} for epoch in range(10)]
        result = {
            "number": request.number,
            "state": "complete",
            "params": dict(request.params),
            "plan": {"layers": layers},
            "raw": raw,
            "achieved": {"totals": {"macs": 1}},
            "history": history,
            "seconds": 0.0,
        }
        self.folder.publish(self.folder.attempt(request.number), request.number, result)
        return TrialOutcome(request.number, result)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--variables", type=int, default=56)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        ours, untouched, logs = measure(Path(name), arguments.trials, arguments.variables)
    print(
        f"{arguments.trials} trials, {arguments.variables} variables, {len(METRICS)} objectives, milliseconds a trial:"
    )
    for label, seconds in (("forgefront", ours), ("  of it TensorBoard", logs), ("untouched Optuna", untouched)):
        late = seconds[-len(seconds) // 10 :]
        figures = (
            f"mean {mean(seconds) * 1e3:6.1f}  median {median(seconds) * 1e3:6.1f}  last tenth {mean(late) * 1e3:6.1f}"
        )
        print(f"  {label:20s} {figures}  worst {max(seconds) * 1e3:6.1f}")
    print(f"  untouched ÷ forgefront: {mean(untouched) / mean(ours):.1f}")


def measure(folder: Path, trials: int, variables: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds a trial: of ours, of untouched Optuna, of ours for TensorBoard."""
    space = search_space(variables)
    plain = optuna.create_study(
        storage=f"sqlite:///{folder / 'plain.db'}",
        directions=list(METRICS.values()),
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0),
    )
    ours: list[float] = []
    untouched: list[float] = []
    logs: list[float] = []
    paused = time.perf_counter()

    def on_event(event: Any) -> None:
        nonlocal paused
        if isinstance(event, StudyStarted):
            # the first trial's import of torch for TensorBoard is not the search's
            write_trial(folder / "warm", 0, history=[], scores={}, params={}, role="search")
            paused = time.perf_counter()
        if isinstance(event, TrialFinished):
            start = time.perf_counter()
            write_trial(
                folder / "run" / "tensorboard",
                event.number,
                history=event.history,
                scores=event.values,
                params=event.params,
                role=event.role,
            )
            now = time.perf_counter()
            logs.append(now - start)
            ours.append(now - paused)
            one_plain_trial(plain, space)
            paused = time.perf_counter()
            untouched.append(paused - now)

    run = RunFolder.create(folder / "run", "")
    engine = SerialEngine(run.path)
    engine.runner = InstantRunner(run)
    problem = Problem("overhead", METRICS, space, derive, lambda name, control: 1000.0 if name != "accuracy" else -1.0)
    Coordinator(run, problem, engine, nsga2(space, 0, population=POPULATION), rules=StopRules(trials)).run(on_event)
    return ours, untouched, logs


def derive(raw: Any, control: Any) -> dict[str, Value]:
    """Scores are the raw values here."""
    return {name: Value(raw[name]["value"]) for name in METRICS}


def one_plain_trial(study: optuna.Study, space: dict[str, BaseDistribution]) -> None:
    """What anyone would write with Optuna alone, with the same attributes."""
    trial = study.ask()
    for name, distribution in space.items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)
    for attribute in ("role", "plan", "scores", "raw", "seconds"):
        trial.set_user_attr(attribute, {"value": 1.0})
    study.tell(trial, objectives(trial.params))


if __name__ == "__main__":
    main()
