"""What the coordinator and an engine say to each other: a trial's request, its progress, its outcome."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "REAL_TRIALS",
    "Engine",
    "Report",
    "Standing",
    "TrialOutcome",
    "TrialProgress",
    "TrialRequest",
    "TrialRunner",
    "failure",
    "load_runner",
    "takes_timeout",
    "threads_per_worker",
]

REAL_TRIALS = "forgefront.search.trial_run:Trials"
"""What engines run unless told otherwise."""


@dataclass(frozen=True)
class Standing:
    """What the study knew when a trial was handed out, which early stopping and repeats decide by.

    Args:
        front: Values of the feasible non-dominated trials, by objective; empty unless the study repeats trainings.
        rungs: For each rung of early stopping, in order, the values there of every trial that had reached it,
            None where one is not a finite number.
    """

    front: tuple[Mapping[str, float], ...] = ()
    rungs: tuple[tuple[Mapping[str, float | None], ...], ...] = ()


@dataclass(frozen=True)
class TrialRequest:
    """One trial to run.

    Args:
        number: The trial's number.
        params: The flat params; empty for the control.
        role: ``"control"``, ``"seed"`` or ``"search"``.
        standing: What it is compared with while it runs.
        halvings: How often its batch is halved from the start, because an attempt with a larger one ran out of memory.
    """

    number: int
    params: Mapping[str, Any] = field(default_factory=dict)
    role: str = "search"
    standing: Standing = field(default_factory=Standing)
    halvings: int = 0


@dataclass(frozen=True)
class TrialProgress:
    """How far a running trial is; `loss` is None until there is one."""

    number: int
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial: the content of its result.json."""

    number: int
    result: dict[str, Any]


Report = Callable[[TrialProgress], None]


class TrialRunner(Protocol):
    """Runs trials one after the other in one process; made once in each, as ``Runner(run_folder, workers)``.

    It returns every failure of a trial as an outcome, and has stored the result in the run folder before it returns.
    """

    def __call__(self, request: TrialRequest, report: Report) -> TrialOutcome:
        """Run one trial."""
        ...


class Engine(Protocol):
    """Runs trials somewhere; the coordinator is its only caller.

    Args:
        run_folder: The run's folder.
        workers: How many trials may run at the same time.
        timeout: By keyword, and only where the study sets `search.trial_timeout`: seconds after which a trial is ended
            and has failed. See `takes_timeout`.
    """

    workers: int

    def submit(self, request: TrialRequest) -> None:
        """Take a trial; never more than `workers` are out at once."""
        ...

    def poll(self, timeout: float, report: Report) -> list[TrialOutcome]:
        """Wait up to `timeout` seconds for trials to finish (a serial engine: run one to its end)."""
        ...

    def stop(self) -> None:
        """Abandon what runs and give everything back; may be called twice."""
        ...


def failure(request: TrialRequest, reason: str, *, seconds: float) -> TrialOutcome:
    """The outcome of a trial that could not say itself why it failed.

    Args:
        request: The trial.
        reason: Why it failed.
        seconds: What all attempts at it took together.
    """
    result = {"number": request.number, "state": "failed", "reason": reason, "params": dict(request.params)}
    return TrialOutcome(request.number, {**result, "seconds": seconds})


def takes_timeout(make: Callable[..., Any]) -> bool:
    """Whether an engine, or what makes one, can be told `search.trial_timeout`."""
    parameters = inspect.signature(make).parameters.values()
    return any(one.name == "timeout" or one.kind is one.VAR_KEYWORD for one in parameters)


def load_runner(reference: str, run_folder: Path, workers: int) -> TrialRunner:
    """Make the runner that ``"module:attribute"`` names."""
    module, _, attribute = reference.partition(":")
    runner: TrialRunner = getattr(importlib.import_module(module), attribute)(run_folder, workers)
    return runner


def threads_per_worker(workers: int) -> int:
    """CPU threads for each of `workers` processes, at least one, of the cores that this process may use.

    What ``OMP_NUM_THREADS`` says counts where it is set: threads that find no core of their own wait for each other.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
