"""Surrogate-assisted NSGA-II, the default sampler: many children are bred, and the one that promises most is trained.

At each trial, from the storage and the trial's own seed alone: Gaussian processes of the objectives are conditioned on
what was measured; candidates are spread over the levels of compression and bred from the non-dominated trials, then
from the best of each other (Deb et al. 2002; on surrogates: Jin 2011); the one with the largest expected hypervolume
improvement (Emmerich et al. 2006) is asked. What a plan tells of an objective before any training takes the place of
its model where it is exact, and is what the model starts from where it is an estimate. Some trials are told what to
take for the recipe, so that all of its range is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from ..non_dominated import non_dominated
from ..observations import Observation, Observations
from ..surrogate.gaussian_process import Inputs, Prior
from ..surrogate.models import Measured, Model, Shape, fit_shape
from .configurations import Params
from .evidence import Evidence, Fact, Forecasts, failures, gather, kept
from .features import Features
from .groups import group_variables
from .landscape import Landscape
from .proposals import Proposals, recipe_to_try
from .seeded import OwnSampler
from .unit_space import UnitSpace

__all__ = ["SurrogateNSGA2Sampler", "scheduled", "surrogate_nsga2"]

POINTS = 300
FAILURES = 150
FEWEST = 3
# trials in which a recipe has visited its whole range
EARLY = 64
# scale of the moves in each round of breeding on the models, from exploring to refining
REACHES = (1.0, 1.0, 0.7, 0.7, 0.7, 0.5, 0.5, 0.35, 0.35, 0.25, 0.25, 0.2)
PARENTS = 20
SPREAD_SHARE, FIRST_SHARE = 0.125, 0.375


def surrogate_nsga2(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    startup: Annotated[int, Field(ge=2)] = 8,
    candidates: Annotated[int, Field(ge=50)] = 800,
) -> SurrogateNSGA2Sampler:
    """The default sampler.

    Args:
        space: The declared search space.
        seed: The study's seed.
        startup: Feasible or infeasible complete trials, seeds included, before the models are trusted; samples spread
            over all levels of compression until then. Stopped trials do not count.
        candidates: How many are weighed for each trial.
    """
    return SurrogateNSGA2Sampler(space, seed, startup=startup, candidates=candidates)


@dataclass(frozen=True)
class Fitted:
    """What was learned of a study as a whole.

    Args:
        evidence: What it was learned from.
        inputs: Its points as the models see them.
        prior: Of every shape.
        estimated: (m,) bools, the objectives whose models start from an estimate.
        shapes: Of the m objectives by index, as far as they were needed.
        constraints: By name.
    """

    evidence: Evidence
    inputs: Inputs
    prior: Prior
    estimated: np.ndarray
    shapes: dict[int, Shape]
    constraints: Mapping[str, Shape]

    def shape(self, index: int) -> Shape:
        """Of an objective; learned now where no plan needed it before."""
        if index not in self.shapes:
            measured = _measured(self.evidence, self.inputs, index, bool(self.estimated[index]))
            self.shapes[index] = fit_shape(measured, self.prior)
        return self.shapes[index]


class SurrogateNSGA2Sampler(OwnSampler):
    """See the module; everything is rebuilt from the storage, so that a resumed study goes on as it would have.

    Args:
        space: The declared search space; empty to let Optuna infer it.
        seed: The study's seed.
        startup: Complete trials before the models are trusted.
        candidates: How many are weighed for each trial.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, startup: int, candidates: int) -> None:
        self._declare(space, seed)
        self._startup = startup
        self._candidates = candidates
        self._observations = Observations()
        # what is costly and depends on finished trials alone
        self._study: tuple[Any, ...] | None = None
        self._known: dict[int, Fact | None] = {}
        self._fitted: Fitted | None = None
        self._failing: tuple[tuple[tuple[int, ...], tuple[int, ...]], Shape] | None = None

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """The candidate that promises most, that no trial holds yet and that breaks nothing that is known exactly."""
        if not search_space:
            return {}
        ranked = self._ranked(study, trial, search_space)
        return self._unseen(study, trial, search_space, lambda: next(ranked))

    def _ranked(self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> Iterator[Params]:
        """Candidates without end, the best first."""
        generator = self._seed(trial).child("surrogate").numpy()
        unit = UnitSpace(space)
        self._forget_unless((study._storage, study._study_id, tuple(space.items())))
        signs = np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in study.directions])
        names = study.metric_names or [str(index) for index in range(len(signs))]
        forecasts = Forecasts(self._knowledge, names, signs)
        groups = group_variables(unit.names, self._knowledge.places if self._knowledge else {})
        seen = self._observations.of(study)
        trials = study._get_trials(deepcopy=False, use_cache=True)
        early = [one.params for one in trials[:EARLY] if one.number != trial.number and unit.holds(one.params)]
        tried = np.array([unit.encode(params) for params in early]).reshape(-1, len(unit))
        proposals = Proposals(unit, groups, recipe_to_try(generator, unit, groups.recipe, tried, len(seen)))
        evidence = gather(kept(seen, POINTS), trials, unit, forecasts, self._known)
        failed = failures(trials, unit, FAILURES)
        features = Features(unit, groups)
        if evidence.complete.sum() >= self._startup and self._fit(seen, trials, unit, forecasts, features):
            landscape = self._landscape(evidence, failed, unit, features, forecasts)
            running = [
                unit.encode(other.params)
                for other in trials
                if other.state == TrialState.RUNNING and other.number != trial.number and unit.holds(other.params)
            ]
            if running:
                landscape.expect(np.array(running))
            reference = study.user_attrs.get("reference_point")
            bound = (
                evidence.losses[evidence.complete].max(axis=0) if reference is None else signs * np.asarray(reference)
            )
            for point in self._bred(generator, landscape, proposals, evidence, bound, len(seen)):
                yield unit.decode(point)
        while True:
            for point in proposals.spread(generator, 16, len(seen)):
                yield unit.decode(point)

    def _bred(
        self,
        generator: np.random.Generator,
        landscape: Landscape,
        proposals: Proposals,
        evidence: Evidence,
        reference: np.ndarray,
        trials: int,
    ) -> np.ndarray:
        """(k, D) candidates, those that promise most first."""
        tried = landscape.believe(evidence.points, (evidence.told, evidence.exact))
        # as the models see them, for a lucky measurement is no front
        reached = landscape.losses(tried)[evidence.feasible]
        best = non_dominated(reached)
        front = np.concatenate([reached[best], landscape.pending])
        parents = evidence.points[evidence.feasible][best] if best.any() else evidence.points
        first = np.concatenate(
            [
                proposals.spread(generator, int(SPREAD_SHARE * self._candidates), trials),
                proposals.children(generator, parents, int(FIRST_SHARE * self._candidates)),
            ]
        )
        belief = landscape.believe(first)
        landscape.aim(generator, front, reference, belief)
        pool, worth = first, landscape.improvement(belief)
        each = int((1.0 - SPREAD_SHARE - FIRST_SHARE) * self._candidates) // len(REACHES)
        for reach in REACHES:
            top = pool[np.argsort(-worth, kind="stable")[:PARENTS]]
            fresh = proposals.children(generator, top, max(1, each), reach=reach)
            pool = np.concatenate([pool, fresh])
            worth = np.concatenate([worth, landscape.improvement(landscape.believe(fresh))])
        return pool[np.argsort(-worth, kind="stable")]

    def _fit(
        self,
        seen: Sequence[Observation],
        trials: Sequence[FrozenTrial],
        unit: UnitSpace,
        forecasts: Forecasts,
        features: Features,
    ) -> bool:
        """Learn all shapes anew once enough trials were added; False where too few tell of an objective."""
        evidence = gather(kept(seen[: scheduled(len(seen))], POINTS), trials, unit, forecasts, self._known)
        if self._fitted is not None and self._fitted.evidence.numbers == evidence.numbers:
            return True
        inputs = features(evidence.points)
        estimated = np.isfinite(evidence.told).all(axis=0)
        if np.isfinite(evidence.losses).sum(axis=0).min(initial=len(evidence)) < FEWEST:
            return False
        constraints = {
            name: fit_shape(_constrained(values, inputs), features.prior)
            for name, values in evidence.constraints.items()
        }
        self._fitted = Fitted(evidence, inputs, features.prior, estimated, {}, constraints)
        return True

    def _landscape(
        self,
        evidence: Evidence,
        failed: Mapping[int, np.ndarray],
        unit: UnitSpace,
        features: Features,
        forecasts: Forecasts,
    ) -> Landscape:
        """The value of candidates, given all that was measured."""
        fitted = self._fitted
        assert fitted is not None
        inputs = features(evidence.points)

        def model(index: int) -> Model:
            return fitted.shape(index).given(_measured(evidence, inputs, index, bool(fitted.estimated[index])))

        models = [None if exact.all() else model(index) for index, exact in enumerate(evidence.exact.T)]
        constraints = [
            shape.given(_constrained(evidence.constraints[name], inputs))
            for name, shape in fitted.constraints.items()
            if name in evidence.constraints
        ]
        if failed:
            constraints.append(self._failure(fitted, evidence, failed, features))
        tells = bool(np.isfinite(evidence.told).any())
        return Landscape(unit, features, models, model, fitted.estimated, constraints, forecasts, tells=tells)

    def _failure(
        self, fitted: Fitted, evidence: Evidence, failed: Mapping[int, np.ndarray], features: Features
    ) -> Model:
        """Whether a trial fails, as a constraint: 1 where one did and -1 where none did.

        Learned anew whenever failures are added, for a region in which all fail adds no observations.
        """
        numbers = list(failed)
        known = numbers[: scheduled(len(numbers))]
        key = (fitted.evidence.numbers, tuple(known))
        points = np.array(list(failed.values()))
        if self._failing is None or self._failing[0] != key:
            measured = _told_apart(fitted.evidence.points, points[: len(known)], features)
            self._failing = key, fit_shape(measured, features.prior)
        return self._failing[1].given(_told_apart(evidence.points, points, features))

    def _forget_unless(self, study: tuple[Any, ...]) -> None:
        if self._study != study:
            self._study, self._known, self._fitted, self._failing = study, {}, None, None


