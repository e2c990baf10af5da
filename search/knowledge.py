"""What is known of a search before anything is trained: where variables act, and which numbers a plan tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..spaces.forecast import Forecast
from ..studies.conditions import Condition

__all__ = ["Forecast", "Knowledge", "VariablePlace"]


@dataclass(frozen=True)
class VariablePlace:
    """Where in the network a variable acts.

    Args:
        kind: What it sets: ``sparsity``, ``clusters``, ``weight_bits``, …
        path: From coarse to fine, for example stage, block, layer; empty for a variable of the network or the recipe.
        ordered: Its values run from weak to strong compression, as numbers do and the indices of ordinal choices.
        weight: Share of the network's weights, in [0, 1], that it acts on.
    """

    kind: str
    path: tuple[str, ...] = ()
    ordered: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Knowledge:
    """What a sampler may use besides the trials.

    Args:
        directions: ``"minimize"`` or ``"maximize"`` for each objective, in the study's order.
        places: Of the variables that vary; those left out are of the recipe.
        forecast: Params to what is known of them by metric, untold metrics left out; must not train anything and takes
            milliseconds.
        control: The same of the dense control.
        conditions: What a feasible trial must meet.
    """

    directions: Mapping[str, str]
    places: Mapping[str, VariablePlace] = field(default_factory=dict)
    forecast: Callable[[Mapping[str, Any]], Mapping[str, Forecast]] = lambda params: {}
    control: Mapping[str, Forecast] = field(default_factory=dict)
    conditions: Sequence[Condition] = ()

    def hopeless(self, params: Mapping[str, Any]) -> bool:
        """Whether a condition on what is known exactly is broken, so that training would be in vain."""
        return self.violation(params) > 0.0

    def violation(self, params: Mapping[str, Any]) -> float:
        """Sum of what the conditions on exactly known numbers are exceeded by; 0 for what may be feasible."""
        total = 0.0
        for condition, known in self._exact(params):
            reference = self.control.get(condition.metric)
            total += max(0.0, condition.violation(known.value, None if reference is None else reference.value))
        return total

    def settled(self, params: Mapping[str, Any]) -> frozenset[str]:
        """The conditions, as texts, of which `params` alone tell whether they are met."""
        return frozenset(str(condition) for condition, _ in self._exact(params))

    def _exact(self, params: Mapping[str, Any]) -> Iterator[tuple[Condition, Forecast]]:
        told = self.forecast(params) if self.conditions else {}
        for condition in self.conditions:
            known = told.get(condition.metric)
            unbounded = condition.relative_to_control is not None and condition.metric not in self.control
            if known is not None and known.exact and not unbounded:
                yield condition, known
