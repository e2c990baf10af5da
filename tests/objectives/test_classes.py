"""Accuracy of classes: the worst one, and what changed against the control."""

from __future__ import annotations

import math

import pytest
import torch

from forgefront.objectives.accuracy import Accuracy, WorstClassAccuracy
from forgefront.objectives.base import Subject, binomial_error, judge
from forgefront.objectives.classes import (
    ClassChange,
    class_accuracies,
    class_changes,
    class_details,
    counts_of,
    worst_class,
)
from forgefront.trainers.tasks.base import EvaluationSet

COUNTS = {"correct": [9, 0, 3], "total": [10, 0, 4]}
CONTROL = {"correct": [8, 0, 4], "total": [10, 0, 4]}


def test_accuracy_counts_and_its_standard_error(subject: Subject) -> None:
    objective = Accuracy(images=100)
    raw = objective.measure(subject)
    images = subject.task.evaluation("validation", 100)
    with torch.no_grad():
        predicted = subject.candidate.model(images.images.float() / 255.0).argmax(1)
    score = objective.derive(raw, raw)
    right = predicted == images.targets
    assert sum(raw["total"]) == 100
    assert score.value == pytest.approx(float(right.double().mean()))
    assert score.standard_error == pytest.approx((score.value * (1 - score.value) / 100) ** 0.5)
    assert score.value > 0.5
    for label, share in enumerate(score.details["accuracies"]):
        assert share == pytest.approx(float(right[images.targets == label].double().mean()), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 100, 500])
def test_a_model_is_judged_alike_in_batches_of_any_size(subject: Subject, batch_size: int) -> None:
    images = subject.task.evaluation("validation", 40)
    found, whole = (judge(subject.candidate.model, subject.task, images, size) for size in (batch_size, 40))
    assert torch.equal(found.correct, whole.correct)
    assert found.tally == whole.tally
    assert sum(found.tally["correct"]) == int(found.correct.sum())


def test_judging_puts_the_model_in_evaluation_mode(subject: Subject) -> None:
    images = subject.task.evaluation("validation", 20)
    part = EvaluationSet(images.images[:5], images.targets[:5], images.indices[:5])
    model = subject.candidate.model
    try:
        alone = judge(model.train(), subject.task, part, 500)
        assert not model.training
    finally:
        model.eval()
    assert torch.equal(alone.correct, judge(model, subject.task, images, 500).correct[:5])


def test_worst_class_leaves_out_classes_without_images() -> None:
    score = WorstClassAccuracy().derive(COUNTS, COUNTS)
    assert score.value == 0.75
    assert score.details["class"] == 2
    assert score.details["images"] == 4
    assert score.standard_error == pytest.approx(binomial_error(0.75, 4))


def test_no_images_at_all_give_no_class() -> None:
    empty = {"correct": [0, 0], "total": [0, 0]}
    score = WorstClassAccuracy().derive(empty, empty)
    assert (score.value, score.standard_error, score.details["class"]) == (0.0, None, None)
    assert worst_class(empty) is None
    assert counts_of([]) == {"correct": [], "total": []}


def test_the_first_of_equally_bad_classes_is_the_worst() -> None:
    worst = worst_class({"correct": [5, 2, 1], "total": [5, 4, 2]})
    assert worst is not None
    assert (worst.label, worst.accuracy, worst.count) == (1, 0.5, 4)


def test_changes_against_the_control() -> None:
    assert class_accuracies(COUNTS) == [0.9, None, 0.75]
    first, second = class_changes(COUNTS, CONTROL)
    expected = math.hypot(binomial_error(0.9, 10), binomial_error(0.8, 10))
    assert first == ClassChange(0, 0.9, pytest.approx(0.1), pytest.approx(expected))
    assert (second.label, second.change, second.standard_error) == (2, -0.25, binomial_error(0.75, 4))
    details = class_details(COUNTS, CONTROL)
    assert details["accuracies"] == [0.9, None, 0.75]
    assert details["changes"] == [0.1, None, -0.25]
    assert (details["largest_drop"], details["largest_drop_class"]) == (0.25, 2)
    assert details["mean_class_accuracy"] == pytest.approx(0.825)


def test_accuracy_may_hide_what_a_class_has_lost() -> None:
    control = {"correct": [90, 8], "total": [100, 10]}
    trial = {"correct": [96, 2], "total": [100, 10]}
    score = Accuracy().derive(trial, control)
    assert score.value == pytest.approx(98 / 110)
    assert score.details["largest_drop"] == pytest.approx(0.6)
    assert score.details["largest_drop_class"] == 1
    assert Accuracy().derive(control, control).details["largest_drop"] == 0.0


def test_counts_of_several_tallies_add_up() -> None:
    assert counts_of([COUNTS, CONTROL]) == {"correct": [17, 0, 7], "total": [20, 0, 8]}
