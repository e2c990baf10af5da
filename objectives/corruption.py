"""Objectives on corrupted images (Hendrycks & Dietterich 2019): mCE, relative mCE, mean error, the worst class.

All of them measure the same raw numbers, once a candidate where their options agree, and derive different values.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from ..studies.registry import CORRUPTIONS, EXTRA_CORRUPTIONS, resolve
from ..trainers.tasks.base import EvaluationSet, SplitName
from .base import Direction, Objective, Score, Subject, binomial_error
from .baselines import Baseline, load_baseline, stated_baseline
from .classes import class_details, counts_of, worst_class
from .corrupted_sets import CorruptedSets, corruption_function, textures_digest
from .corruption_archive import open_archive
from .corruption_metrics import FLOOR, NUMBERS, SEEN, corruption_error, corruption_scores, measure_corruptions

__all__ = [
    "FLOOR",
    "SEEN",
    "MeanCorruptionError",
    "MeanError",
    "RelativeMeanCorruptionError",
    "WorstClassCorruptedAccuracy",
    "corruption_error",
    "corruption_names",
    "corruption_scores",
]


def corruption_names(given: list[str] | str) -> list[str]:
    """Names of corruptions, each once; ``"published"`` means the fifteen, ``"extra"`` the four, ``"all"`` both.

    Raises:
        InputError: There is no corruption of a name.
    """
    published = [name for members in CORRUPTIONS.values() for name in members]
    extra = [name for members in EXTRA_CORRUPTIONS.values() for name in members]
    if isinstance(given, str):
        return {"published": published, "extra": extra, "all": published + extra}[given]
    for name in given:
        resolve("corruption", name, where="corruptions")
    return list(dict.fromkeys(given))


# a frozen study file must mean the same from whatever folder its run is resumed
Folder = Annotated[Path, AfterValidator(lambda path: Path(os.path.abspath(path)))]
BaselineErrors = Annotated[str | dict[str, float], AfterValidator(stated_baseline)]
Severities = Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Names = Literal["published", "extra", "all"] | Annotated[list[str], Field(min_length=1)]


class CorruptionObjective(Objective):
    """What the objectives of this file share: their options, what is measured, and the images.

    Args:
        severities: Which of 1–5.
        images: Corrupt this many images only; None takes all.
        corruptions: ``"published"`` (the fifteen, as None), ``"extra"`` (the four meant for tuning, so that the fifteen
            stay unseen), ``"all"``, or a list of names or ``module:function``.
        archive: Folder in the layout of CIFAR-10-C to read corrupted images from; None makes them.
        frost: Folder of textures for the corruption frost; None takes the built-in ones.
    """

    def __init__(
        self,
        *,
        severities: Severities = (1, 2, 3, 4, 5),
        images: Count | None = None,
        corruptions: Names | None = None,
        archive: Folder | None = None,
        frost: Folder | None = None,
    ) -> None:
        self.severities = sorted(set(severities))
        self.images = images
        self.corruptions = corruption_names(corruptions or "published")
        self.archive, self.frost = archive, frost
        # an instance lives as long as its process runs trials, and they all score on the same images
        self._sets: CorruptedSets | None = None

    def inputs(self, split: SplitName) -> dict[str, Any]:
        """Digests of the archive and of the textures, those that are read.

        Raises:
            DataError: A folder is missing, or the archive lacks a corruption or a severity, or is of another split.
        """
        found = {}
        if self.archive is not None:
            archive = open_archive(self.archive)
            archive.check(self.corruptions, self.severities, split)
            found["archive"] = archive.identity(self.corruptions)
        elif self.frost is not None and "frost" in self.corruptions:
            corruption_function("frost", frost=self.frost)
            found["frost"] = textures_digest(self.frost)
        return found

    def measure(self, subject: Subject) -> dict[str, Any]:
        """The raw numbers of `corruption_metrics.raw_numbers`.

        Raises:
            DataError: As of `inputs`; or the archive is not of these images.
        """
        options = [self.severities, self.images, self.corruptions, str(self.archive), str(self.frost)]
        key = f"corruptions/{json.dumps(options)}"
        if key not in subject.cache:
            recipe = subject.candidate.plan.recipe
            subject.cache[key] = measure_corruptions(
                subject.candidate.model,
                subject.task,
                self._sets_for(subject, subject.task.evaluation(subject.split, self.images)),
                self.corruptions,
                self.severities,
                subject.batch_size,
                clean=subject.clean(self.images),
                augmentation=recipe.augmentation if recipe.augmentation_strength > 0.0 else None,
            )
        raw: dict[str, Any] = subject.cache[key]
        return raw

    @abstractmethod
    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The score."""

    def worst(self, control_value: float) -> float:
        """Twice the control's."""
        return 2.0 * control_value

    def _sets_for(self, subject: Subject, plain: EvaluationSet) -> CorruptedSets:
        sets = self._sets
        if (
            sets is None
            or sets.study_seed != subject.study_seed
            or sets.folder != subject.corrupted
            or not _same(sets.plain, plain)
        ):
            if self.archive is not None:
                open_archive(self.archive).check((), (), subject.split)
            where = {"folder": subject.corrupted, "archive": self.archive, "frost": self.frost}
            sets = self._sets = CorruptedSets(plain, study_seed=subject.study_seed, **where)
        return sets


