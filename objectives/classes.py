"""Accuracy of each class, from a task's counts: the worst one, and what compression did to each against the control."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .base import binomial_error

__all__ = [
    "ClassChange",
    "WorstClass",
    "class_accuracies",
    "class_changes",
    "class_details",
    "counts_of",
    "worst_class",
]

Counts = Mapping[str, Sequence[int]]
"""``{"correct": [per class], "total": [per class]}``."""


@dataclass(frozen=True)
class WorstClass:
    """The class with the lowest accuracy.

    Args:
        label: Which one.
        accuracy: Its share of correct predictions.
        count: Of how many.
    """

    label: int
    accuracy: float
    count: int


@dataclass(frozen=True)
class ClassChange:
    """What happened to one class between the control and a candidate.

    Args:
        label: Which one.
        accuracy: The candidate's.
        change: The candidate's less the control's.
        standard_error: Of the change, the two networks taken as independent: an upper bound on the same images.
    """

    label: int
    accuracy: float
    change: float
    standard_error: float


def counts_of(tallies: Iterable[Counts]) -> dict[str, list[int]]:
    """Correct and total counts of several tallies together; empty lists for none."""
    totals: dict[str, list[int]] = {"correct": [], "total": []}
    for tally in tallies:
        for key, held in totals.items():
            counts = list(tally[key])
            totals[key] = [a + b for a, b in zip(held, counts, strict=True)] if held else counts
    return totals


def class_accuracies(counts: Counts) -> list[float | None]:
    """Share of correct predictions in each class, None for a class without images."""
    return [right / of if of else None for right, of in zip(counts["correct"], counts["total"], strict=True)]


def worst_class(counts: Counts) -> WorstClass | None:
    """The class with the lowest accuracy, the first of several; None where no class has images."""
    found = [(share, label) for label, share in enumerate(class_accuracies(counts)) if share is not None]
    if not found:
        return None
    accuracy, label = min(found)
    return WorstClass(label, accuracy, counts["total"][label])


def class_changes(counts: Counts, control: Counts) -> list[ClassChange]:
    """The change of every class that both have images of, in order of the classes."""
    changes = []
    pairs = zip(class_accuracies(counts), class_accuracies(control), strict=True)
    for label, (share, before) in enumerate(pairs):
        if share is not None and before is not None:
            error, error_before = (
                binomial_error(value, of["total"][label]) for value, of in ((share, counts), (before, control))
            )
            changes.append(ClassChange(label, share, share - before, math.hypot(error, error_before)))
    return changes


def class_details(counts: Counts, control: Counts) -> dict[str, Any]:
    """What a score keeps of its classes.

    Returns:
        ``accuracies`` of the classes and their ``changes`` against the control, None where a class has no images;
        ``mean_class_accuracy`` (balanced accuracy); ``largest_drop``, the most that a class has lost (0 where none has)
        and ``largest_drop_class``.
    """
    shares = class_accuracies(counts)
    changes = {found.label: found.change for found in class_changes(counts, control)}
    present = [share for share in shares if share is not None]
    label = min(changes, key=lambda key: changes[key], default=None)
    lost = label is not None and changes[label] < 0.0
    return {
        "accuracies": [None if share is None else round(share, 6) for share in shares],
        "changes": [round(changes[label], 6) if label in changes else None for label in range(len(shares))],
        "mean_class_accuracy": sum(present) / len(present) if present else None,
        "largest_drop": -changes[label] if lost and label is not None else 0.0,
        "largest_drop_class": label if lost else None,
    }
