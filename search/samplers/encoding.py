"""Variables as other libraries know them: the number of a choice, a place on a grid, or a number in an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

__all__ = ["Encoding", "encoding_of"]


@dataclass(frozen=True)
class Encoding:
    """How one variable is written as a number, and read back.

    Args:
        space: The variable.
        kind: ``choice`` (0 … high, no order), ``grid`` (0 … high, in order) or ``real`` (low … high).
        low: Least code.
        high: Greatest code.
    """

    space: BaseDistribution
    kind: Literal["choice", "grid", "real"]
    low: float
    high: float

    def encode(self, value: Any) -> float:
        """The code of a value of the variable."""
        space = self.space
        if isinstance(space, CategoricalDistribution):
            return space.to_internal_repr(value)
        assert isinstance(space, IntDistribution | FloatDistribution)
        if self.kind == "grid":
            return float(round((value - space.low) / (space.step or 1)))
        return math.log(value) if space.log else float(value)

    def decode(self, code: float) -> Any:
        """The value whose code is nearest to `code`."""
        space, code = self.space, min(max(float(code), self.low), self.high)
        if isinstance(space, CategoricalDistribution):
            return space.choices[round(code)]
        if isinstance(space, IntDistribution):
            if space.log:
                return min(max(round(math.exp(code)), space.low), space.high)
            return space.low + round(code) * space.step
        assert isinstance(space, FloatDistribution)
        if self.kind == "grid":
            return min(space.low + round(code) * (space.step or 1), space.high)
        return min(max(math.exp(code) if space.log else code, space.low), space.high)


def encoding_of(space: BaseDistribution) -> Encoding:
    """The encoding of a variable: logarithms of what varies by orders of magnitude, else its grid where it has one."""
    if isinstance(space, CategoricalDistribution):
        return Encoding(space, "choice", 0, len(space.choices) - 1)
    if isinstance(space, IntDistribution) and space.log:
        # half a step beyond the ends, so that they are as likely as their neighbours
        return Encoding(space, "real", math.log(space.low - 0.5), math.log(space.high + 0.5))
    if isinstance(space, IntDistribution):
        return Encoding(space, "grid", 0, (space.high - space.low) // space.step)
    assert isinstance(space, FloatDistribution)
    if space.step is not None:
        return Encoding(space, "grid", 0, round((space.high - space.low) / space.step))
    if space.log:
        return Encoding(space, "real", math.log(space.low), math.log(space.high))
    return Encoding(space, "real", space.low, space.high)
