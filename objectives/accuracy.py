"""Accuracy on plain images: of all of them, and of the class that fares worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from .base import Direction, Objective, Score, Subject, binomial_error
from .classes import class_details, worst_class

__all__ = ["Accuracy", "WorstClassAccuracy"]


class Accuracy(Objective):
    """Share of images predicted correctly, in [0, 1].

    Details hold the accuracy of each class and its change against the control (`classes.class_details`).

    Args:
        images: Score on this many images only; None takes all.
    """

    name = "accuracy"
    direction: ClassVar[Direction] = "maximize"

    def __init__(self, *, images: Annotated[int, Field(ge=1)] | None = None) -> None:
        self.images = images

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"correct": [per class], "total": [per class]}``."""
        return dict(subject.clean(self.images).tally)

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """Accuracy with its binomial standard error."""
        count = sum(raw["total"])
        share = sum(raw["correct"]) / max(count, 1)
        return Score(share, binomial_error(share, count), {"images": count, **class_details(raw, control_raw)})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0


class WorstClassAccuracy(Accuracy):
    """Accuracy of the class with the lowest, in [0, 1]; classes without images do not count.

    Options and details as of `Accuracy`; a detail names the class.
    """

    name = "worst_class_accuracy"

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The minimum, the class that has it, and that class's binomial standard error."""
        details = class_details(raw, control_raw)
        worst = worst_class(raw)
        if worst is None:
            return Score(0.0, None, {"class": None, "images": 0, **details})
        of_class = {"class": worst.label, "images": worst.count}
        return Score(worst.accuracy, binomial_error(worst.accuracy, worst.count), {**of_class, **details})
