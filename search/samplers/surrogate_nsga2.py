"""Surrogate-assisted NSGA-II, the default sampler: many children are bred, and the one that promises most is trained.

At each trial, from the storage and the trial's own seed alone: Gaussian processes of the objectives are conditioned on
what was measured; candidates are spread over the levels of compression and bred from the non-dominated trials, then
from the best of each other (Deb et al. 2002; on surrogates: Jin 2011); the one with the largest expected hypervolume
improvement (Emmerich et al. 2006) is asked. What a plan tells of an objective before any training takes the place of
its model where it is exact, and is what the model starts from where it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from ..non_dominated import non_dominated
from ..observations import Observation, Observations
from ..surrogate.gaussian_process import Inputs
from ..surrogate.models import Measured, Shape, fit_shape
from .configurations import Params
from .evidence import Evidence, Forecasts, gather, kept
from .features import Features
from .groups import group_variables
from .landscape import Landscape
from .proposals import Proposals
from .seeded import SeededSampler
from .unit_space import UnitSpace

__all__ = ["SurrogateNSGA2Sampler", "scheduled", "surrogate_nsga2"]

POINTS = 300
FEWEST = 3
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
            over all levels of compression until then.
        candidates: How many are weighed for each trial.
    """
    return SurrogateNSGA2Sampler(space, seed, startup=startup, candidates=candidates)


@dataclass(frozen=True)
class Fitted:
    """What was learned of a study as a whole.

    Args:
        numbers: The trials that it was learned from.
        shapes: Of the m objectives, None for one that is told exactly.
        estimated: (m,) bools, the objectives whose models start from an estimate.
        constraints: By name.
    """

    numbers: tuple[int, ...]
    shapes: tuple[Shape | None, ...]
    estimated: np.ndarray
    constraints: Mapping[str, Shape]


class SurrogateNSGA2Sampler(SeededSampler, BaseSampler):
    """See the module; everything is rebuilt from the storage, so that a resumed study goes on as it would have.

    Args:
        space: The declared search space; empty to let Optuna infer it.
        seed: The study's seed.
        startup: Complete trials before the models are trusted.
        candidates: How many are weighed for each trial.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, startup: int, candidates: int) -> None:
        self._random_sampler = RandomSampler()
        self._declare(space, seed)
        self._startup = startup
        self._candidates = candidates
        self._observations = Observations()
        self._intersection = IntersectionSearchSpace()
        # what is costly and depends on finished trials alone
        self._study: tuple[Any, ...] | None = None
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}
        self._fitted: Fitted | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, or what all trials have in common, without variables of a single value."""
        if self._declared:
            return super().infer_relative_search_space(study, trial)
        return {name: one for name, one in self._intersection.calculate(study).items() if not one.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw, of what is not in the declared space."""
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)

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
        proposals = Proposals(unit, groups)
        seen = self._observations.of(study)
        trials = study._get_trials(deepcopy=False, use_cache=True)
        evidence = gather(kept(seen, POINTS), trials, unit, forecasts, self._known)
        complete = np.isfinite(evidence.losses).all(axis=1)
        features = Features(unit, groups)
        if complete.sum() >= self._startup and self._fit(seen, trials, unit, forecasts, features):
            landscape = self._landscape(evidence, unit, features, forecasts)
            running = [
                unit.encode(other.params)
                for other in trials
                if other.state == TrialState.RUNNING and other.number != trial.number and unit.holds(other.params)
            ]
            if running:
                landscape.expect(np.array(running))
            reference = study.user_attrs.get("reference_point")
            bound = evidence.losses[complete].max(axis=0) if reference is None else signs * np.asarray(reference)
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
        tried = landscape.believe(evidence.points, evidence.told)
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
        if self._fitted is not None and self._fitted.numbers == evidence.numbers:
            return True
        inputs = features(evidence.points)
        estimated = np.isfinite(evidence.told).all(axis=0) & ~evidence.exact
        shapes: list[Shape | None] = []
        for index, exact in enumerate(evidence.exact):
            measured = _measured(evidence, inputs, index, bool(estimated[index]))
            if not exact and len(measured) < FEWEST:
                return False
            shapes.append(None if exact else fit_shape(measured, features.prior))
        constraints = {
            name: fit_shape(_constrained(values, inputs), features.prior)
            for name, values in evidence.constraints.items()
        }
        self._fitted = Fitted(evidence.numbers, tuple(shapes), estimated, constraints)
        return True

    def _landscape(self, evidence: Evidence, unit: UnitSpace, features: Features, forecasts: Forecasts) -> Landscape:
        """The value of candidates, given all that was measured."""
        assert self._fitted is not None
        inputs = features(evidence.points)
        models = [
            None if shape is None else shape.given(_measured(evidence, inputs, index, bool(estimated)))
            for index, (shape, estimated) in enumerate(zip(self._fitted.shapes, self._fitted.estimated, strict=True))
        ]
        constraints = [
            shape.given(_constrained(evidence.constraints[name], inputs))
            for name, shape in self._fitted.constraints.items()
            if name in evidence.constraints
        ]
        return Landscape(unit, features, models, self._fitted.estimated, constraints, forecasts)

    def _forget_unless(self, study: tuple[Any, ...]) -> None:
        if self._study != study:
            self._study, self._known, self._fitted = study, {}, None


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


def _constrained(values: np.ndarray, inputs: Inputs) -> Measured:
    rows = np.flatnonzero(np.isfinite(values))
    return Measured(inputs.rows(rows), values[rows], np.zeros(len(rows)))
