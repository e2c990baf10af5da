"""All objectives of a study on one candidate: measured where the trial runs, derived where the control is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Objective, Score, Subject

__all__ = ["derive_all", "measure_all"]


def measure_all(objectives: Sequence[Objective], subject: Subject) -> dict[str, dict[str, Any]]:
    """Raw numbers of each objective by its name, JSON values; `subject` stays in evaluation mode."""
    return {objective.name: objective.measure(subject) for objective in objectives}


def derive_all(
    objectives: Sequence[Objective],
    raws: Mapping[str, Mapping[str, Any]],
    control_raws: Mapping[str, Mapping[str, Any]],
) -> dict[str, Score]:
    """Scores by objective name, from a trial's raw numbers and the control's (the same mapping for the control)."""
    return {
        objective.name: objective.derive(raws[objective.name], control_raws[objective.name]) for objective in objectives
    }
