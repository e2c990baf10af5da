"""What several trainings of a subject come to: means, the errors that are stated with them, who is told apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from forgefront.objectives.base import Objective, Score, Subject
from forgefront.search.validation.comparison import MOST_PAIRS, comparison, with_pairs
from forgefront.search.validation.entries import Entry
from forgefront.search.validation.results import (
    Measurements,
    attack_numbers,
    class_numbers,
    corruption_numbers,
    curve_numbers,
    plain_numbers,
)
from forgefront.search.validation.rows import flat
from forgefront.search.validation.store import pack
from forgefront.search.validation.trainings import (
    MeanMeasurements,
    numbers_with_errors,
    scores_with_errors,
    worst_audit,
)
from forgefront.spaces.plan import Recipe, TrialPlan

EPSILONS = (0.01, 0.03)


def training(generator: np.random.Generator, hard: np.ndarray, level: float, spread: float = 0.05) -> Measurements:
    """One training: images are hard alike for all of them, its own luck lifts or lowers all of its accuracies."""
    images, luck = len(hard), spread * generator.standard_normal()
    labels = np.arange(images) % 3

    def judged(share: float) -> dict[str, Any]:
        right = 0.7 * hard + 0.3 * generator.random(images) < share + luck
        counts = [np.bincount(labels[chosen], minlength=3).tolist() for chosen in (right, slice(None))]
        return {
            "correct": pack(torch.from_numpy(right)),
            "tally": dict(zip(("correct", "total"), counts, strict=True)),
        }

    found = Measurements(Entry("trial-4", 4, "trial", TrialPlan({}, Recipe())), images)
    found.clean = judged(level)
    for name in ("gaussian_noise", "fog"):
        found.corrupted[name] = {severity: judged(level - 0.05 * severity) for severity in (1, 3, 5)}
    attacked = judged(level - 0.3)["correct"]
    found.attack = [{"images": images, "direct": attacked, "robust": attacked}]
    found.curve = {one: {"images": images, "robust": judged(level - 10 * one)["correct"]} for one in EPSILONS}
    return found


def trainings(seed: int, count: int, level: float, images: int = 300, spread: float = 0.05) -> list[Measurements]:
    hard = np.random.default_rng(0).random(images)
    generator = np.random.default_rng(seed)
    return [training(generator, hard, level, spread) for _ in range(count)]


def by_class(own: Measurements, control: Measurements) -> dict[str, Any]:
    return class_numbers(own, control, ("a", "b", "c"))


def curve(own: Measurements, control: Measurements) -> dict[str, Any]:
    return curve_numbers(own)


EVERY = [corruption_numbers, attack_numbers, plain_numbers, by_class, curve]


@pytest.mark.parametrize("compared", EVERY)
def test_one_training_has_the_numbers_that_it_had(compared: Any) -> None:
    own, control = trainings(1, 1, 0.7), trainings(2, 1, 0.8)
    assert numbers_with_errors(compared, own, control) == compared(own[0], control[0])


@pytest.mark.parametrize("compared", EVERY)
def test_the_same_training_twice_adds_nothing(compared: Any) -> None:
    own, control = trainings(1, 1, 0.7), trainings(2, 1, 0.8)
    twice, once = flat(numbers_with_errors(compared, own * 2, control * 2)), flat(compared(own[0], control[0]))
    assert twice.keys() == once.keys()
    for key, value in once.items():
        assert twice[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def test_an_error_holds_the_images_and_the_trainings_of_both() -> None:
    own, control = trainings(1, 3, 0.7), trainings(2, 3, 0.8)
    found = numbers_with_errors(plain_numbers, own, control)
    shares, base = ([one.correct.mean() for one in side] for side in (own, control))
    assert found["accuracy"] == pytest.approx(np.mean(shares))
    assert found["accuracy_change"] == pytest.approx(np.mean(shares) - np.mean(base))
    images = np.mean([one.correct for one in own], axis=0) - np.mean([one.correct for one in control], axis=0)
    between = statistics.variance(shares) / 3 + statistics.variance(base) / 3
    assert found["accuracy_change_se"] == pytest.approx(math.sqrt(images.var() / len(images) + between))
    sampled = np.mean(shares) * (1 - np.mean(shares)) / 300
    assert found["accuracy_se"] == pytest.approx(math.sqrt(sampled + statistics.variance(shares) / 3))


def test_ratios_and_nested_numbers_have_it_too() -> None:
    own, control = trainings(1, 3, 0.7), trainings(2, 3, 0.8)
    means = MeanMeasurements(own), MeanMeasurements(control)
    plain, found = corruption_numbers(*means), numbers_with_errors(corruption_numbers, own, control)
    sides = [corruption_numbers(one, means[1]) for one in own], [corruption_numbers(means[0], one) for one in control]

    def expected(error: float, pick: Any) -> float:
        return math.sqrt(error**2 + sum(statistics.variance(map(pick, side)) / 3 for side in sides))

    assert found["mce"] == plain["mce"]
    ratios = [np.mean([one.wrong(name) for one in own]) / means[1].wrong(name).mean() for name in own[0].corrupted]
    assert found["mce"] == pytest.approx(100 * np.mean(ratios))
    assert found["mce_se"] == pytest.approx(expected(plain["mce_se"], lambda one: one["mce"]))
    assert found["ce_se"]["fog"] == pytest.approx(expected(plain["ce_se"]["fog"], lambda one: one["ce"]["fog"]))
    error = expected(plain["mean_errors_change_se"]["fog"], lambda one: one["mean_errors_change"]["fog"])
    assert found["mean_errors_change_se"]["fog"] == pytest.approx(error)
    points = numbers_with_errors(curve, own, control)["0.03000"]
    shares = [one.withstands_at(0.03).mean() for one in own]
    assert points["accuracy"] == pytest.approx(np.mean(shares))
    assert points["accuracy_se"] > math.sqrt(statistics.variance(shares) / 3)


def test_the_control_differs_from_itself_by_nothing() -> None:
    control = trainings(2, 3, 0.8)
    numbers = numbers_with_errors(corruption_numbers, control, control)
    assert numbers["mce"] == pytest.approx(100.0)
    assert numbers["mce_se"] == pytest.approx(0.0, abs=1e-9)
    assert numbers["mean_error_change_se"] == numbers["mean_error_change"] == 0.0
    # its own error is no less uncertain for that
    assert numbers["mean_error_se"] > corruption_numbers(control[0], control[0])["mean_error_se"] * 0.5


def test_classes_keep_their_images_and_have_the_mean_of_their_counts() -> None:
    own, control = trainings(1, 2, 0.7), trainings(2, 2, 0.8)
    numbers = numbers_with_errors(by_class, own, control)
    assert {type(one["images"]) for one in numbers.values()} == {int}
    for label, name in enumerate("abc"):
        shares = [one.clean["tally"]["correct"][label] / 100 for one in own]
        assert numbers[name]["accuracy"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_stated_error_is_the_spread_of_repeated_validations(spread: float) -> None:
    """New images and new trainings each time: differences of two means scatter by what is stated."""
    generator, differences, stated = np.random.default_rng(5), [], []
    for _ in range(150):
        hard = generator.random(150)
        sides = [[training(generator, hard, level, spread) for _ in range(4)] for level in (0.6, 0.6)]
        found = numbers_with_errors(plain_numbers, *sides)
        differences.append(found["accuracy_change"])
        stated.append(found["accuracy_change_se"])
    ratio = math.sqrt(np.mean(np.square(stated))) / np.std(differences)
    # what trainings decide differently by chance, image by image, counts on both sides
    assert 0.85 < ratio < 1.6


# scores of the study's objectives


class Ratio(Objective):
    """A number relative to the control's, with the error and the audit that the raw numbers state."""

    name = "ratio"
    direction: ClassVar[Any] = "minimize"

    def measure(self, subject: Subject) -> dict[str, Any]:
        return {"value": float(subject.candidate.achieved["macs"]), "error": None}

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        details = {"plain": raw["value"], "plain_se": 0.5, "verdict": raw.get("verdict", "sound"), "names": ["a"]}
        return Score(raw["value"] / control_raw["value"], raw["error"], details)

    def worst(self, control_value: float) -> float:
        return control_value


