"""Rungs of early stopping: looks at a training before its end, at what the model would be if it ended there.

A copy is brought to its final compression, measured again where batch norm is concerned, and finalized. The training
itself knows nothing of it: with rungs or without, every weight comes out the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..studies.errors import InputError, TrialError

if TYPE_CHECKING:
    from ..compression.attach import Attached

__all__ = ["FEWEST_STEPS", "Rungs", "StoppedError", "check_rungs", "rung_steps"]

FEWEST_STEPS = 20
"""Steps that must lie before the first rung: before that, how far a training got says nothing of where it ends."""


class StoppedError(TrialError):
    """A training was stopped at a rung.

    Args:
        reason: Why, in a clause.
        rungs: What was recorded at each that it reached, this one included.
        history: One row for each epoch that was whole by then, as of `fit`.
        deviations: What had gone otherwise than planned by then, one line each.
    """

    def __init__(
        self, reason: str, rungs: list[dict[str, Any]], history: list[dict[str, float]], deviations: list[str]
    ) -> None:
        super().__init__(reason)
        self.rungs, self.history, self.deviations = rungs, history, deviations


@dataclass(frozen=True)
class Rungs:
    """Where to look, and who looks.

    Args:
        fractions: Shares of the steps, rising, in (0, 1).
        look: Called as ``look(index, fraction, step, attached)`` with a finalized copy; gives what to record, plain
            data, and None to go on or the reason to stop.
    """

    fractions: Sequence[float]
    look: Callable[[int, float, int, Attached], tuple[dict[str, Any], str | None]]


def rung_steps(fractions: Sequence[float], steps: int) -> list[int]:
    """The steps, from 1, after which a training of `steps` is looked at; those that would be its end are left out."""
    return [step for fraction in fractions if (step := math.ceil(fraction * steps - 1e-9)) < steps]


def check_rungs(fractions: Sequence[float], steps: int) -> None:
    """Refuse rungs that come too early to tell anything.

    Args:
        fractions: Shares of the training, rising.
        steps: Of the whole training.

    Raises:
        InputError: Fewer than 20 steps lie before the first rung.
    """
    first = rung_steps(fractions, steps)[:1]
    if not first or first[0] < FEWEST_STEPS:
        before = first[0] if first else steps
        rule = f"must leave at least {FEWEST_STEPS} training steps before the first"
        hint = "Did you mean a longer training, or none?" if steps < 2 * FEWEST_STEPS else ""
        hint = hint or f"Did you mean {math.ceil(100 * FEWEST_STEPS / steps) / 100:g}?"
        raise InputError(f"`search.early_stopping.rungs` {rule}; found {before} of {steps}. {hint}")
