"""NSGA-II (Deb et al. 2002): Optuna's, with the cures that short, resumed and warm-started searches need."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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

from .seeded import Params, SeededSampler

__all__ = ["SeededNSGAIISampler", "nsga2"]

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
    crossover: Literal["uniform", "blx-alpha", "sbx", "vsbx", "spx", "undx"] = "uniform",
    crossover_probability: Annotated[float, Field(ge=0, le=1)] = 0.9,
    mutation_probability: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> SeededNSGAIISampler:
    """The default sampler.

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
    with warnings.catch_warnings():
        # all but uniform have been marked experimental since Optuna 3.0
        warnings.simplefilter("ignore", ExperimentalWarning)
        mix = CROSSOVERS[crossover]()
    return SeededNSGAIISampler(
        space,
        seed,
        population_size=population,
        crossover=mix,
        crossover_prob=crossover_probability,
        mutation_prob=mutation_probability,
    )


class SeededNSGAIISampler(SeededSampler, NSGAIISampler):
    """Optuna's `NSGAIISampler`, seeded by trial, warm-startable and without repeats.

    - Every trial that passes `before_trial` belongs to a generation, those with fixed parameters included; Optuna
      tags only what it has bred, so that seeds would never become parents. A trial written directly to the storage,
      as the control is, has no tag and never breeds.
    - Generation 0 is sampled here, so that it too holds no configuration twice.

    Args:
        space: The declared search space.
        seed: The study's seed.
        options: Arguments of `NSGAIISampler`, but for its seed.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, **options: Any) -> None:
        NSGAIISampler.__init__(self, **options)
        self._declare(space, seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed the trial's draws and give it its generation."""
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The completed trials of a generation that have every variable, as parents must."""
        names = {name for name, space in self._declared.items() if not space.single()}
        return [trial for trial in super().get_population(study, generation) if names <= trial.params.keys()]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, by number.

        Optuna gives them in order of merit when it selects them and by number when it reads them back, so that a run
        killed in between would breed otherwise than one that was not.
        """
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A child of the last generation's elite, or a uniform draw in generation 0, that no trial holds yet."""

        def propose() -> Params:
            child = NSGAIISampler.sample_relative(self, study, trial, search_space)
            # what mutation dropped, all of it in generation 0, is drawn uniformly
            missing = {name: space for name, space in search_space.items() if name not in child}
            drawn = self._uniform(study, trial, missing)
            return {name: child[name] if name in child else drawn[name] for name in search_space}

        return self._unseen(study, trial, search_space, propose)