def raws(values: Sequence[float], error: float | None = 0.1, verdicts: Sequence[str] = ()) -> list[dict[str, Any]]:
    found = [{"value": value, "error": error} for value in values]
    return [{"ratio": one | {"verdict": word}} for one, word in zip(found, verdicts or ["sound"] * 9, strict=False)]


def test_a_score_relative_to_the_control_varies_with_its_trainings() -> None:
    own, control = [3.0, 4.0, 5.0], [1.0, 2.0, 2.0]
    scores, each = scores_with_errors([Ratio()], raws(own), raws(control))
    inverse = [1 / value for value in control]
    assert scores["ratio"]["value"] == pytest.approx(4.0 * np.mean(inverse))
    assert [one["ratio"]["value"] for one in each] == pytest.approx([value * np.mean(inverse) for value in own])
    between = np.mean(inverse) ** 2 * statistics.variance(own) / 3
    control_part = np.mean(np.square(own)) * statistics.variance(inverse) / 3
    assert scores["ratio"]["standard_error"] == pytest.approx(math.sqrt(0.1**2 + between + control_part))
    details = scores["ratio"]["details"]
    assert details["plain"] == pytest.approx(4.0)
    assert details["plain_se"] == pytest.approx(math.sqrt(0.5**2 + statistics.variance(own) / 3))
    assert details["names"] == ["a"]


