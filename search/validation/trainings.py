"""Several trainings of each subject under seeds of their own: means, with errors that count trainings and images.

Of k trainings a number has the standard error

    sqrt(e² + s²/k)                    s: standard deviation between the trainings, e: error over images
    sqrt(e² + s²/k + s_control²/k)     for a difference or a ratio to the control

The images are the same for all of them, so that e does not shrink as s²/k does. Where the bits of each image are kept,
e of a difference or ratio is paired image by image, of the means over trainings. The trainings themselves are not
paired: the first of a trial has nothing in common with the first of the control, so that the part of each adds. s of
two or three trainings is itself known but roughly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...objectives.base import Judged, Objective
from ...objectives.score import derive_all
from ..repeats import combined
from ..score_columns import MASKED
from .results import Bits, Measurements

__all__ = ["MeanMeasurements", "numbers_with_errors", "scores_with_errors", "worst_audit"]

Numbers = Mapping[str, Any]
Compared = Callable[[Measurements, Measurements], dict[str, Any]]
"""Numbers of a subject's measurements against the control's, such as `results.corruption_numbers`."""


class MeanMeasurements(Measurements):
    """The mean over trainings, image by image, of what was measured of one subject; see `Measurements`.

    Args:
        trainings: The measurements of each, at least one, of the same parts of the protocol.
    """

    def __init__(self, trainings: Sequence[Measurements]) -> None:
        first = trainings[0]
        super().__init__(
            first.entry,
            first.images,
            clean=first.clean,
            corrupted=first.corrupted,
            attack=first.attack,
            curve=first.curve,
            audit=worst_audit([one.audit for one in trainings]),
        )
        self.trainings = list(trainings)

    @property
    def correct(self) -> Bits:
        return _mean([one.correct for one in self.trainings])

    @property
    def plain(self) -> Judged:
        return _mean_judged([one.plain for one in self.trainings])

    def judged(self, name: str, severity: int) -> Judged:
        return _mean_judged([one.judged(name, severity) for one in self.trainings])

    def wrong(self, name: str) -> np.ndarray:
        return _mean([one.wrong(name) for one in self.trainings])

    def withstands(self, what: str) -> Bits:
        return _mean([one.withstands(what) for one in self.trainings])

    def withstands_at(self, epsilon: float) -> Bits:
        return _mean([one.withstands_at(epsilon) for one in self.trainings])


def numbers_with_errors(
    compared: Compared, own: Sequence[Measurements], control: Sequence[Measurements]
) -> dict[str, Any]:
    """Numbers of several trainings against the control's: of the means, with the part of the trainings in each error.

    Args:
        compared: Gives one subject's numbers; those with an error have it under ``<key>_se``.
        own: Of the subject, k trainings.
        control: Of the control, as many; the same sequence where it is the subject.
    """
    if len(own) == len(control) == 1:
        return compared(own[0], control[0])
    if own is control:
        # one that is compared with itself
        mean = MeanMeasurements(own)
        return _widened(compared(mean, mean), [[compared(one, one) for one in own]])
    means = MeanMeasurements(own), MeanMeasurements(control)
    varied = [[compared(one, means[1]) for one in own], [compared(means[0], one) for one in control]]
    return _widened(compared(*means), varied)


def scores_with_errors(
    objectives: Sequence[Objective],
    own: Sequence[Mapping[str, Any]],
    control: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Any]], list[dict[str, dict[str, Any]]]]:
    """Scores by metric, as they are stored with a trial: over all trainings, and those of each.

    Each training's score is derived against each of the control's, for what is relative to it varies with both.

    Args:
        objectives: The study's.
        own: Raw numbers by metric, of each training of the subject.
        control: Of the control, as many; the same sequence where it is the subject.
    """
    each = []
    for raws in own:
        pairs = [derive_all(objectives, raws, base) for base in ([raws] if own is control else control)]
        each.append({name: _combined([pair[name].to_dict() for pair in pairs]) for name in pairs[0]})
    # verdicts are taken from the first
    audited = [sorted((one[name] for one in each), key=_is_sound) for name in each[0]]
    return {name: _combined(scores) for name, scores in zip(each[0], audited, strict=True)}, each


def worst_audit(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reports of several trainings as one: each check as it came out worst, masked where any of them is.

    Args:
        reports: As `AuditReport.to_dict` gives them; all empty where nothing was audited.
    """
    first = next((report for report in reports if report.get("verdict") == MASKED), reports[0])
    if len(reports) == 1 or not first:
        return dict(first)
    found: dict[str, Any] = {}
    for check in (check for report in reports for check in report["checks"]):
        known = found.get(check["name"])
        if known is None or (check["passed"], -check["value"]) < (known["passed"], -known["value"]):
            found[check["name"]] = check
    failed = [name for name, check in found.items() if not check["passed"]]
    masked = sum(report["verdict"] == MASKED for report in reports)
    return {**first, "checks": list(found.values()), "failed": failed, "masked_trainings": masked}


def _combined(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `combined`, with the part of the trainings in the errors among the details too."""
    found, details = combined(scores), [score.get("details") or {} for score in scores]
    for key in details[0] if len(scores) > 1 else ():
        base = key.removesuffix("_se")
        if base != key and all(isinstance(one.get(base), float) and isinstance(one[key], float) for one in details):
            pairs = [{"value": one[base], "standard_error": one[key]} for one in details]
            found["details"][key] = combined(pairs)["standard_error"]
    return found


def _is_sound(score: Mapping[str, Any]) -> bool:
    return (score.get("details") or {}).get("verdict") != MASKED


def _widened(numbers: Numbers, varied: Sequence[Sequence[Numbers]]) -> dict[str, Any]:
    """`numbers` with the part of the trainings in every ``<key>_se``.

    Args:
        numbers: Of the means.
        varied: The same numbers for each of k trainings of one side, the other's mean held, for both sides.
    """
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        base = key.removesuffix("_se")
        if base != key and base in numbers:
            found[key] = _wider(value, [[one[base] for one in side] for side in varied])
        elif isinstance(value, Mapping):
            found[key] = _widened(value, [[one[key] for one in side] for side in varied])
        else:
            found[key] = value
    return found


def _wider(error: Any, varied: Sequence[Sequence[Any]]) -> Any:
    if isinstance(error, Mapping):
        return {key: _wider(error[key], [[one[key] for one in side] for side in varied]) for key in error}
    between = sum(statistics.variance(side) / len(side) for side in varied)
    return math.sqrt((error or 0.0) ** 2 + between)


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64))


def _mean_judged(found: Sequence[Judged]) -> Judged:
    """The share of trainings that get each image right, float64, and the mean counts."""
    correct = torch.stack([one.correct for one in found]).double().mean(dim=0)
    tally: dict[str, Any] = {}
    for key in found[0].tally:
        columns = zip(*(one.tally[key] for one in found), strict=True)
        # what all count alike, such as a class's images, stays a whole number
        tally[key] = [column[0] if len(set(column)) == 1 else statistics.fmean(column) for column in columns]
    return Judged(correct, tally)
