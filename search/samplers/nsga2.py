"""NSGA-II (Deb et al. 2002): Optuna's, with the cures that short, resumed and warm-started searches need."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import (
    BaseCrossover,
    BLXAlphaCrossover,
    SBXCrossover,
    SPXCrossover,
    UNDXCrossover,
    UniformCrossover,
    VSBXCrossover,
)
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from .configurations import Params
from .generations import GenerationalSampler

__all__ = ["CrossoverName", "OptunaGenetic", "SeededNSGAIISampler", "crossover_of", "nsga2"]

CrossoverName = Literal["uniform", "blx-alpha", "sbx", "vsbx", "spx", "undx"]
CROSSOVERS: dict[str, type[BaseCrossover]] = {
    "uniform": UniformCrossover,
    "blx-alpha": BLXAlphaCrossover,
    "sbx": SBXCrossover,
    "vsbx": VSBXCrossover,
    "spx": SPXCrossover,
    "undx": UNDXCrossover,
}


def nsga2(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Annotated[int, Field(ge=2)] = 20,
    crossover: CrossoverName = "uniform",
    crossover_probability: Annotated[float, Field(ge=0, le=1)] = 0.9,
    mutation_probability: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> SeededNSGAIISampler:
    """Non-dominated sorting and crowding.

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation; more than Optuna's parents need (2, and 3 for ``spx`` and ``undx``).
        crossover: How two parents' numbers mix; categories are always swapped.
        crossover_probability: Else a child starts as a copy of one parent.
        mutation_probability: Chance that a variable is drawn anew, 1 / number of variables when None.

    Raises:
        ValueError: `population` is less than the crossover's number of parents.
    """
    return SeededNSGAIISampler(
        space,
        seed,
        population_size=population,
        crossover=crossover_of(crossover),
        crossover_prob=crossover_probability,
        mutation_prob=mutation_probability,
    )


def crossover_of(name: CrossoverName) -> BaseCrossover:
    """Optuna's crossover of that name."""
    with warnings.catch_warnings():
        # all but uniform have been marked experimental since Optuna 3.0
        warnings.simplefilter("ignore", ExperimentalWarning)
        return CROSSOVERS[name]()


class OptunaGenetic(GenerationalSampler):
    """How Optuna's NSGA-II and NSGA-III select and breed: mixin in front of either.

    Args:
        space: The declared search space.
        seed: The study's seed.
        options: Arguments of Optuna's sampler, but for its seed.
    """

    _elite_population_selection_strategy: Callable[[Study, list[FrozenTrial]], list[FrozenTrial]]
    _child_generation_strategy: Callable[[Study, dict[str, BaseDistribution], list[FrozenTrial]], Params]

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, **options: Any) -> None:
        with warnings.catch_warnings():
            # NSGA-III has been marked experimental since Optuna 3.2
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(**options)
        self._declare(space, seed)
        self._least = options["crossover"].n_parents

    def _select(self, study: Study, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        return self._elite_population_selection_strategy(study, trials)

    def _breeding(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> Callable[[], Params]:
        return lambda: self._child_generation_strategy(study, space, parents)

    def _least_parents(self) -> int:
        return self._least


class SeededNSGAIISampler(OptunaGenetic, NSGAIISampler):
    """Optuna's `NSGAIISampler`, seeded by trial, warm-startable and without repeats."""