class MeanCorruptionError(CorruptionObjective):
    """mCE: error on corrupted images in per cent of the baseline's, averaged over corruptions; the control has 100.

    Details hold every variant of `corruption_metrics.corruption_scores`, each with its standard error.

    Args:
        severities: Which of 1–5.
        images: Corrupt this many images only; None takes all.
        corruptions: ``"published"`` (as None), ``"extra"``, ``"all"``, or a list of names or ``module:function``.
        archive: Folder in the layout of CIFAR-10-C to read corrupted images from; None makes them.
        frost: Folder of textures for the corruption frost; None takes the built-in ones.
        baseline: ``"control"``, ``"alexnet"`` (the fifteen on ImageNet-C), a table ``{corruption: mean error, "clean":
            error}`` of means over the five severities, or the path of a JSON file that holds one.
    """

    name = "mce"
    direction: ClassVar[Direction] = "minimize"
    numbers = NUMBERS

    def __init__(
        self,
        *,
        severities: Severities = (1, 2, 3, 4, 5),
        images: Count | None = None,
        corruptions: Names | None = None,
        archive: Folder | None = None,
        frost: Folder | None = None,
        baseline: BaselineErrors = "control",
    ) -> None:
        super().__init__(severities=severities, images=images, corruptions=corruptions, archive=archive, frost=frost)
        self.baseline: Baseline | None = load_baseline(baseline)
        if self.baseline is not None:
            relative = self.name == "relative_mce"
            self.baseline.check(self.corruptions, severities=self.severities, relative=relative)

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The mean over corruptions of 100 * error / baseline's error, unrounded."""
        return _score(self.name, corruption_scores(raw, control_raw, self.baseline))


class RelativeMeanCorruptionError(MeanCorruptionError):
    """Relative mCE: what corruption adds to the clean error, in per cent of what it adds to the baseline's.

    Options and details as of `MeanCorruptionError`. A network with a high clean error may have a low relative mCE: look
    at it beside accuracy, never alone.
    """

    name = "relative_mce"


class MeanError(CorruptionObjective):
    """Mean error over corruptions and severities, in [0, 1]: what tables of CIFAR-10-C call mCE.

    Options as of `CorruptionObjective`, details as of `MeanCorruptionError`.
    """

    name = "mean_corruption_error"
    direction: ClassVar[Direction] = "minimize"
    numbers = NUMBERS

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The mean, with its standard error over images."""
        scores = corruption_scores(raw, control_raw)
        return Score(scores.pop("mean_error"), scores.pop("mean_error_se"), scores)

    def worst(self, control_value: float) -> float:
        """1."""
        return 1.0


class WorstClassCorruptedAccuracy(CorruptionObjective):
    """Accuracy on corrupted images of the class that has the lowest, over all corruptions and severities, in [0, 1].

    Options as of `CorruptionObjective`; details as of `accuracy.WorstClassAccuracy`.
    """

    name = "worst_class_corrupted_accuracy"
    direction: ClassVar[Direction] = "maximize"

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The minimum over classes.

        The standard error takes one image's outcomes under all corruptions as one: at most the binomial error of as
        many independent images as the class has.
        """
        counts, control = (counts_of(numbers["tally"].values()) for numbers in (raw, control_raw))
        details = class_details(counts, control)
        worst = worst_class(counts)
        if worst is None:
            return Score(0.0, None, {"class": None, "images": 0, **details})
        looks = sum(map(len, raw["errors"].values()))
        images = counts["total"][worst.label] // looks
        return Score(
            worst.accuracy,
            binomial_error(worst.accuracy, images),
            {"class": worst.label, "images": images, **details},
        )

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0


def _score(name: str, scores: dict[str, Any]) -> Score:
    return Score(scores.pop(name), scores.pop(f"{name}_se"), scores)


def _same(first: EvaluationSet, second: EvaluationSet) -> bool:
    """Whether two sets are views of the same memory; the first one is held, so that its address cannot be reused."""
    return all(
        one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.device == other.device
        for one, other in ((first.images, second.images), (first.indices, second.indices))
    )
