"""Measured latency on a target, as a ratio to the dense control timed in the same rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..spaces.forecast import Forecast
from ..spaces.plan import TrialPlan
from .base import Direction, Objective, Score, Subject
from .forecast_facts import PlanFacts
from .forecast_latency import latency_ratio

__all__ = ["Latency"]

# a median's standard error is sqrt(pi / 2) that of a mean; an interquartile range spans 1.349 standard deviations
MEDIAN_ERROR = math.sqrt(math.pi / 2.0) / 1.349


class Latency(Objective):
    """Median paired time of candidate over control: 1 for the control, 0.5 for twice as fast.

    Milliseconds drift with the machine's load; a ratio taken in shuffled, paired rounds does not, so it is what trials
    are compared by. The milliseconds stay in the raw numbers.

    Args:
        target: Name of the target to time on; None takes the study's first.
    """

    name = "latency"
    direction: ClassVar[Direction] = "minimize"

    def __init__(self, *, target: str | None = None) -> None:
        self.target = target

    def measure(self, subject: Subject) -> dict[str, Any]:
        """The target's comparison, and whether the control was timed against itself."""
        target = subject.target(self.target)
        artefact, reference = subject.artefacts[target.name], subject.control_artefacts[target.name]
        comparison = target.time(artefact, reference, seed=subject.seed.child(self.name))
        return {
            **comparison.to_dict(),
            "target": target.name,
            "against_itself": artefact.path == reference.path,
        }

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The ratio, exactly 1 for the control; its standard error from the rounds' interquartile range."""
        low, high = raw["speedup_iqr"]
        error = MEDIAN_ERROR * (1.0 / low - 1.0 / high) / math.sqrt(max(raw["rounds"], 1))
        details = {
            "speedup": raw["speedup"],
            "speedup_iqr": [low, high],
            "latency_ms": raw["latency_ms"],
            "control_ms": raw["reference_ms"],
            "target": raw["target"],
        }
        return Score(1.0 if raw["against_itself"] else 1.0 / raw["speedup"], error, details)

    def worst(self, control_value: float) -> float:
        """Half as slow again as the control."""
        return 1.5 * control_value

    def forecast(self, plan: TrialPlan, facts: PlanFacts) -> Forecast:
        """An estimate of the ratio, from the run's cost table where it has one of this target, else from operations."""
        target = self.target or (facts.targets[0] if facts.targets else "")
        ratio = latency_ratio(plan, facts, target)
        return Forecast(ratio, details={"speedup": Forecast(1.0 / ratio)})
