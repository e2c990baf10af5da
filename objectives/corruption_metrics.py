"""Corruption metrics (Hendrycks & Dietterich 2019, section 4): raw numbers of one network, and what follows from them.

For errors E(s, c) at severity s of corruption c, those B(s, c) of a baseline, and clean errors E, B:

    mean error      mean over c and s of E(s, c)                       the "mCE" of CIFAR-10-C tables
    CE(c)           100 * sum_s E(s, c) / sum_s B(s, c)                equation 1
    mCE             mean over c of CE(c)
    relative mCE    mean over c of 100 * sum_s (E(s, c) - E) / sum_s (B(s, c) - B)

Every one of them is a weighted sum of a network's errors, the baseline taken as given, so that its standard error over
images follows from the covariance of an image's errors under the corruptions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..studies.registry import CORRUPTIONS, EXTRA_CORRUPTIONS
from ..trainers.tasks.base import EvaluationSet, Task
from .base import Judged, judge
from .baselines import Baseline
from .corrupted_sets import CorruptedSets

__all__ = [
    "FLOOR",
    "NUMBERS",
    "SEEN",
    "corruption_error",
    "corruption_scores",
    "group_of",
    "measure_corruptions",
    "raw_numbers",
]

FLOOR = 0.01
"""Smallest error of the baseline, averaged over severities, that an error is divided by."""

SEEN: dict[str, tuple[str, ...]] = {
    "naturalistic": (
        # additive noise, independent in each pixel: near Gaussian at these counts and strengths
        "gaussian_noise",
        "shot_noise",
        "speckle_noise",
        # an even blur: a disk smoothed by a Gaussian differs from a Gaussian by a grey level or two
        "defocus_blur",
        "gaussian_blur",
        # colour distortion, in so many words
        "brightness",
        "contrast",
        "saturate",
    ),
    # its operations are those that overlap with no corruption (Hendrycks et al. 2020, section 3)
    "augmix": (),
}
"""Corruptions that an augmentation shows the network in training, the operation itself or one that looks like it.

