"""Accuracy on plain images: of all of them, and of the class that fares worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from .base import Direction, Objective, Score, Subject, binomial_error

__all__ = ["Accuracy", "WorstClassAccuracy"]


class Accuracy(Objective):
    """Share of images predicted correctly, in [0, 1].

    Args:
        images: Score on this many images only; None takes all.
    """

    name = "accuracy"
    direction: ClassVar[Direction] = "maximize"

    def __init__(self, *, images: Annotated[int, Field(ge=1)] | None = None) -> None:
        self.images = images

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"correct": [per class], "total": [per class]}``."""
        return dict(subject.clean_tally(self.images))

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """Accuracy with its binomial standard error."""
        count = sum(raw["total"])
        share = sum(raw["correct"]) / max(count, 1)
        return Score(share, binomial_error(share, count), {"images": count})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0


class WorstClassAccuracy(Objective):
    """Accuracy of the class with the lowest, in [0, 1]; classes without images do not count.

    Args:
        images: Score on this many images only; None takes all.
    """

    name = "worst_class_accuracy"
    direction: ClassVar[Direction] = "maximize"

    def __init__(self, *, images: Annotated[int, Field(ge=1)] | None = None) -> None:
        self.images = images

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"correct": [per class], "total": [per class]}``."""
        return dict(subject.clean_tally(self.images))

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The minimum, the class that has it, and that class's binomial standard error."""
        shares = {
            label: right / count
            for label, (right, count) in enumerate(zip(raw["correct"], raw["total"], strict=True))
            if count
        }
        if not shares:
            return Score(0.0, None, {"class": None, "images": 0})
        label = min(shares, key=lambda key: shares[key])
        count = raw["total"][label]
        return Score(shares[label], binomial_error(shares[label], count), {"class": label, "images": count})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0
