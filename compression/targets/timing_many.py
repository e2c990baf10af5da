"""Latency of many models together: every round times each of them once, in an order of its own.

What `timing` does for two. A round's load and clock are common to its samples and are taken out as one factor a round,
so that a model's figure does not depend on which rounds it was lucky in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...studies.seeds import Seed
from .exclusive import alone
from .timing import Timed

if TYPE_CHECKING:
    from .base import Artefact, Target

__all__ = ["common_figures", "ready", "time_together"]


def time_together(
    models: Sequence[Timed],
    *,
    seed: Seed,
    seconds: float,
    precision: float = 0.01,
    minimum_sample: float = 0.002,
    minimum_rounds: int = 5,
    rounds: int = 100,
) -> np.ndarray:
    """Samples (rounds, models), seconds a run.

    Args:
        models: What to time; each is warmed up first.
        seed: Shuffles every round.
        seconds: Begin no further round after so many, but make `minimum_rounds` in any case.
        precision: Stop once nine in ten figures have a relative standard error below this.
        minimum_sample: Seconds of one sample; a faster model is repeated until it takes that long.
        minimum_rounds: At least so many.
        rounds: At most so many.
    """
    start, generator = time.perf_counter(), seed.numpy()
    repeats = [_repeats(model, minimum_sample) for model in models]
    samples: list[np.ndarray] = []
    while len(samples) < rounds:
        if len(samples) >= minimum_rounds:
            spent = time.perf_counter() - start
            if spent * (1.0 + 1.0 / len(samples)) > seconds:
                break
            if np.quantile(_relative_errors(np.stack(samples)), 0.9) < precision:
                break
        row = np.empty(len(models))
        for index in generator.permutation(len(models)):
            row[index] = models[index](repeats[index])
        samples.append(row)
    return np.stack(samples)


def common_figures(samples: np.ndarray) -> np.ndarray:
    """One figure a model: the median over rounds, each round's common factor taken out.

    Args:
        samples: (rounds, models), positive.

    Returns:
        (models,), in the samples' unit.
    """
    figures: np.ndarray = np.exp(np.median(_steady(samples), axis=0))
    return figures


def _steady(samples: np.ndarray) -> np.ndarray:
    """Logarithms without what a round did to all of its samples."""
    logarithms = np.log(samples)
    apart = logarithms - np.median(logarithms, axis=0)
    steady: np.ndarray = logarithms - np.median(apart, axis=1, keepdims=True)
    return steady


def _relative_errors(samples: np.ndarray) -> np.ndarray:
    """Standard error of each median, from the quartiles, as a share of it: 1.253·(IQR/1.349)/√n for a normal law."""
    low, high = np.percentile(_steady(samples), [25, 75], axis=0)
    errors: np.ndarray = 1.2533 * (high - low) / 1.349 / np.sqrt(len(samples))
    return errors


def _repeats(model: Timed, minimum_sample: float) -> int:
    """Runs of one sample; the first call, which may allocate or compile, does not count."""
    model(1)
    fastest = min(model(runs) for runs in (1, 2, 4, 8))
    return int(np.clip(np.ceil(minimum_sample / max(fastest, 1e-9)), 1, 10_000))


@contextmanager
def ready(target: Target, artefacts: Sequence[Artefact], *, seed: Seed) -> Iterator[list[Timed]]:
    """Each artefact loaded on the target with an input of its own, while no one else measures there.

    A target without `timed(artefact, images) -> Timed`, which can only compare two artefacts of one input shape
    (`Target.time`), is asked for each by itself.

    Args:
        target: What exported them, in this process.
        artefacts: They may differ in their inputs.
        seed: Draws the inputs.
    """
    own = getattr(target, "timed", None)
    if own is None:
        yield [partial(_alone, target, artefact, seed) for artefact in artefacts]
        return
    import torch

    device = str(getattr(target, "device", "cpu"))
    current = torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
    with alone(device), current, torch.inference_mode():
        generator, batch_size = seed.numpy(), getattr(target, "batch_size", 1)
        shapes = [tuple(artefact.details["input_shape"]) for artefact in artefacts]
        images = [generator.random((batch_size, *shape), dtype=np.float32) for shape in shapes]
        yield [own(artefact, batch) for artefact, batch in zip(artefacts, images, strict=True)]


def _alone(target: Target, artefact: Artefact, seed: Seed, repeats: int) -> float:
    del repeats  # the target has its own rule
    return target.time(artefact, artefact, seed=seed).latency_ms / 1e3
