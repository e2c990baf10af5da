"""Candidates for a search: spread samples over the levels of compression, and children of what is known to be good.

All work on points of the unit cube, (n, D) arrays; moves are of single variables, of whole groups (a stage, a kind), or
mixtures of two parents (simulated binary crossover: Deb & Agrawal 1995; uniform crossover, by variable or by group).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .groups import Groups
from .unit_space import UnitSpace

__all__ = ["Proposals", "recipe_to_try"]

KIND_DEVIATION = 0.25
PART_DEVIATION = 0.12
FINE_DEVIATION = 0.25
FINE_FROM, FINE_TO = 20, 120
VISITED = 4
DRAWN = 4.0


class Proposals:
    """Draws candidates.

    Args:
        unit: The space.
        groups: What belongs together in it.
        fixed: Values in [0, 1] of some columns, the same in all candidates.
    """

    def __init__(self, unit: UnitSpace, groups: Groups, fixed: Mapping[int, float] | None = None) -> None:
        self._unit = unit
        self._groups = groups
        self._fixed = dict(fixed or {})
        self._membership = groups.membership(len(unit)).astype(float)
        # the smallest move that changes a variable
        self._step = np.where(unit.levels > 1, 1.0 / np.maximum(unit.levels - 1, 1), 0.0)

    def spread(self, generator: np.random.Generator, count: int, trials: int) -> np.ndarray:
        """(count, D) level-plus-deviation samples: each has a level of its own, from which parts and layers deviate.

        Independent draws for each layer would all have about the same compression, that of the middle. The deviations
        of single variables grow with `trials`, the number of trials seen: first the coarse is learned, then the fine.
        """
        size = len(self._unit)
        points = generator.random((count, size))
        fine = FINE_DEVIATION * np.clip((trials - FINE_FROM) / (FINE_TO - FINE_FROM), 0.15, 1.0)
        network = generator.random((count, 1))
        for kind, columns in self._groups.kinds.items():
            level = network + KIND_DEVIATION * generator.standard_normal((count, 1))
            # mirrored, for a clipped one would pile up at the ends
            values = np.repeat(_mirrored(level), len(columns), axis=1)
            position = {int(column): index for index, column in enumerate(columns)}
            for parts in self._groups.nested[kind][1:]:
                for part in parts:
                    where = [position[int(column)] for column in part]
                    values[:, where] += PART_DEVIATION * generator.standard_normal((count, 1))
            values += fine * generator.standard_normal(values.shape)
            points[:, columns] = values
        return self._finished(points)

    def children(
        self, generator: np.random.Generator, parents: np.ndarray, count: int, *, reach: float = 1.0
    ) -> np.ndarray:
        """(count, D) children of `parents` (n, D), all of which are as good.

        Args:
            generator: Of the draws.
            parents: From one on.
            count: How many.
            reach: Scale of the moves; 1 to explore, less to refine.
        """
        first = parents[generator.integers(len(parents), size=count)]
        second = parents[generator.integers(len(parents), size=count)]
        way = generator.random(count)
        points = first.copy()
        rows = way < 0.25
        points[rows] = self._swapped(generator, first[rows], second[rows])
        rows = (way >= 0.25) & (way < 0.45)
        points[rows] = self._blended(generator, first[rows], second[rows])
        rows = (way >= 0.45) & (way < 0.7)
        points[rows] = self._shifted(generator, first[rows], reach)
        points = self._mutated(generator, points, reach, always=way >= 0.7)
        return self._finished(points)

    def _swapped(self, generator: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        by_variable = generator.random(first.shape) < 0.5
        if len(self._membership):
            part = self._membership[generator.integers(len(self._membership), size=len(first))] > 0
            by_variable = np.where(generator.random((len(first), 1)) < 0.5, by_variable, part)
        return np.where(by_variable, second, first)

    def _blended(self, generator: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Simulated binary crossover of distribution index 2; categories are swapped."""
        draw = generator.random(first.shape)
        index = 1.0 / 3.0
        factor = np.where(draw < 0.5, (2 * draw) ** index, (0.5 / np.maximum(1 - draw, 1e-9)) ** index)
        side = np.where(generator.random((len(first), 1)) < 0.5, 1.0, -1.0)
        blended = 0.5 * ((first + second) + side * factor * (first - second))
        swapped = np.where(generator.random(first.shape) < 0.5, first, second)
        return np.where(self._unit.categorical, swapped, blended)

    def _shifted(self, generator: np.random.Generator, points: np.ndarray, reach: float) -> np.ndarray:
        """One or two groups moved as a whole."""
        if not len(self._membership):
            return self._mutated(generator, points, reach, always=np.ones(len(points), dtype=bool))
        moved = points
        for chance in (1.0, 0.5):
            part = self._membership[generator.integers(len(self._membership), size=len(points))]
            far = 0.25 * reach * generator.standard_normal((len(points), 1))
            far *= generator.random((len(points), 1)) < chance
            moved = moved + part * far
        return moved

    def _mutated(
        self, generator: np.random.Generator, points: np.ndarray, reach: float, *, always: np.ndarray
    ) -> np.ndarray:
        """Some variables moved, by at least a step of their grids; at least one where `always`, else often none."""
        count, size = points.shape
        rate = generator.choice([0.5, 1.0, 2.0, 4.0], size=(count, 1)) / size
        chosen = generator.random((count, size)) < rate
        bare = always & ~chosen.any(axis=1)
        chosen[bare, generator.integers(size, size=int(bare.sum()))] = True
        width = reach * generator.choice([0.05, 0.15, 0.4], size=(count, 1))
        move = width * generator.standard_normal((count, size))
        move = np.sign(move) * np.maximum(np.abs(move), self._step)
        moved = np.where(self._unit.categorical, generator.random((count, size)), points + move)
        return np.where(chosen, moved, points)

    def _finished(self, points: np.ndarray) -> np.ndarray:
        points[:, list(self._fixed)] = list(self._fixed.values())
        return self._unit.snapped(points)


def recipe_to_try(
    generator: np.random.Generator, unit: UnitSpace, columns: np.ndarray, tried: np.ndarray, trials: int
) -> dict[int, float]:
    """Values in [0, 1] that a trial takes for the recipe whatever the models say; empty for most trials.

    What a model has seen only in the middle of a range, as in a ladder of compressions, or only once elsewhere, it may
    take to be of no effect, and a search that trusts it never looks again. So each variable of the recipe visits a few
    values over its whole range first; later a trial draws all of them evenly, less and less often but never for the
    last time.

    Args:
        generator: Of the draws.
        unit: The space.
        columns: Of the recipe.
        tried: (n, D) points of the first trials.
        trials: How many trials were seen.
    """
    if not len(columns):
        return {}
    found = {}
    for column in columns.tolist():
        levels = int(unit.levels[column])
        count = levels if unit.categorical[column] or 0 < levels < VISITED else VISITED
        places = np.linspace(0.0, 1.0, count)
        near = np.abs(tried[:, column, None] - places) <= 0.5 / count
        if len(left := places[~near.any(axis=0)]):
            found[column] = float(generator.choice(left))
    if not found and generator.random() < DRAWN / max(1, trials):
        return {column: float(generator.random()) for column in columns.tolist()}
    return found


def _mirrored(values: np.ndarray) -> np.ndarray:
    """Values folded back into [0, 1]."""
    folded = np.abs(np.mod(values + 1.0, 2.0) - 1.0)
    return np.asarray(folded)