def scheduled(count: int) -> int:
    """After how many of `count` observations the hyperparameters are learned: rarely, and by their number alone."""
    step = 4 if count < 24 else 5 if count < 60 else 10 if count < 200 else 25
    return max(min(count, 4), count // step * step)


def _measured(evidence: Evidence, inputs: Inputs, index: int, estimated: bool) -> Measured:
    """Of an objective, the trials that have it."""
    have = np.isfinite(evidence.losses[:, index])
    if estimated:
        have &= np.isfinite(evidence.told[:, index])
    rows = np.flatnonzero(have)
    told = evidence.told[rows, index] if estimated else None
    return Measured(inputs.rows(rows), evidence.losses[rows, index], evidence.errors[rows, index], told)


def _told_apart(passed: np.ndarray, failed: np.ndarray, features: Features) -> Measured:
    """Points (n, D) at which no trial failed and points (f, D) at which one did."""
    values = np.concatenate([np.full(len(passed), -1.0), np.ones(len(failed))])
    return _constrained(values, features(np.concatenate([passed, failed])))


def _constrained(values: np.ndarray, inputs: Inputs) -> Measured:
    rows = np.flatnonzero(np.isfinite(values))
    return Measured(inputs.rows(rows), values[rows], np.zeros(len(rows)))