What merely profits from it counts as unseen, such as impulse noise, which replaces pixels, or glass and motion blur.
"""


_GROUPS = (*CORRUPTIONS, "extra", "own")
NUMBERS = (
    *(
        key + suffix
        for key in (
            "mean_error",
            "mean_error_change",
            "mce",
            "relative_mce",
            "clean_error",
            *(f"{metric}_{group}" for metric in ("mean_error", "mce") for group in _GROUPS),
            *(f"mean_error_{part}{change}" for part in ("seen", "unseen") for change in ("", "_change")),
        )
        for suffix in ("", "_se")
    ),
    "images",
    "floor",
)
"""Keys of all numbers that `corruption_scores` may give."""


def group_of(name: str) -> str:
    """``"noise"``, ``"blur"``, ``"weather"`` or ``"digital"``; ``"extra"`` for the four extra ones, else ``"own"``."""
    if any(name in members for members in EXTRA_CORRUPTIONS.values()):
        return "extra"
    return next((group for group, members in CORRUPTIONS.items() if name in members), "own")


def corruption_error(error: float, baseline: float) -> float:
    """``100 * error / baseline``, with slope ``100 / FLOOR`` about the baseline where that is below the floor.

    The baseline itself has 100 either way.
    """
    return 100.0 * (1.0 + (error - baseline) / max(baseline, FLOOR))


def measure_corruptions(
    model: nn.Module,
    task: Task,
    sets: CorruptedSets,
    names: Sequence[str],
    severities: Sequence[int],
    batch_size: int,
    *,
    clean: Judged | None = None,
    augmentation: str | None = None,
) -> dict[str, Any]:
    """Judge a model on every corruption and severity; see `raw_numbers`.

    Args:
        model: Takes float32 images in [0, 1]; left in evaluation mode.
        task: Its task.
        sets: The corrupted images.
        names: Corruptions.
        severities: Which of 1–5.
        batch_size: Images in one forward pass.
        clean: What the model makes of the plain images, where that is known already.
        augmentation: What the model was trained with, None without.
    """
    plain = sets.plain

    def judged(name: str, severity: int) -> Judged:
        images = EvaluationSet(sets.images(name, severity), plain.targets, plain.indices)
        return judge(model, task, images, batch_size)

    clean = clean or judge(model, task, plain, batch_size)
    found = {name: {severity: judged(name, severity) for severity in severities} for name in names}
    return raw_numbers(clean, found, augmentation=augmentation)


def raw_numbers(
    clean: Judged, judged: Mapping[str, Mapping[int, Judged]], *, augmentation: str | None = None
) -> dict[str, Any]:
    """What is stored of a network: JSON values from which every metric is derived.

    Args:
        clean: What it makes of the plain images.
        judged: What it makes of them under each corruption and severity.
        augmentation: What it was trained with, None without.

    Returns:
        ``errors``: {corruption: {"1": error, …}}; ``clean_error``; ``images``; ``tally``: {corruption: the task's
        counts, summed over severities}; ``covariance``: rows of the lower triangle of the covariance matrix, over
        images, of an image's mean errors under the corruptions, in their order, and then of its clean error;
        ``augmentation``.
    """
    errors, tally = {}, {}
    wrong = []
    for name, by_severity in judged.items():
        # one transfer a corruption, for each makes an accelerator wait
        rights = torch.stack([found.correct for found in by_severity.values()]).double().cpu()
        shares = 1.0 - rights.mean(dim=1)
        errors[name] = {str(severity): float(share) for severity, share in zip(by_severity, shares, strict=True)}
        wrong.append(1.0 - rights.mean(dim=0))
        tally[name] = _summed(found.tally for found in by_severity.values())
    wrong.append(1.0 - clean.correct.double().cpu())
    matrix = torch.stack(wrong)
    deviations = matrix - matrix.mean(dim=1, keepdim=True)
    covariance = (deviations @ deviations.T / matrix.shape[1]).tolist()
    return {
        "errors": errors,
        "clean_error": float(wrong[-1].mean()),
        "images": matrix.shape[1],
        "tally": tally,
        "covariance": [[float(f"{value:.6g}") for value in row[: index + 1]] for index, row in enumerate(covariance)],
        "augmentation": augmentation,
    }


def corruption_scores(
    raw: Mapping[str, Any], control_raw: Mapping[str, Any], baseline: Baseline | None = None
) -> dict[str, Any]:
    """Every published variant of the metric, each with its standard error ``…_se``, in per cent where it is a ratio.

    Args:
        raw: A network's numbers, as `raw_numbers` gives them.
        control_raw: The control's.
        baseline: What mCE is relative to; None takes the control, which then has 100.

    Returns:
        ``mean_error``; ``mce``; ``relative_mce`` (left out where the baseline's clean error is not known);
        ``clean_error``; ``mean_error_<group>`` and ``mce_<group>`` of each group present; ``mean_error_change``, the
        difference from the control's mean error; ``mean_error_seen`` and ``mean_error_unseen``, with ``_change``, by
        whether the augmentation shows such corruptions in training (`SEEN`), left out where that is not known; by
        corruption ``errors``, ``errors_se``, ``ce``, ``ce_se``; the baseline's name, the floor, and which corruptions
        it touched. Standard errors of changes take the two networks as independent: an upper bound, for they saw the
        same images.

    Raises:
        InputError: The baseline lacks one of the corruptions.
    """
    names = list(raw["errors"])
    sample, control = _Sample(raw), _Sample(control_raw)
    base = baseline or Baseline("control", control.errors, control.clean)
    base.check(names)
    base_clean = base.clean
    divisors = {name: max(base.errors[name], FLOOR) for name in names}

    scores: dict[str, Any] = {}

    def mean_error(key: str, members: Sequence[str]) -> None:
        weights = dict.fromkeys(members, 1.0 / len(members))
        scores[key], scores[f"{key}_se"] = sample.total(weights), sample.standard_error(weights)

    def change(key: str, members: Sequence[str]) -> None:
        weights = dict.fromkeys(members, 1.0 / len(members))
        scores[key] = sample.total(weights) - control.total(weights)
        scores[f"{key}_se"] = _together(sample.standard_error(weights), control.standard_error(weights))

    def mce(key: str, members: Sequence[str]) -> None:
        ces = [corruption_error(sample.errors[name], base.errors[name]) for name in members]
        scores[key] = sum(ces) / len(ces)
        scores[f"{key}_se"] = sample.standard_error({name: 100.0 / len(ces) / divisors[name] for name in members})

    mean_error("mean_error", names)
    change("mean_error_change", names)
    mce("mce", names)
    if base_clean is not None:
        scores |= _relative(sample, base.errors, base_clean)
    scores |= {"clean_error": sample.clean, "clean_error_se": sample.standard_error({}, 1.0)}
    for group in dict.fromkeys(map(group_of, names)):
        members = [name for name in names if group_of(name) == group]
        mean_error(f"mean_error_{group}", members)
        mce(f"mce_{group}", members)
    augmentation = raw.get("augmentation")
    overlap = () if augmentation is None else SEEN.get(augmentation)
    if "augmentation" not in raw:
        # a run begun before it was noted may have used any
        overlap = None
    if overlap is not None:
        for key, members in (
            ("seen", [name for name in names if name in overlap]),
            ("unseen", [name for name in names if name not in overlap]),
        ):
            if members:
                mean_error(f"mean_error_{key}", members)
                change(f"mean_error_{key}_change", members)
    return scores | {
        "errors": {name: sample.errors[name] for name in names},
        "errors_se": {name: sample.standard_error({name: 1.0}) for name in names},
        "ce": {name: corruption_error(sample.errors[name], base.errors[name]) for name in names},
        "ce_se": {name: sample.standard_error({name: 100.0 / divisors[name]}) for name in names},
        "images": raw["images"],
        "augmentation": augmentation,
        "baseline": base.name,
        "floor": FLOOR,
        "floored": [name for name in names if base.errors[name] < FLOOR],
        "relative_floored": [
            name for name in names if base_clean is not None and base.errors[name] - base_clean < FLOOR
        ],
    }


class _Sample:
    """One network's errors as a sample over images."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.errors = {name: sum(found.values()) / len(found) for name, found in raw["errors"].items()}
        self.clean = float(raw["clean_error"])
        self.images = raw["images"]
        # runs begun before it was stored have none
        self._covariance: Sequence[Sequence[float]] | None = raw.get("covariance")
        self._place = {name: index for index, name in enumerate(self.errors)}

    def total(self, weights: Mapping[str, float]) -> float:
        """The weighted sum of errors."""
        return sum(weight * self.errors[name] for name, weight in weights.items())

    def standard_error(self, weights: Mapping[str, float], clean: float = 0.0) -> float | None:
        """Of a weighted sum of errors, and `clean` times the clean error: sqrt(w' C w / n)."""
        if self._covariance is None:
            return None
        terms = [(self._place[name], weight) for name, weight in weights.items()] + [(len(self._place), clean)]
        variance = sum(a * b * self._covariance[max(i, j)][min(i, j)] for i, a in terms for j, b in terms)
        return math.sqrt(max(variance, 0.0) / self.images)


def _relative(sample: _Sample, errors: Mapping[str, float], clean: float) -> dict[str, float | None]:
    names = list(sample.errors)
    excess = {name: errors[name] - clean for name in names}
    values = [corruption_error(sample.errors[name] - sample.clean, excess[name]) for name in names]
    weights = {name: 100.0 / len(names) / max(excess[name], FLOOR) for name in names}
    return {
        "relative_mce": sum(values) / len(values),
        "relative_mce_se": sample.standard_error(weights, -sum(weights.values())),
    }


def _together(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else math.hypot(first, second)


def _summed(tallies: Iterable[Mapping[str, list[int]]]) -> dict[str, list[int]]:
    total: dict[str, list[int]] = {}
    for tally in tallies:
        for key, counts in tally.items():
            total[key] = [a + b for a, b in zip(total[key], counts, strict=True)] if key in total else list(counts)
    return total
