"""pymoo's genetic algorithms by name: NSGA-II, NSGA-III, SMS-EMOA and AGE-MOEA-II, on variables of any kind."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from optuna.distributions import BaseDistribution
from pydantic import Field

from .age_moea2 import survival_scores
from .pymoo_sampler import PymooSampler

__all__ = ["pymoo_agemoea2", "pymoo_nsga2", "pymoo_nsga3", "pymoo_sms", "reference_directions"]

with warnings.catch_warnings():
    # a library that pymoo imports changes the filters of the whole process
    from pymoo.algorithms.moo.nsga2 import RankAndCrowding, binary_tournament
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival, comp_by_cv_then_random
    from pymoo.algorithms.moo.sms import LeastHypervolumeContributionSurvival, cv_and_dom_tournament
    from pymoo.core.survival import Survival
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    from pymoo.util.ref_dirs import get_reference_directions

Population = Annotated[int, Field(ge=4)]
Eta = Annotated[float, Field(gt=0)]


def pymoo_nsga2(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Population = 20,
    crossover_eta: Eta = 15.0,
    mutation_eta: Eta = 20.0,
) -> PymooSampler:
    """NSGA-II (Deb et al. 2002).

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation.
        crossover_eta: Distribution index of the crossover; the larger, the nearer children are to their parents.
        mutation_eta: The same of the mutation.
    """
    return PymooSampler(
        space,
        seed,
        population=population,
        survival=lambda objectives: RankAndCrowding(),
        tournament=binary_tournament,
        crossover_eta=crossover_eta,
        mutation_eta=mutation_eta,
    )


def pymoo_nsga3(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Population = 20,
    divisions: Annotated[int, Field(ge=1)] | None = None,
    crossover_eta: Eta = 30.0,
    mutation_eta: Eta = 20.0,
) -> PymooSampler:
    """NSGA-III (Deb and Jain 2014).

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation.
        divisions: Of each axis between reference directions; as many as give no more directions than trials when None.
        crossover_eta: Distribution index of the crossover; the larger, the nearer children are to their parents.
        mutation_eta: The same of the mutation.
    """

    def survival(objectives: int) -> Any:
        return ReferenceDirectionSurvival(reference_directions(objectives, population, divisions))

    return PymooSampler(
        space,
        seed,
        population=population,
        survival=survival,
        tournament=comp_by_cv_then_random,
        crossover_eta=crossover_eta,
        mutation_eta=mutation_eta,
    )


def pymoo_sms(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Population = 20,
    crossover_eta: Eta = 15.0,
    mutation_eta: Eta = 20.0,
) -> PymooSampler:
    """SMS-EMOA (Beume et al. 2007): drops, one by one, whoever adds least to the hypervolume.

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation.
        crossover_eta: Distribution index of the crossover; the larger, the nearer children are to their parents.
        mutation_eta: The same of the mutation.
    """
    return PymooSampler(
        space,
        seed,
        population=population,
        # a single objective has no hypervolume to share
        survival=lambda objectives: LeastHypervolumeContributionSurvival() if objectives > 1 else RankAndCrowding(),
        tournament=cv_and_dom_tournament,
        crossover_eta=crossover_eta,
        mutation_eta=mutation_eta,
    )


def pymoo_agemoea2(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    population: Population = 20,
    crossover_eta: Eta = 15.0,
    mutation_eta: Eta = 20.0,
) -> PymooSampler:
    """AGE-MOEA-II (Panichella 2022): estimates the front's geometry and spreads along it.

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation.
        crossover_eta: Distribution index of the crossover; the larger, the nearer children are to their parents.
        mutation_eta: The same of the mutation.
    """
    return PymooSampler(
        space,
        seed,
        population=population,
        survival=lambda objectives: AGEMOEA2Survival(),
        tournament=binary_tournament,
        crossover_eta=crossover_eta,
        mutation_eta=mutation_eta,
    )


def reference_directions(objectives: int, population: int, divisions: int | None = None) -> np.ndarray:
    """(directions, objectives) points spread evenly on the simplex (Das and Dennis 1998).

    Args:
        objectives: Number of objectives m.
        population: As many directions at most, where `divisions` is None.
        divisions: Of each axis, p: there are (m + p - 1 choose p) directions.
    """
    if divisions is None:
        divisions = 1
        while objectives > 1 and math.comb(objectives + divisions, divisions + 1) <= population:
            divisions += 1
    return np.asarray(get_reference_directions("das-dennis", objectives, n_partitions=divisions))


class AGEMOEA2Survival(Survival):
    """pymoo's `AGEMOEA2Survival` without numba.

    It cuts the first front as pymoo's does. A later one is cut by nearness to the ideal point, as the paper has it;
    pymoo leaves the scores of the front that is cut at zero, and so keeps whoever comes last.
    """

    def __init__(self) -> None:
        super().__init__(filter_infeasible=True)

    def _do(self, problem: Any, pop: Any, *args: Any, n_survive: int | None = None, **kwargs: Any) -> Any:
        losses = pop.get("F").astype(float)
        fronts = NonDominatedSorting().do(losses, n_stop_if_ranked=n_survive)
        first, ideal = losses[fronts[0]], losses[fronts[0]].min(axis=0)
        scores, normalization, power = survival_scores(first)
        survivors: list[int] = []
        for rank, front in enumerate(fronts):
            if rank > 0:
                away = np.abs(losses[front] - ideal) / normalization
                scores = 1.0 / np.maximum((away**power).sum(axis=1) ** (1.0 / power), 1e-12)
            pop[front].set("rank", rank, "crowding", scores)
            order = np.argsort(-scores, kind="stable")
            survivors.extend(front[order][: (n_survive or len(pop)) - len(survivors)])
        return pop[survivors]
