"""What every sampler of the house shares: draws seeded by (study seed, trial number), the declared space, no repeats.

A generator that is seeded once repeats itself after a resume and differs between workers. Here each trial has its own,
so that a resumed study asks for what the uninterrupted one would have asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...studies.seeds import Seed, trial_seed
from ..knowledge import Knowledge
from .configurations import Configurations, Params, Taken, grid_values
from .feasibility import mended

__all__ = ["Configurations", "OwnSampler", "Params", "SeededSampler", "grid_values", "words"]

# forecasts that an ask may cost before a hopeless proposal is mended rather than drawn again
REJECTIONS = 32
PATTERNS = 8


class SeededSampler(BaseSampler):
    """Mixin in front of an Optuna sampler that draws from `_rng` and `_random_sampler`, or from either.

    Args:
        space: The declared search space; empty to let Optuna infer it, and then repeats are not looked for.
        seed: The study's seed.
    """

    _declared: Mapping[str, BaseDistribution]
    _study_seed: int
    _knowledge: Knowledge | None = None
    _fixed: Params
    _taken: Taken | None = None
    _retries = 100

    def _declare(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        self._declared = dict(space)
        self._study_seed = seed
        self._fixed = {name: (grid_values(one) or [None])[0] for name, one in space.items() if one.single()}

    def inform(self, knowledge: Knowledge) -> None:
        """Tell what is known of the search besides its trials; called once, before the first of them."""
        # a forecast decodes the whole space, of which variables of a single value are not sampled
        whole, forecast = self._fixed, knowledge.forecast
        self._knowledge = dataclasses.replace(knowledge, forecast=lambda params: forecast({**whole, **params}))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, from the first trial on, without variables of a single value."""
        if not self._declared:
            return super().infer_relative_search_space(study, trial)  # type: ignore[safe-super]
        return {name: space for name, space in self._declared.items() if not space.single()}

    def reseed_rng(self) -> None:
        """Nothing: Optuna reseeds at random for threads, but a trial's draws depend on its number alone."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed every generator for this trial."""
        self._seed_draws(trial)
        super().before_trial(study, trial)

    def _seed_draws(self, trial: FrozenTrial) -> None:
        seed = self._seed(trial)
        for owner, purpose in ((self, "relative"), (getattr(self, "_random_sampler", None), "independent")):
            state = getattr(owner, "_rng", None)
            if state is not None:
                state.rng.seed(words(seed.child(purpose)))

    def _seed(self, trial: FrozenTrial) -> Seed:
        return trial_seed(self._study_seed, trial.number).child("sampler")

    def _violation(self, params: Params) -> float:
        return self._knowledge.violation(params) if self._knowledge else 0.0

    def _uniform(self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> Params:
        sampler: BaseSampler = getattr(self, "_random_sampler", self)
        return {name: sampler.sample_independent(study, trial, name, space[name]) for name in space}

    def _unseen(
        self,
        study: Study,
        trial: FrozenTrial,
        space: Mapping[str, BaseDistribution],
        propose: Callable[[], Params],
    ) -> Params:
        """A proposal that no other trial holds, whatever its state, and that may be feasible for all that is known.

        Repeats only when the space is exhausted. Where all proposals break a condition on what is known exactly, the
        one that breaks it least takes over as few values of a feasible trial as mend it, or else of the strongest or
        the weakest compression; it stays as it is where none of these helps.
        """
        if not space:
            return {}
        if self._taken is None or self._taken.configurations.space != space:
            self._taken = Taken(space)
        key, is_taken = self._taken.configurations.key, self._taken.besides(study, trial)
        hopeless: list[tuple[float, Params]] = []
        params: Params = {}
        for attempt in range(2 * self._retries):
            # breeding among few parents may have nothing new to give
            params = propose() if attempt < self._retries else self._uniform(study, trial, space)
            if is_taken(key(params)):
                continue
            violation = self._violation(params)
            if violation <= 0.0:
                return params
            hopeless.append((violation, params))
            if len(hopeless) == REJECTIONS:
                break
        if hopeless:
            least = min(hopeless, key=lambda entry: entry[0])[1]
            candidates = (new for new in self._mended(study, trial, least) if not is_taken(key(new)))
            return next(candidates, least)
        return self._left(trial, self._taken.configurations.others(is_taken)) or params

    def _mended(self, study: Study, trial: FrozenTrial, params: Params) -> Iterator[Params]:
        """`params`, mended after one trial or another that is not hopeless, or after the ends of compression."""
        assert self._taken is not None
        complete = [
            other
            for other in study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
            if self._taken.complete(other)
        ]
        feasible = [other for other in complete if all(value <= 0.0 for value in other.constraints.values())]
        patterns = feasible or complete
        generator = self._seed(trial).child("mended").numpy()
        chosen = [patterns[index].params for index in generator.permutation(len(patterns))[:PATTERNS]]
        for whole in chosen + self._corners(params):
            pattern = {name: whole[name] for name in params}
            if self._violation(pattern) <= 0.0:
                order = [str(name) for name in generator.permutation(list(params))]
                yield mended(lambda mixed: self._violation(mixed) > 0.0, params, pattern, order)

    def _corners(self, params: Params) -> list[Params]:
        """`params` at the strongest and at the weakest compression of all."""
        assert self._taken is not None
        corners = [dict(params), dict(params)]
        for name, place in self._knowledge.places.items() if self._knowledge else ():
            space = self._taken.configurations.space.get(name)
            if place.ordered and isinstance(space, (FloatDistribution, IntDistribution)):
                corners[0][name], corners[1][name] = space.high, space.low
        return corners

    def _left(self, trial: FrozenTrial, left: list[Params]) -> Params | None:
        """One of the configurations that are left, preferably one that may be feasible."""
        if not left:
            return None
        order = self._seed(trial).child("left").numpy().permutation(len(left))
        tried = [left[index] for index in order[:REJECTIONS]]
        return min(tried, key=self._violation)


class OwnSampler(SeededSampler):
    """Mixin of samplers that are not Optuna's: what is not declared is inferred, and drawn uniformly."""

    _random_sampler: RandomSampler

    def _declare(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super()._declare(space, seed)
        self._random_sampler = RandomSampler()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, or what all trials have in common, without variables of a single value."""
        if self._declared:
            return super().infer_relative_search_space(study, trial)
        common = IntersectionSearchSpace().calculate(study)
        return {name: space for name, space in common.items() if not space.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw, of what is not in the search space."""
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)


def words(seed: Seed) -> np.ndarray:
    """(8,) unsigned integers to seed a NumPy `RandomState` with."""
    return np.random.SeedSequence(seed.entropy).generate_state(8, np.uint32)
