"""Mean corruption error (mCE), Hendrycks & Dietterich 2019, equation 1, with the study's control as the baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..studies.registry import REGISTRY, names, resolve
from ..trainers.tasks.base import EvaluationSet, to_float
from .base import Direction, Objective, Score, Subject, correct
from .corruptions.randomness import Draws

__all__ = ["FLOOR", "MeanCorruptionError", "corruption_error"]

FLOOR = 0.01
"""Smallest mean error of the control over severities that an error is divided by."""

CACHE_BYTES = 512 * 2**20
CHUNK = 500

Severity = Annotated[int, Field(ge=1, le=5)]


class MeanCorruptionError(Objective):
    """Error on corrupted images in per cent of the control's, averaged over corruptions: the control has 100.

    Details hold the relative mCE, the plain mean error (the "mCE" of CIFAR-C tables), each corruption's CE, the mean
    error of each family, and which corruptions the floor touched.

    Args:
        severities: Which of 1–5.
        images: Corrupt this many images only; None takes all.
        corruptions: Names or ``module:function``; None takes the fifteen published ones.
    """

    name = "mce"
    direction: ClassVar[Direction] = "minimize"

    def __init__(
        self,
        *,
        severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (1, 2, 3, 4, 5),
        images: Annotated[int, Field(ge=1)] | None = None,
        corruptions: Annotated[list[str], Field(min_length=1)] | None = None,
    ) -> None:
        self.severities = sorted(set(severities))
        self.images = images
        self.corruptions = list(dict.fromkeys(corruptions)) if corruptions else names("corruption")
        self._functions = {name: resolve("corruption", name) for name in self.corruptions}
        # all trials of a study see the same corrupted images; an instance lives as long as its process runs trials
        self._cache: dict[tuple[str, str, int], Tensor] = {}

    def measure(self, subject: Subject) -> dict[str, Any]:
        """Error of each corruption and severity, clean error, number of images.

        ``{"errors": {corruption: {"1": error, …}}, "clean_error": …, "images": n, "image_deviation": the standard
        deviation, over images, of an image's mean error}``.
        """
        model, task, batch_size = subject.candidate.model, subject.task, subject.batch_size
        plain = task.evaluation(subject.split, self.images)
        content = _content(plain, subject.study_seed)
        clean = correct(model, task, plain, batch_size)
        errors: dict[str, dict[str, float]] = {}
        wrong = torch.zeros(len(plain), dtype=torch.float64)
        for name in self.corruptions:
            errors[name] = {}
            for severity in self.severities:
                images = self._corrupted(plain, content, subject.study_seed, name, severity)
                right = correct(model, task, EvaluationSet(images, plain.targets, plain.indices), batch_size)
                errors[name][str(severity)] = 1.0 - float(right.double().mean())
                wrong += (~right).cpu()
        wrong /= len(self.corruptions) * len(self.severities)
        return {
            "errors": errors,
            "clean_error": 1.0 - float(clean.double().mean()),
            "images": len(plain),
            "image_deviation": float(wrong.std(unbiased=False)),
        }

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """mCE, unrounded; its standard error is that of the mean error over images, in proportion."""
        errors = {name: _mean(by_severity) for name, by_severity in raw["errors"].items()}
        control = {name: _mean(by_severity) for name, by_severity in control_raw["errors"].items()}
        clean, control_clean = raw["clean_error"], control_raw["clean_error"]
        ces = {name: corruption_error(errors[name], control[name]) for name in errors}
        relative = [corruption_error(errors[name] - clean, control[name] - control_clean) for name in errors]
        value = sum(ces.values()) / len(ces)
        mean_error = sum(errors.values()) / len(errors)
        control_error = max(sum(control[name] for name in errors) / len(errors), FLOOR)
        details = {
            "mean_error": mean_error,
            "relative_mce": sum(relative) / len(relative),
            "ce": ces,
            "mean_error_by_family": _by_family(errors),
            "clean_error": clean,
            "images": raw["images"],
            "floor": FLOOR,
            "floored": [name for name in errors if control[name] < FLOOR],
            "relative_floored": [name for name in errors if control[name] - control_clean < FLOOR],
        }
        return Score(value, 100.0 * raw["image_deviation"] / raw["images"] ** 0.5 / control_error, details)

    def worst(self, control_value: float) -> float:
        """Twice the control's."""
        return 2.0 * control_value

    def _corrupted(self, plain: EvaluationSet, content: str, study_seed: int, name: str, severity: int) -> Tensor:
        """(N, 3, H, W) uint8 on the device of `plain`."""
        key = (content, name, severity)
        if key in self._cache:
            return self._cache[key].to(plain.images.device)
        parts = []
        for start in range(0, len(plain), CHUNK):
            part = slice(start, start + CHUNK)
            draws = Draws(study_seed, plain.indices[part].to(plain.images.device), f"{name}/{severity}")
            images = self._functions[name](to_float(plain.images[part]), severity, draws)
            parts.append((images * 255.0).round().to(torch.uint8))
        corrupted = torch.cat(parts)
        # every trial goes through all sets in one order: evicting the oldest would never hit, so a full cache stays
        if sum(images.nbytes for images in self._cache.values()) + corrupted.nbytes <= CACHE_BYTES:
            self._cache[key] = corrupted
        return corrupted


def corruption_error(error: float, control: float) -> float:
    """``100 * error / control``, with slope ``100 / FLOOR`` about the control where that is below the floor.

    The control itself has 100 either way.
    """
    return 100.0 * (1.0 + (error - control) / max(control, FLOOR))


def _content(plain: EvaluationSet, study_seed: int) -> str:
    digest = hashlib.sha256(f"{study_seed}/{tuple(plain.images.shape)}/".encode())
    digest.update(plain.images.cpu().numpy().tobytes())
    digest.update(plain.indices.cpu().numpy().tobytes())
    return digest.hexdigest()


def _mean(by_severity: Mapping[str, float]) -> float:
    return sum(by_severity.values()) / len(by_severity)


def _by_family(errors: Mapping[str, float]) -> dict[str, float]:
    """Mean error of each family of corruptions: the file that a registered one lives in, "own" for the user's."""
    grouped: dict[str, list[float]] = {}
    for name, error in errors.items():
        path = REGISTRY["corruption"].get(name)
        family = path.partition(":")[0].rpartition(".")[2] if path else "own"
        grouped.setdefault(family, []).append(error)
    return {family: sum(members) / len(members) for family, members in grouped.items()}
