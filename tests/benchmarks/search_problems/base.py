"""What a benchmark problem of the search is: a space, noisy objectives, their noise-free values, and what is known before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from forgefront.search.hypervolume import hypervolume
from forgefront.search.knowledge import Knowledge

__all__ = ["BenchmarkProblem", "fingerprint", "hypervolumes", "losses", "random_params", "uniform_ladder"]

Params = Mapping[str, Any]

FILTER_PACE = 0.6
FEWER_BITS_FROM = 0.8


@dataclass(frozen=True)
class BenchmarkProblem:
    """One problem, frozen: the same name always gives the same numbers.

    Args:
        name: Its name.
        directions: Objective to ``"minimize"`` or ``"maximize"``, in order.
        space: What may vary.
        true: Params to the (m,) noise-free values, in the objectives' own units and directions.
        noisy: Params, their noise-free values (m,) and a generator to the (m,) values that one trial measures.
        errors: Measured values (m,) to the (m,) standard errors that a trial would state, which need not cover all of
            its noise; 0 where it states none.
        reference: (m,) the worst values that count for the hypervolume.
        ideal: (m,) the best values, or a bound of them.
        seeds: A count to as many distinct params to begin with.
        knowledge: What is known before anything is measured.
    """

    name: str
    directions: Mapping[str, str]
    space: Mapping[str, BaseDistribution]
    true: Callable[[Params], np.ndarray]
    reference: np.ndarray
    ideal: np.ndarray
    seeds: Callable[[int], list[dict[str, Any]]]
    noisy: Callable[[Params, np.ndarray, np.random.Generator], np.ndarray] = lambda params, values, generator: values
    errors: Callable[[np.ndarray], np.ndarray] = np.zeros_like
    knowledge: Callable[[], Knowledge] | None = None
    rungs: Callable[[Params, np.random.Generator], Mapping[float, np.ndarray]] | None = field(default=None)

    def measure(self, params: Params, generator: np.random.Generator) -> np.ndarray:
        """The (m,) values that one trial of `params` measures."""
        return self.noisy(params, self.true(params), generator)

    def known(self) -> Knowledge:
        """What a sampler may be told; of a problem of which nothing is known, the directions alone."""
        return self.knowledge() if self.knowledge else Knowledge(self.directions)


def losses(problem: BenchmarkProblem, values: np.ndarray) -> np.ndarray:
    """Values (n, m) as losses in units of the box between ideal (0) and reference (1)."""
    return (np.asarray(values, dtype=float) - problem.ideal) / (problem.reference - problem.ideal)


def hypervolumes(problem: BenchmarkProblem, values: np.ndarray) -> np.ndarray:
    """Share of the box between ideal and reference that the first 1, 2, …, n of `values` (n, m) dominate.

    Of noise-free values of everything that was tried, so that a sampler is not rewarded for lucky measurements.
    """
    points = np.clip(losses(problem, values), 0.0, None)
    bound = np.ones(points.shape[1])
    shares = np.zeros(len(points))
    kept: list[np.ndarray] = []
    for index, point in enumerate(points):
        shares[index] = shares[index - 1] if index else 0.0
        if (point < bound).all() and not any((other <= point).all() for other in kept):
            kept = [other for other in kept if not (point <= other).all()] + [point]
            shares[index] = hypervolume(np.array(kept), bound)
    return shares


def random_params(space: Mapping[str, BaseDistribution], generator: np.random.Generator) -> dict[str, Any]:
    """A uniform draw."""
    return {name: _at(distribution, float(generator.random())) for name, distribution in space.items()}


def uniform_ladder(
    space: Mapping[str, BaseDistribution], count: int, recipe: Mapping[str, Any], *, pace: float = FILTER_PACE
) -> list[dict[str, Any]]:
    """`count` uniform compressions from mild to strong, as a study begins with.

    The first has the weakest of everything; sparsity, clusters and, near the top, bits rise together.

    Args:
        space: Variables by name; what is before the slash is its kind.
        count: How many.
        recipe: Values of the variables that are no compression.
        pace: How fast sparsity rises; filters go slower than the rest, for they take operations of two layers.
    """
    rungs: list[dict[str, Any]] = []
    levels = [position / max(1, count - 1) for position in range(count)]
    for level in levels + [part / parts for parts in (8, 32, 128) for part in range(1, parts + 1)]:
        rung = {name: recipe[name] if name in recipe else _rung(name, space[name], level, pace) for name in space}
        if rung not in rungs and len(rungs) < count:
            rungs.append(rung)
    return rungs


def _rung(name: str, distribution: BaseDistribution, level: float, pace: float) -> Any:
    kind = name.partition("/")[0]
    if kind == "weight_bits":
        assert isinstance(distribution, IntDistribution)
        return min(int(level >= FEWER_BITS_FROM), distribution.high)
    position = level * (pace if kind == "sparsity" else 1.0)
    if isinstance(distribution, FloatDistribution) and distribution.step:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return round(distribution.low + int(position * steps + 0.5) * distribution.step, 6)
    assert isinstance(distribution, IntDistribution)
    return distribution.low + int(position * (distribution.high - distribution.low) + 0.5)


def _at(distribution: BaseDistribution, share: float) -> Any:
    """The value at `share` in [0, 1) of a distribution's range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    if isinstance(distribution, IntDistribution):
        return distribution.low + int(share * (distribution.high - distribution.low + 1))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return distribution.low + share * (distribution.high - distribution.low)
    steps = round((distribution.high - distribution.low) / distribution.step)
    return round(distribution.low + int(share * (steps + 1)) * distribution.step, 6)


def fingerprint(problem: BenchmarkProblem) -> str:
    """Digest of what the problem gives at fixed points, so that stored results of another version are told apart."""
    generator = np.random.default_rng(20)
    points: Sequence[Params] = [*problem.seeds(4), *(random_params(problem.space, generator) for _ in range(12))]
    found = [[f"{value:.9g}" for value in problem.measure(params, generator)] for params in points]
    told = [{name: f"{known.value:.9g}" for name, known in problem.known().forecast(point).items()} for point in points]
    box = [[f"{value:.9g}" for value in bound] for bound in (problem.reference, problem.ideal)]
    content = [problem.name, dict(problem.directions), box, [dict(point) for point in points], found, told]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
