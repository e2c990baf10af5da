"""A search space as the unit cube: every variable a number in [0, 1], on its grid, and back to params."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from .encoding import encoding_of

__all__ = ["UnitSpace"]

LISTED = 1_000


class UnitSpace:
    """Numbers by their place between low and high (of their logarithms where so declared), categories by their index.

    Args:
        space: D variables of more than one value each.

    Attributes:
        names: The variables, in order.
        levels: (D,) how many evenly spaced values each has, 0 for one that has no grid.
        categorical: (D,) bools, True where the values have no order.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.names = tuple(space)
        self._space = dict(space)
        self._encodings = [encoding_of(one) for one in space.values()]
        self._low = np.array([one.low for one in self._encodings], dtype=float)
        self._width = np.array([one.high - one.low for one in self._encodings], dtype=float)
        self.levels = np.array([0 if one.kind == "real" else round(one.high) + 1 for one in self._encodings], dtype=int)
        self.categorical = np.array([one.kind == "choice" for one in self._encodings], dtype=bool)
        self._last = np.maximum(self.levels - 1, 1)
        # looked up rather than decoded one by one, for many candidates are decoded at each trial
        self._values = [
            [one.decode(code) for code in range(count)] if 0 < count <= LISTED else None
            for one, count in zip(self._encodings, self.levels.tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.names)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether every variable is in `params` with a value of its range."""
        for name, one in self._space.items():
            if name not in params:
                return False
            try:
                inside = one._contains(one.to_internal_repr(params[name]))
            except ValueError:
                return False
            if not inside:
                return False
        return True

    def encode(self, params: Mapping[str, Any]) -> np.ndarray:
        """(D,) the point of `params`, on the grid."""
        codes = [one.encode(params[name]) for name, one in zip(self.names, self._encodings, strict=True)]
        return self.snapped((np.array(codes, dtype=float) - self._low) / self._width)

    def decode(self, point: np.ndarray) -> dict[str, Any]:
        """The params of a point (D,), which is snapped to the grid."""
        index = np.rint(point * self._last).astype(int).tolist()
        codes = (self._low + point * self._width).tolist()
        return {
            name: values[at] if values is not None else one.decode(code)
            for name, values, at, one, code in zip(self.names, self._values, index, self._encodings, codes, strict=True)
        }

    def snapped(self, points: np.ndarray) -> np.ndarray:
        """Points (…, D) on the grid and in the cube."""
        points = np.clip(points, 0.0, 1.0)
        return np.where(self.levels > 0, np.floor(points * self._last + 0.5) / self._last, points)

    def one_hot(self, points: np.ndarray, index: int) -> np.ndarray:
        """(n, levels) indicators of a categorical variable's values, any two of which are at distance 1."""
        chosen = np.rint(points[:, index] * self._last[index]).astype(int)
        return np.eye(int(self.levels[index]))[chosen] / math.sqrt(2.0)
