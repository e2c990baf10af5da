"""Latency of two models against each other: paired, order-shuffled rounds in one process.

Separate medians mislead on a shared machine (they made 50 % zeros look 1.7 times slower; paired, 1.0): load and clock
change between them. Both models are timed within each round, so that they share its conditions.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...studies.seeds import Seed

__all__ = ["LatencyComparison", "Timed", "TimingOptions", "compare", "wall_clock"]

# Runs a model so many times in a row and returns the seconds of one run.
Timed = Callable[[int], float]


@dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Args:
        rounds: At most so many rounds, each one sample of either model.
        minimum_rounds: At least so many, unless `maximum_seconds` are over.
        minimum_sample: Seconds of one sample; a faster model is repeated until it takes that long.
        warm_up: Seconds each model runs before the first round.
        precision: Stop once the standard error of the median ratio is below this share of it.
        maximum_seconds: Stop after so many seconds; two rounds are always made.
    """

    rounds: int = 100
    minimum_rounds: int = 15
    minimum_sample: float = 0.003
    warm_up: float = 0.05
    precision: float = 0.01
    maximum_seconds: float = 2.0


@dataclass(frozen=True)
class LatencyComparison:
    """A candidate's latency beside its reference's.

    Args:
        latency_ms: Median of the candidate's samples, milliseconds a run.
        reference_ms: The same of the reference.
        speedup: Median over rounds of reference ÷ candidate; above 1 the candidate is faster.
        speedup_iqr: Quartiles of that ratio.
        minimum_ms: The candidate's fastest sample.
        minimum_speedup: Fastest sample of the reference ÷ fastest sample of the candidate.
        rounds: Number of rounds.
        details: What it was measured with: batch size, threads, versions, load average.
    """

    latency_ms: float
    reference_ms: float
    speedup: float
    speedup_iqr: tuple[float, float]
    minimum_ms: float
    minimum_speedup: float
    rounds: int
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "speedup_iqr": list(self.speedup_iqr)}


def wall_clock(run: Callable[[], object]) -> Timed:
    """`run` timed by the wall clock, run by run; the median leaves out runs that other processes interrupted."""

    def timed(repeats: int) -> float:
        ticks = [time.perf_counter()]
        for _ in range(repeats):
            run()
            ticks.append(time.perf_counter())
        return statistics.median(end - start for start, end in itertools.pairwise(ticks))

    return timed


def compare(
    candidate: Timed, reference: Timed, *, options: TimingOptions, seed: Seed, details: dict[str, Any] | None = None
) -> LatencyComparison:
    """Time two models against each other.

    Args:
        candidate: The model in question.
        reference: What it is compared with.
        options: How long to measure.
        seed: Shuffles the order within each round.
        details: What to record beside the figures; the load average at the start is added.
    """
    models = (candidate, reference)
    load = _load_average()
    repeats = [_warm_up(model, options) for model in models]
    generator = seed.numpy()
    samples = np.empty((options.rounds, 2))
    start, rounds = time.perf_counter(), 0
    while rounds < options.rounds:
        for index in generator.permutation(2):
            samples[rounds, index] = models[index](repeats[index])
        rounds += 1
        if rounds >= 2 and time.perf_counter() - start > options.maximum_seconds:
            break
        if rounds >= options.minimum_rounds and _relative_error(_ratios(samples[:rounds])) < options.precision:
            break
    return _summary(samples[:rounds], {**(details or {}), "load_average": load, "repeats": repeats})


def _summary(samples: np.ndarray, details: dict[str, Any]) -> LatencyComparison:
    """Figures from seconds a run, (rounds, 2): candidate, reference."""
    ratios = _ratios(samples)
    low, high = np.percentile(ratios, [25, 75])
    milliseconds, fastest = np.median(samples, axis=0) * 1e3, samples.min(axis=0) * 1e3
    return LatencyComparison(
        latency_ms=float(milliseconds[0]),
        reference_ms=float(milliseconds[1]),
        speedup=float(np.median(ratios)),
        speedup_iqr=(float(low), float(high)),
        minimum_ms=float(fastest[0]),
        minimum_speedup=float(fastest[1] / fastest[0]),
        rounds=len(samples),
        details=details,
    )


def _ratios(samples: np.ndarray) -> np.ndarray:
    return samples[:, 1] / samples[:, 0]


def _relative_error(ratios: np.ndarray) -> float:
    """Standard error of the median ratio, from the quartiles, ÷ the median: 1.253·(IQR/1.349)/√n for a normal law."""
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return float(1.2533 * (high - low) / 1.349 / np.sqrt(len(ratios)) / median)


def _warm_up(model: Timed, options: TimingOptions) -> int:
    """Run `model` for a while; returns how many runs make one sample."""
    runs, fastest, end = 1, float("inf"), time.perf_counter() + options.warm_up
    while time.perf_counter() < end:
        fastest = min(fastest, model(runs))
        runs = min(2 * runs, 1024)
    return int(np.clip(np.ceil(options.minimum_sample / max(fastest, 1e-9)), 1, 10_000))


def _load_average() -> list[float] | None:
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None
