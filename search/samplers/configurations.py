"""The points of a search space: which are the same, which are left, and which a study has taken already."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from .trial_reader import TrialReader

__all__ = ["Configurations", "Params", "Taken", "grid_values"]

ENUMERABLE = 10_000

Key = tuple[float, ...]
Params = dict[str, Any]


class Configurations:
    """The points of a search space, told apart by what their values mean rather than by their last bits."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = space

    def key(self, params: Mapping[str, Any]) -> Key:
        """Equal for equal configurations, hashable."""
        return tuple(_position(space, params[name]) for name, space in self.space.items())

    def others(self, taken: Collection[Key] | Callable[[Key], bool]) -> list[Params]:
        """Every configuration not in `taken`; empty when there is none, or when they cannot be listed."""
        grids = [grid_values(space) for space in self.space.values()]
        if math.prod(len(grid) if grid is not None else ENUMERABLE + 1 for grid in grids) > ENUMERABLE:
            return []
        is_taken = taken if callable(taken) else taken.__contains__
        points = itertools.product(*(grid for grid in grids if grid is not None))
        candidates = (dict(zip(self.space, point, strict=True)) for point in points)
        return [params for params in candidates if not is_taken(self.key(params))]


class Taken(TrialReader):
    """The configurations that trials of a study hold, whatever their state; finished trials are read once.

    Args:
        space: The variables that tell configurations apart; trials that lack one of them hold none.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        super().__init__()
        self.configurations = Configurations(dict(space))
        self._finished: set[Key] = set()

    def besides(self, study: Study, trial: FrozenTrial) -> Callable[[Key], bool]:
        """Whether a trial other than `trial`, which is not finished, holds a configuration."""
        unfinished = [other for other in self.read(study) if other.number != trial.number]
        running = {key for other in unfinished if (key := self._key(other)) is not None}
        finished = self._finished
        return lambda key: key in finished or key in running

    def complete(self, trial: FrozenTrial) -> bool:
        """Whether the trial has every variable."""
        return self.configurations.space.keys() <= trial.params.keys()

    def _key(self, trial: FrozenTrial) -> Key | None:
        return self.configurations.key(trial.params) if self.complete(trial) else None

    def _add(self, trial: FrozenTrial) -> None:
        key = self._key(trial)
        if key is not None:
            self._finished.add(key)

    def _forget(self) -> None:
        self._finished = set()


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
