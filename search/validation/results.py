"""From measured steps to numbers: errors, accuracies, and differences to the control paired image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...objectives.base import Judged, binomial_error
from ...objectives.classes import class_accuracies, class_changes, counts_of
from ...objectives.corruption_metrics import FLOOR, SEEN, corruption_scores, group_of, raw_numbers
from .entries import Entry
from .store import unpack

__all__ = [
    "Measurements",
    "Paired",
    "attack_numbers",
    "class_numbers",
    "corruption_numbers",
    "curve_numbers",
    "paired",
    "plain_numbers",
]

Bits = np.ndarray
"""Which images are right, bool, (N,); as a mean of several trainings the share of them, float64."""


@dataclass(frozen=True)
class Paired:
    """A difference between two means over the same images.

    Args:
        difference: The first less the second.
        standard_error: Of it: images that both get right or wrong add nothing.
    """

    difference: float
    standard_error: float


def paired(own: np.ndarray, control: np.ndarray) -> Paired:
    """The difference of two means and its standard error, sd(own − control) / √N.

    Args:
        own: float or bool, (N,); one value an image.
        control: The same images' values.
    """
    differences = np.asarray(own, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    count = len(differences)
    return Paired(float(differences.mean()), float(differences.std()) / math.sqrt(count)) if count else Paired(0.0, 0.0)


@dataclass
class Measurements:
    """What was measured of one subject; parts of the protocol that were left out are empty.

    Args:
        entry: Which one.
        images: How many test images.
        raws: Raw numbers of the study's objectives, by name.
        clean: What it makes of the plain images: ``correct`` (packed) and ``tally``.
        corrupted: The same under each corruption and severity.
        attack: For each batch in order ``images``, and who withstands: ``direct`` and ``robust`` (packed).
        audit: The report.
        curve: As one batch of `attack`, by radius.
    """

    entry: Entry
    images: int
    raws: dict[str, dict[str, Any]] = field(default_factory=dict)
    clean: dict[str, Any] = field(default_factory=dict)
    corrupted: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    attack: list[dict[str, Any]] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    curve: dict[float, dict[str, Any]] = field(default_factory=dict)

    def put(self, stage: str, key: tuple[Any, ...], value: dict[str, Any]) -> None:
        """Take the value of one step; `stage` and `key` say which."""
        if stage == "clean":
            self.clean = value
        elif stage == "objectives":
            self.raws[key[0]] = value
        elif stage == "corruptions":
            name, severity = key
            self.corrupted.setdefault(name, {})[severity] = value
        elif stage == "attack":
            self.attack.append(value)
        elif stage == "audit":
            self.audit = value
        elif stage == "curve":
            self.curve[key[0]] = value

    @property
    def correct(self) -> Bits:
        """Which plain images are right, (N,)."""
        return unpack(self.clean["correct"], self.images)

    @property
    def plain(self) -> Judged:
        """What it makes of the plain images."""
        return _judged(self.clean, self.images)

    def judged(self, name: str, severity: int) -> Judged:
        """What it makes of the images under one corruption."""
        return _judged(self.corrupted[name][severity], self.images)

    def wrong(self, name: str) -> np.ndarray:
        """Share of the severities of a corruption at which each image is wrong: float64, (N,)."""
        rights = [unpack(value["correct"], self.images) for value in self.corrupted[name].values()]
        return np.asarray(1.0 - np.mean(rights, axis=0, dtype=np.float64))

    def withstands(self, what: str) -> Bits:
        """Which images withstand the attack, (N,); `what` is ``"direct"`` or ``"robust"``."""
        return np.concatenate([unpack(batch[what], batch["images"]) for batch in self.attack])

    def withstands_at(self, epsilon: float) -> Bits:
        """Which of the curve's images withstand that radius, (n,)."""
        value = self.curve[epsilon]
        return unpack(value["robust"], value["images"])

    def raw_corruptions(self, names: Sequence[str], severities: Sequence[int] | None = None) -> dict[str, Any]:
        """The raw numbers that `corruption_scores` takes, of some of the corruptions.

        Args:
            names: Of the corruptions.
            severities: Which of those measured; None takes all.
        """
        recipe = self.entry.recipe
        found = {
            name: {
                severity: self.judged(name, severity)
                for severity in (self.corrupted[name] if severities is None else severities)
            }
            for name in names
        }
        augmentation = recipe.augmentation if recipe.augmentation_strength > 0.0 else None
        return raw_numbers(self.plain, found, augmentation=augmentation)


