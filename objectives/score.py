"""All objectives of a study on one candidate: measured where the trial runs, derived where the control is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..compression.targets import exclusive
from .base import Objective, Score, Subject

__all__ = ["derive_all", "measure_all"]


def measure_all(objectives: Sequence[Objective], subject: Subject) -> dict[str, dict[str, Any]]:
    """Raw numbers of each objective by its name, JSON values; `subject` stays in evaluation mode.

    The device is shared with other processes' trials meanwhile, and left to those that measure time between batches.
    """
    device = next(subject.candidate.model.parameters()).device
    # every forward pass begins a batch, whatever an objective does with the model
    pause = subject.candidate.model.register_forward_pre_hook(lambda model, inputs: exclusive.make_way(device))
    try:
        with exclusive.shared(device):
            return {objective.name: objective.measure(subject) for objective in objectives}
    finally:
        pause.remove()


def derive_all(
    objectives: Sequence[Objective],
    raws: Mapping[str, Mapping[str, Any]],
    control_raws: Mapping[str, Mapping[str, Any]],
) -> dict[str, Score]:
    """Scores by objective name, from a trial's raw numbers and the control's (the same mapping for the control)."""
    return {
        objective.name: objective.derive(raws[objective.name], control_raws[objective.name]) for objective in objectives
    }
