"""What the coordinator needs to know of a study to run it; everything else is the trial's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from ..studies.conditions import Condition
from .knowledge import Knowledge

__all__ = ["CONTROL", "Derived", "Prepared", "Problem"]

CONTROL = 0
"""Number of the dense control's trial."""

Raw = Mapping[str, Any]


class Derived(Protocol):
    """A metric's value as derived from raw numbers; a dataclass, whose other fields are stored too."""

    @property
    def value(self) -> float:
        """The value, in the metric's unit."""
        ...


@dataclass(frozen=True)
class Problem:
    """A search, as its coordinator sees it.

    Args:
        name: The study's name, also in the database.
        directions: ``"minimize"`` or ``"maximize"`` for each objective, in order.
        distributions: The search space.
        derive: Raw measurements of a trial and of the control, by metric, to scores by metric, objectives included.
        worst: Objective and the control's value to the value beyond which nothing counts for the hypervolume.
        seeds: Params that are tried after the control, in order.
        conditions: What a feasible trial must meet, on scores or on numbers of their details.
        fingerprint: What results depend on, JSON values.
        knowledge: What samplers may use besides the trials.
        repeats: Trainings of a candidate that would be on the front.
        rungs: Shares of a trial's training after which it is compared with others, rising; none without early stopping.
    """

    name: str
    directions: Mapping[str, str]
    distributions: Mapping[str, BaseDistribution]
    derive: Callable[[Raw, Raw], Mapping[str, Derived]]
    worst: Callable[[str, float], float]
    seeds: Sequence[Mapping[str, Any]] = ()
    conditions: Sequence[Condition] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    knowledge: Knowledge | None = None
    repeats: int = 1
    rungs: Sequence[float] = ()


@dataclass(frozen=True)
class Prepared:
    """What is only known once a run's lock is held.

    Args:
        inputs: What results depend on besides, JSON values.
        remarks: What a person should know of it, in sentences.
    """

    inputs: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