def corruption_numbers(own: Measurements, control: Measurements) -> dict[str, Any]:
    """Every variant of the corruption metrics, errors and their paired differences to the control's, JSON values.

    Metrics over corruptions, such as mCE, leave the four extra ones out where there are others, so that they are the
    published ones; ``mean_error_extra`` is theirs. Standard errors of ``mce``, ``mce_<group>``, ``relative_mce`` and
    ``ce`` too are paired: of the ratio, whose two sides saw the same images (delta method).
    """
    if not own.corrupted:
        return {}
    every = list(own.corrupted)
    names = [name for name in every if group_of(name) != "extra"] or every
    raw = own.raw_corruptions(names)
    scores = corruption_scores(raw, control.raw_corruptions(names))
    wrong, base = ({name: side.wrong(name) for name in every} for side in (own, control))

    def change(members: Sequence[str]) -> Paired:
        return paired(*(np.mean([side[name] for name in members], axis=0) for side in (wrong, base)))

    seen = SEEN.get(raw["augmentation"] or "", ())
    groups = {
        f"mean_error_{group}": [name for name in every if group_of(name) == group] for group in map(group_of, every)
    }
    groups |= {
        "mean_error": names,
        "mean_error_seen": [name for name in names if name in seen],
        "mean_error_unseen": [name for name in names if name not in seen],
    }
    if extra := groups.get("mean_error_extra"):
        errors = np.mean([wrong[name] for name in extra], axis=0)
        scores["mean_error_extra"] = float(errors.mean())
        scores["mean_error_extra_se"] = float(errors.std()) / math.sqrt(len(errors))
    for key, members in groups.items():
        if key in scores and members:
            scores |= _named(f"{key}_change", change(members))
    clean, base_clean = 1.0 - own.correct, 1.0 - control.correct
    ratios = [(wrong[name], base[name]) for name in names]
    scores["mce_se"] = _ratio_error(ratios)
    scores["ce_se"] = {name: _ratio_error([(wrong[name], base[name])]) for name in names}
    for group in dict.fromkeys(map(group_of, names)):
        scores[f"mce_{group}_se"] = _ratio_error(
            [(wrong[name], base[name]) for name in names if group_of(name) == group]
        )
    scores["relative_mce_se"] = _ratio_error([(e - clean, b - base_clean) for e, b in ratios])
    changes = {name: change([name]) for name in every}
    return {
        "errors": own.raw_corruptions(every)["errors"],
        "mean_errors": {name: float(wrong[name].mean()) for name in every},
        "mean_errors_change": {name: found.difference for name, found in changes.items()},
        "mean_errors_change_se": {name: found.standard_error for name, found in changes.items()},
        **{key: value for key, value in scores.items() if key not in ("errors", "errors_se")},
    }


def _ratio_error(ratios: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Standard error of the mean of 100 ē/b̄ over pairs (e, b) of values an image: of the linearised ratios."""
    influence = np.zeros(len(ratios[0][0]))
    for own, base in ratios:
        divisor = base.mean()
        # below the floor the error is compared by its difference, with a slope that is fixed
        slope = own.mean() / divisor if divisor >= FLOOR else 1.0
        influence += 100.0 * (own - slope * base) / max(divisor, FLOOR) / len(ratios)
    return float(influence.std()) / math.sqrt(len(influence))


def plain_numbers(own: Measurements, control: Measurements) -> dict[str, float]:
    """Accuracy on the plain images, and its paired difference to the control's."""
    share = float(own.correct.mean())
    return {
        "accuracy": share,
        "accuracy_se": binomial_error(share, own.images),
        **_named("accuracy_change", paired(own.correct, control.correct)),
    }


def attack_numbers(own: Measurements, control: Measurements) -> dict[str, Any]:
    """Accuracy when clean, under the attack, and under all that the same images must withstand; paired differences."""
    if not own.attack:
        return {}
    numbers: dict[str, Any] = {"images": own.images}
    sides = {
        "clean": (own.correct, control.correct),
        "direct": (own.withstands("direct"), control.withstands("direct")),
        "robust": (own.withstands("robust"), control.withstands("robust")),
    }
    for key, (bits, base) in sides.items():
        share = float(bits.mean())
        numbers |= {f"{key}_accuracy": share, f"{key}_accuracy_se": binomial_error(share, len(bits))}
        numbers |= _named(f"{key}_accuracy_change", paired(bits, base))
    numbers["masking_gap"] = numbers["direct_accuracy"] - numbers["robust_accuracy"]
    return numbers


def curve_numbers(own: Measurements) -> dict[str, Any]:
    """Accuracy by radius, from 0 up: ``{"0.03137": {"epsilon": …, "accuracy": …, "accuracy_se": …, "images": n}}``."""
    if not own.curve:
        return {}
    count = next(iter(own.curve.values()))["images"]
    points = {0.0: own.correct[:count]}
    points |= {epsilon: own.withstands_at(epsilon) for epsilon in sorted(own.curve)}
    numbers = {}
    for epsilon, bits in points.items():
        share = float(bits.mean())
        error = binomial_error(share, count)
        numbers[f"{epsilon:.5f}"] = {"epsilon": epsilon, "accuracy": share, "accuracy_se": error, "images": count}
    return numbers


def class_numbers(own: Measurements, control: Measurements, names: tuple[str, ...]) -> dict[str, Any]:
    """What became of each class: accuracy, and change against the control, on plain and on corrupted images.

    Empty for a task whose counts are not of classes; a class without images has None.

    Args:
        own: The subject's.
        control: The control's.
        names: Of the classes.
    """
    tally = own.plain.tally
    if not {"correct", "total"} <= tally.keys() or len(tally["total"]) != len(names):
        return {}
    numbers: dict[str, Any] = {name: {"images": images} for name, images in zip(names, tally["total"], strict=True)}
    sides = {"": (counts_of([tally]), counts_of([control.plain.tally]))}
    if own.corrupted:
        sides["corrupted_"] = (_corrupted_counts(own), _corrupted_counts(control))
    for prefix, (counts, base) in sides.items():
        changes = {found.label: found.change for found in class_changes(counts, base)}
        for label, (name, share) in enumerate(zip(names, class_accuracies(counts), strict=True)):
            numbers[name] |= {f"{prefix}accuracy": share, f"{prefix}accuracy_change": changes.get(label)}
    return numbers


def _corrupted_counts(side: Measurements) -> dict[str, list[int]]:
    return counts_of(side.judged(name, severity).tally for name, found in side.corrupted.items() for severity in found)


def _judged(value: Mapping[str, Any], images: int) -> Judged:
    return Judged(torch.from_numpy(unpack(value["correct"], images)), value["tally"])


def _named(key: str, found: Paired) -> dict[str, float]:
    return {key: found.difference, f"{key}_se": found.standard_error}
