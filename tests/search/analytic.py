"""A small problem without training, to run, resume and kill: ``python analytic.py RUN TRIALS [WORKERS]``."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from forgefront.search.engines.base import TrialOutcome, TrialProgress
from forgefront.search.problem import Problem
from forgefront.search.run_folder import RunFolder
from forgefront.studies.conditions import parse_condition
from forgefront.studies.errors import DataError

SEED = 3
SPACE = {
    "sparsity/a": FloatDistribution(0.0, 0.9, step=0.05),
    "sparsity/b": FloatDistribution(0.0, 0.9, step=0.05),
    "bits/a": IntDistribution(0, 4),
    "bits/b": IntDistribution(0, 4),
    "strength": FloatDistribution(0.0, 1.0),
    "structure": CategoricalDistribution(["weight", "filter"]),
}
SEEDS = [
    {"sparsity/a": s, "sparsity/b": s, "bits/a": b, "bits/b": b, "strength": 0.0, "structure": "weight"}
    for s, b in ((0.3, 1), (0.6, 2), (0.9, 4))
]


@dataclass(frozen=True)
class Value:
    value: float
    standard_error: float | None = None


def measure(params: dict) -> dict:
    """Raw numbers of a configuration: an accuracy that compression costs, and what is left of the operations."""
    if not params:
        return {"accuracy": {"right": 900.0}, "macs": {"macs": 1000.0}}
    a, b = params["sparsity/a"], params["sparsity/b"]
    bits = params["bits/a"] + params["bits/b"]
    loss = 300 * a**3 + 200 * b**2 + 8 * bits**1.5 + 30 * (params["strength"] - 0.4) ** 2
    share = (1 - a) * (1 - b) if params["structure"] == "filter" else 1 - 0.5 * (a + b)
    return {"accuracy": {"right": 905.0 - loss}, "macs": {"macs": 1000.0 * share * (1 - 0.1 * bits)}}


def derive(raw: dict, control: dict) -> dict[str, Value]:
    return {
        "accuracy": Value(raw["accuracy"]["right"] / 1000.0, 0.01),
        "macs": Value(raw["macs"]["macs"] / control["macs"]["macs"]),
    }


def worst(name: str, control: float) -> float:
    return {"accuracy": 0.0, "macs": control}[name]


def problem(**changes) -> Problem:
    given = {
        "name": "analytic",
        "directions": {"accuracy": "maximize", "macs": "minimize"},
        "distributions": SPACE,
        "derive": derive,
        "worst": worst,
        "seeds": SEEDS,
        "conditions": [parse_condition("accuracy >= control - 0.4")],
        "fingerprint": {"study": {"study": {"seed": SEED}, "search": {"trials": 10}}, "environment": {"threads": 1}},
    }
    return Problem(**{**given, **changes})


class Runner:
    """Sleeps as long as ANALYTIC_SLEEP says, then publishes like a real trial."""

    def __init__(self, run_folder: Path, workers: int) -> None:
        self.folder = RunFolder(run_folder)
        self.sleep = float(os.environ.get("ANALYTIC_SLEEP", "0"))

    def __call__(self, request, report) -> TrialOutcome:
        attempt = self.folder.attempt(request.number)
        report(TrialProgress(request.number, 0, 1, 0, 1, 1.0))
        time.sleep(self.sleep * (0.5 + request.number % 3 / 2))
        result = {"number": request.number, "state": "complete", "reason": None, "params": dict(request.params)}
        result |= {"raw": measure(request.params), "seconds": self.sleep, "plan": {}, "achieved": {"totals": {}}}
        self.break_it(request, result)
        (attempt / "pid.txt").write_text(str(os.getpid()))
        self.folder.publish(attempt, request.number, result)
        return TrialOutcome(request.number, result)

    def break_it(self, request, result: dict) -> None:
        """A subclass makes a trial fail here."""


class FragileRunner(Runner):
    """Trial 2 fails, trial 3 yields no number, trial 4's process dies, trial 5's dies once."""

    def break_it(self, request, result: dict) -> None:
        if request.number == 2:
            del result["raw"]
            result |= {"state": "failed", "reason": "the loss became infinite"}
        if request.number == 3:
            result["raw"]["accuracy"]["right"] = float("nan")
        once = self.folder.path / "died-once"
        if request.number == 4 or (request.number == 5 and not once.exists()):
            once.touch()
            os.kill(os.getpid(), 9)


class UnusableRunner(Runner):
    """Cannot be made."""

    def __init__(self, run_folder: Path, workers: int) -> None:
        raise DataError("`task.data` must exist; found no data here.")


class BrokenControlRunner(Runner):
    """The control fails."""

    def break_it(self, request, result: dict) -> None:
        del result["raw"]
        result |= {"state": "failed", "reason": "the loss became infinite"}


def coordinator(path, *, trials: int, workers: int = 1, sampler=None, runner: str = "analytic:Runner", **changes):
    from forgefront.search.coordinator import Coordinator
    from forgefront.search.engines.processes import ProcessEngine
    from forgefront.search.engines.serial import SerialEngine
    from forgefront.search.samplers.nsga2 import nsga2
    from forgefront.search.stopping import StopRules

    folder = RunFolder.create(path, "")
    engine = SerialEngine(folder.path, runner=runner)
    processes = changes.pop("processes", False)
    if workers > 1 or processes:
        engine = ProcessEngine(folder.path, workers, runner=runner)
    options = {name: changes.pop(name) for name in ("url", "prepare") if name in changes}
    limits = {name: changes.pop(name) for name in ("timeout", "device_hours", "stagnation") if name in changes}
    sampler = sampler or nsga2(SPACE, SEED, population=6)
    return Coordinator(folder, problem(**changes), engine, sampler, rules=StopRules(trials, **limits), **options)


def main() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run, trials, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1

    def say(event) -> None:
        print(type(event).__name__, getattr(event, "number", ""), flush=True)

    coordinator(run, trials=trials, workers=workers).run(say)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
