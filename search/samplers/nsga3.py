"""NSGA-III (Deb and Jain 2014): Optuna's, for fronts of three objectives or more, spread along reference directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIIISampler
from pydantic import Field

from .nsga2 import CrossoverName, OptunaGenetic, crossover_of

__all__ = ["SeededNSGAIIISampler", "nsga3"]


def nsga3(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Annotated[int, Field(ge=2)] = 20,
    crossover: CrossoverName = "uniform",
    crossover_probability: Annotated[float, Field(ge=0, le=1)] = 0.9,
    mutation_probability: Annotated[float, Field(ge=0, le=1)] | None = None,
    divisions: Annotated[int, Field(ge=1)] = 3,
) -> SeededNSGAIIISampler:
    """Non-dominated sorting and reference directions.

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation; more than Optuna's parents need (2, and 3 for ``spx`` and ``undx``).
        crossover: How two parents' numbers mix; categories are always swapped.
        crossover_probability: Else a child starts as a copy of one parent.
        mutation_probability: Chance that a variable is drawn anew, 1 / number of variables when None.
        divisions: Of each axis between reference directions: 3 gives 20 directions for four objectives, 4 gives 35.

    Raises:
        ValueError: `population` is less than the crossover's number of parents.
    """
    return SeededNSGAIIISampler(
        space,
        seed,
        population_size=population,
        crossover=crossover_of(crossover),
        crossover_prob=crossover_probability,
        mutation_prob=mutation_probability,
        dividing_parameter=divisions,
    )


class SeededNSGAIIISampler(OptunaGenetic, NSGAIIISampler):
    """Optuna's `NSGAIIISampler`, seeded by trial, warm-startable and without repeats."""