def test_a_score_of_the_control_is_against_the_same_training() -> None:
    control = raws([1.0, 2.0, 4.0], error=None)
    scores, _ = scores_with_errors([Ratio()], control, control)
    assert (scores["ratio"]["value"], scores["ratio"]["standard_error"]) == (1.0, 0.0)


def test_one_training_has_the_score_that_it_had() -> None:
    own, control = raws([3.0]), raws([2.0])
    scores, each = scores_with_errors([Ratio()], own, control)
    assert scores == each[0] == {"ratio": Ratio().derive(own[0]["ratio"], control[0]["ratio"]).to_dict()}


def test_a_masked_training_masks_the_score() -> None:
    own = raws([1.0, 2.0, 3.0], verdicts=["sound", "masked", "sound"])
    scores, _ = scores_with_errors([Ratio()], own, raws([1.0, 1.0, 1.0]))
    assert scores["ratio"]["details"]["verdict"] == "masked"
    assert scores["ratio"]["value"] == pytest.approx(2.0)


def audited(**values: float) -> dict[str, Any]:
    checks = [{"name": key, "value": value, "bound": 0.1, "passed": value <= 0.1} for key, value in values.items()]
    failed = [check["name"] for check in checks if not check["passed"]]
    return {"images": 200, "checks": checks, "failed": failed, "verdict": "masked" if failed else "sound"}


def test_each_check_counts_as_it_came_out_worst() -> None:
    found = worst_audit([audited(bpda=0.05, noise=0.02), audited(bpda=0.2, noise=0.01), audited(bpda=0.3, noise=0.0)])
    assert {check["name"]: check["value"] for check in found["checks"]} == {"bpda": 0.3, "noise": 0.02}
    assert (found["verdict"], found["failed"], found["masked_trainings"]) == ("masked", ["bpda"], 2)
    assert worst_audit([audited(bpda=0.05), audited(bpda=0.07)])["verdict"] == "sound"
    assert worst_audit([audited(bpda=0.2)]) == audited(bpda=0.2)
    assert worst_audit([{}, {}]) == {}


# who is told apart


def row(number: int, role: str = "trial", **values: tuple[float | None, float | None]) -> dict[str, Any]:
    columns = {name: value for name, (value, _) in values.items()}
    errors = {f"{name}_se": error for name, (_, error) in values.items()}
    changes = {name: {"change": 0.0, "change_se": 0.0, "beyond": False} for name in values}
    each = {str(index): dict(columns) for index in (1, 2)}
    return {"number": number, "role": role, **columns, **errors, "changes": changes, "trainings": each}


def test_two_trials_are_apart_where_two_errors_do_not_bridge_them() -> None:
    control = row(0, "control", accuracy=(0.9, 0.01), size=(1.0, None))
    like = row(1, "recipe control", accuracy=(0.9, 0.01), size=(1.0, None))
    trials = [
        row(1, accuracy=(0.80, 0.01), size=(2.0, None)),
        row(2, accuracy=(0.82, 0.01), size=(2.0, 0.0)),
        row(3, accuracy=(0.83, 0.01), size=(2.0, None)),
        row(4, accuracy=(None, None), size=(3.0, None)),
    ]
    found = with_pairs([control, like, *trials], ["accuracy", "size"])
    assert "told_apart" not in found[0]
    assert "alike" not in found[1]
    # 0.02 lies within 2 sqrt(2) 0.01, 0.03 does not
    assert found[2]["told_apart"] == {"2": "", "3": "accuracy", "4": "size"}
    assert [one["alike"] for one in found[2:]] == ["2", "1 3", "2", ""]
    text = "\n".join(comparison(["accuracy", "size"], found, ["control", "like", "a", "b", "c", "d"]))
    assert "trials 1 and 2 differ in nothing by more than two standard errors" in text
    assert "trials 1 and 3 differ in accuracy\n" in text
    assert "sqrt(e² + s²/2)" in text


def test_of_many_trials_those_that_differ_in_nothing_are_told() -> None:
    rows = [row(0, "control", accuracy=(0.9, 0.0))] + [row(number, accuracy=(0.5, 0.0)) for number in (7, 8)]
    rows += [row(number, accuracy=(0.01 * number, 0.0)) for number in range(10, 10 + MOST_PAIRS)]
    found = list(comparison(["accuracy"], with_pairs(rows, ["accuracy"]), [str(one["number"]) for one in rows]))
    _, *lines = found[-1].splitlines()
    pairs = 17 * 16 // 2
    assert lines == [
        "trials 7 and 8 differ in nothing by more than two standard errors",
        f"{pairs - 1} of {pairs} pairs differ in something",
    ]
