"""One variable of a search space: what Optuna samples, what a sampled value means, and its uniform ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

__all__ = ["Continuous", "Grid", "Ordinal", "Variable", "snapped", "unordered"]

_DECIMALS = 6
_TOLERANCE = 1e-6


def snapped(value: float) -> float:
    """`value` without float noise, to six decimals."""
    return round(float(value), _DECIMALS)


class Variable(Protocol):
    """What the kinds of variables have in common."""

    @property
    def kind(self) -> str:
        """Its kind, for a table."""

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna samples; only for a variable that varies."""

    @property
    def varies(self) -> bool:
        """It can take more than one value."""

    def only(self) -> Any:
        """The meaning of a variable that does not vary."""

    def value(self, name: str, sampled: Any) -> Any:
        """The meaning of what was sampled; `ValueError` when out of range."""

    def at(self, level: float) -> Any:
        """What to sample for a uniform compression at `level` in [0, 1]."""

    def text(self) -> str:
        """The values, for a table."""


@dataclass(frozen=True)
class Grid:
    """Numbers ``low, low + step, …`` up to `high`: weak to strong."""

    low: float
    high: float
    step: float
    kind: str = "grid"

    @property
    def top(self) -> float:
        """The largest number on the grid."""
        return snapped(self.low + self._last * self.step)

    @property
    def _last(self) -> int:
        return math.floor((self.high - self.low) / self.step + _TOLERANCE)

    @property
    def distribution(self) -> FloatDistribution:
        return FloatDistribution(self.low, self.top, step=self.step)

    @property
    def varies(self) -> bool:
        return self._last > 0

    def only(self) -> float:
        return snapped(self.low)

    def value(self, name: str, sampled: Any) -> float:
        number = _number(name, sampled, self.low, self.top)
        return self._point(round((number - self.low) / self.step))

    def at(self, level: float) -> float:
        return self._point(math.floor(level * self._last + 0.5))

    def text(self) -> str:
        return f"{self.low:g} – {self.top:g}, step {self.step:g}" if self.varies else f"{self.low:g}"

    def _point(self, index: int) -> float:
        return snapped(self.low + min(max(index, 0), self._last) * self.step)


@dataclass(frozen=True)
class Continuous:
    """A number of the recipe; no compression, so every level of a ladder has its default (or the middle)."""

    low: float
    high: float
    default: float
    kind: str = "continuous"

    @property
    def distribution(self) -> FloatDistribution:
        return FloatDistribution(self.low, self.high)

    @property
    def varies(self) -> bool:
        return self.high > self.low

    def only(self) -> float:
        return snapped(self.low)

    def value(self, name: str, sampled: Any) -> float:
        return snapped(min(max(_number(name, sampled, self.low, self.high), self.low), self.high))

    def at(self, level: float) -> float:
        return self.default if self.low <= self.default <= self.high else snapped((self.low + self.high) / 2)

    def text(self) -> str:
        return f"{self.low:g} – {self.high:g}" if self.varies else f"{self.low:g}"


@dataclass(frozen=True)
class Ordinal:
    """One of `choices`, sampled as an index, or as itself where `categorical` is given (no order among them).

    Args:
        choices: From weak to strong, where they are ordered.
        categorical: The distribution over unordered choices.
        fixed_at: Index that every level of a ladder has, for unordered choices.
    """

    choices: tuple[Any, ...]
    categorical: CategoricalDistribution | None = None
    fixed_at: int = 0

    @property
    def kind(self) -> str:
        """``ordinal`` or ``categorical``."""
        return "categorical" if self.categorical else "ordinal"

    @property
    def distribution(self) -> BaseDistribution:
        return self.categorical or IntDistribution(0, len(self.choices) - 1)

    @property
    def varies(self) -> bool:
        return len(self.choices) > 1

    def only(self) -> Any:
        return self.choices[0]

    def value(self, name: str, sampled: Any) -> Any:
        if self.categorical:
            if sampled not in self.choices:
                raise ValueError(f"`params[{name!r}]` must be one of {self.choices}; found {sampled!r}.")
            return sampled
        last = len(self.choices) - 1
        if isinstance(sampled, bool) or sampled not in range(last + 1):
            raise ValueError(f"`params[{name!r}]` must be an index in 0–{last} (of {self.choices}); found {sampled!r}.")
        return self.choices[int(sampled)]

    def at(self, level: float) -> Any:
        if self.categorical:
            return self.choices[self.fixed_at]
        return math.floor(level * (len(self.choices) - 1) + 0.5)

    def text(self) -> str:
        return ", ".join(map(str, self.choices))


def unordered(choices: Sequence[str], *, at: str | None = None) -> Ordinal:
    """A variable over `choices` that have no order.

    Args:
        choices: One or more.
        at: What every level of a ladder has; the first choice when it is None or none of them.
    """
    listed = tuple(choices)
    return Ordinal(listed, CategoricalDistribution(listed), fixed_at=listed.index(at) if at in listed else 0)


def _number(name: str, sampled: Any, low: float, high: float) -> float:
    valid = isinstance(sampled, int | float) and not isinstance(sampled, bool)
    if not valid or not low - _TOLERANCE <= sampled <= high + _TOLERANCE:
        raise ValueError(f"`params[{name!r}]` must be in [{low:g}, {high:g}]; found {sampled!r}.")
    return float(sampled)
