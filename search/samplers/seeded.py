"""What every sampler of the house shares: draws seeded by (study seed, trial number), the declared space, no repeats.

A generator that is seeded once repeats itself after a resume and differs between workers. Here each trial has its own,
so that a resumed study asks for what the uninterrupted one would have asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from ...studies.seeds import Seed, trial_seed
from ..knowledge import Knowledge

__all__ = ["Configurations", "SeededSampler", "grid_values"]

ENUMERABLE = 10_000

Params = dict[str, Any]


class SeededSampler(BaseSampler):
    """Mixin in front of an Optuna sampler that draws from `_rng` and `_random_sampler`, or from either.

    Args:
        space: The declared search space; empty to let Optuna infer it, and then repeats are not looked for.
        seed: The study's seed.
    """

    _declared: Mapping[str, BaseDistribution]
    _study_seed: int
    _knowledge: Knowledge | None = None
    _retries = 100

    def _declare(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        self._declared = dict(space)
        self._study_seed = seed

    def inform(self, knowledge: Knowledge) -> None:
        """Tell what is known of the search besides its trials; called once, before the first of them."""
        self._knowledge = knowledge

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, from the first trial on, without variables of a single value."""
        if not self._declared:
            return super().infer_relative_search_space(study, trial)  # type: ignore[safe-super]
        return {name: space for name, space in self._declared.items() if not space.single()}

    def reseed_rng(self) -> None:
        """Nothing: Optuna reseeds at random for threads, but a trial's draws depend on its number alone."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed every generator for this trial."""
        seed = trial_seed(self._study_seed, trial.number).child("sampler")
        for owner, purpose in ((self, "relative"), (getattr(self, "_random_sampler", None), "independent")):
            state = getattr(owner, "_rng", None)
            if state is not None:
                state.rng.seed(_words(seed.child(purpose)))
        super().before_trial(study, trial)

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
        """A proposal that no other trial holds, whatever its state; repeats only when the space is exhausted."""
        if not space:
            return {}
        configurations = Configurations(space)
        taken = {
            configurations.key(other.params)
            for other in study._get_trials(deepcopy=False, use_cache=True)
            if other.number != trial.number and space.keys() <= other.params.keys()
        }
        params = propose()
        for attempt in range(2 * self._retries):
            if configurations.key(params) not in taken:
                return params
            # breeding among few parents may have nothing new to give
            params = propose() if attempt < self._retries else self._uniform(study, trial, space)
        left = configurations.others(taken)
        seed = trial_seed(self._study_seed, trial.number).child("sampler").child("left")
        return left[int(seed.numpy().integers(len(left)))] if left else params


class Configurations:
    """The points of a search space, told apart by what their values mean rather than by their last bits."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = space

    def key(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Equal for equal configurations, hashable."""
        return tuple(_position(space, params[name]) for name, space in self.space.items())

    def others(self, taken: set[tuple[float, ...]]) -> list[Params]:
        """Every configuration not in `taken`; empty when there is none, or when they cannot be listed."""
        grids = [grid_values(space) for space in self.space.values()]
        if math.prod(len(grid) if grid is not None else ENUMERABLE + 1 for grid in grids) > ENUMERABLE:
            return []
        points = itertools.product(*(grid for grid in grids if grid is not None))
        candidates = (dict(zip(self.space, point, strict=True)) for point in points)
        return [params for params in candidates if self.key(params) not in taken]


def grid_values(space: BaseDistribution) -> list[Any] | None:
    """All values of a variable in order, None when it is continuous or has more than 10,000."""
    if isinstance(space, CategoricalDistribution):
        return list(space.choices)
    if isinstance(space, IntDistribution):
        values = range(space.low, space.high + 1, space.step)
        return list(values) if len(values) <= ENUMERABLE else None
    if isinstance(space, FloatDistribution) and space.step is not None:
        count = int(_position(space, space.high)) + 1
        if count > ENUMERABLE:
            return None
        return [min(space.low + index * space.step, space.high) for index in range(count)]
    return [space.low] if isinstance(space, FloatDistribution) and space.single() else None


def _position(space: BaseDistribution, value: Any) -> float:
    if isinstance(space, FloatDistribution) and space.step is not None:
        return float(round((value - space.low) / space.step))
    return float(space.to_internal_repr(value))


def _words(seed: Seed) -> np.ndarray:
    return np.random.SeedSequence(seed.entropy).generate_state(8, np.uint32)
