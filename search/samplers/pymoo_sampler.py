"""A genetic algorithm of pymoo as an Optuna sampler: its survival and mixed-variable mating, Optuna's record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .configurations import Params
from .encoding import Encoding, encoding_of
from .generations import GenerationalSampler, by_rung
from .seeded import OwnSampler

__all__ = ["PymooSampler"]

Survival = Callable[[int], Any]
Tournament = Callable[..., np.ndarray]


class PymooSampler(OwnSampler, GenerationalSampler, BaseGASampler):
    """Breeds with simulated binary crossover and polynomial mutation, by uniform crossover where values have no order.

    Nothing of pymoo's outlives a trial: populations are made from the storage, so that a resumed search goes on as it
    would have.

    Args:
        space: The declared search space.
        seed: The study's seed.
        population: Trials in a generation.
        survival: From the number of objectives to pymoo's survival.
        tournament: Which of two parents wins: pymoo's comparison of the population's indices (tournaments, 2).
        crossover_eta: Distribution index of the crossover; the larger, the nearer children are to their parents.
        mutation_eta: The same of the mutation.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        seed: int,
        *,
        population: int,
        survival: Survival,
        tournament: Tournament,
        crossover_eta: float,
        mutation_eta: float,
    ) -> None:
        BaseGASampler.__init__(self, population)
        self._declare(space, seed)
        self._survival = survival
        self._tournament = tournament
        self._etas = crossover_eta, mutation_eta

    def _select(self, study: Study, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        size = min(len(trials), self.population_size or len(trials))
        generator = self._selection_seed(generation).numpy()
        survivors = self._survive(study, _population(study, trials), size, generator)
        return [trials[individual.data["index"]] for individual in survivors]

    def _survive(self, study: Study, population: Any, size: int, generator: np.random.Generator) -> Any:
        from pymoo.core.problem import Problem

        problem = Problem(n_obj=len(study.directions), n_ieq_constr=1)
        with warnings.catch_warnings():
            # normalization of a degenerate front silences the whole process
            return self._survival(len(study.directions)).do(problem, population, n_survive=size, random_state=generator)

    def _breeding(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> Callable[[], Params]:
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem

        encodings = {name: encoding_of(one) for name, one in space.items()}
        complete = [parent for parent in parents if parent.state == TrialState.COMPLETE]
        stopped = by_rung(study, [parent for parent in parents if parent.state == TrialState.PRUNED])
        generator = self._seed(trial).child("breeding").numpy()
        # ranks and crowding among the parents, which the tournament compares
        population = _population(study, complete, stopped)
        self._survive(study, population, len(population), self._seed(trial).child("ranks").numpy())
        for individual in population:
            parent = (complete + stopped)[individual.data["index"]]
            individual.X = {name: _coded(one, parent.params[name]) for name, one in encodings.items()}
        problem = Problem(vars={name: _variable(one) for name, one in encodings.items()}, n_obj=len(study.directions))
        mating = _mating(self._tournament, *self._etas)

        def breed() -> Params:
            children = mating._do(
                problem, Population.create(*population), 1, random_state=generator, algorithm=_Host(generator)
            )
            return {name: one.decode(children[0].X[name]) for name, one in encodings.items()}

        return breed


class _Host:
    """What pymoo's tournaments ask of the algorithm that runs them."""

    tournament_type = "comp_by_rank_and_crowding"

    def __init__(self, generator: np.random.Generator) -> None:
        self.random_state = generator


def _population(study: Study, complete: list[FrozenTrial], stopped: list[FrozenTrial] | None = None) -> Any:
    """A pymoo population; trials that were stopped have no values and are behind all others, in their order."""
    from pymoo.core.population import Population

    signs = np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in study.directions])
    losses = [signs * np.array(trial.values, dtype=float) for trial in complete]
    violations = [sum(max(0.0, value) for value in trial.constraints.values()) for trial in complete]
    worst = max((value for value in violations if np.isfinite(value)), default=0.0)
    for place in range(len(stopped or [])):
        losses.append(np.max(losses, axis=0) if losses else np.zeros(len(signs)))
        violations.append(worst + 1.0 + place)
    population = Population.new(F=np.array(losses), G=np.array(violations)[:, None])
    for index, individual in enumerate(population):
        individual.data["index"] = index
        # for those that the survival does not rank
        individual.set("rank", len(population))
        individual.set("crowding", 0.0)
    return population


def _variable(encoding: Encoding) -> Any:
    from pymoo.core.variable import Choice, Integer, Real

    if encoding.kind == "choice":
        return Choice(options=list(range(int(encoding.high) + 1)))
    if encoding.kind == "grid":
        return Integer(bounds=(int(encoding.low), int(encoding.high)))
    return Real(bounds=(encoding.low, encoding.high))


def _coded(encoding: Encoding, value: Any) -> Any:
    code = encoding.encode(value)
    return code if encoding.kind == "real" else int(code)


def _mating(tournament: Tournament, crossover_eta: float, mutation_eta: float) -> Any:
    from pymoo.core.mixed import MixedVariableMating
    from pymoo.core.variable import Choice, Integer, Real
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.mutation.rm import ChoiceRandomMutation
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.selection.tournament import TournamentSelection

    return MixedVariableMating(
        selection=TournamentSelection(func_comp=tournament),
        crossover={
            Real: SBX(eta=crossover_eta),
            Integer: SBX(eta=crossover_eta, vtype=float, repair=RoundingRepair()),
            Choice: UX(),
        },
        mutation={
            Real: PM(eta=mutation_eta),
            Integer: PM(eta=mutation_eta, vtype=float, repair=RoundingRepair()),
            Choice: ChoiceRandomMutation(),
        },
        eliminate_duplicates=False,
    )
