"""Accuracy under PGD (Madry et al. 2018) that gradient masking cannot feign.

Rounded and saturated activations hide gradients, so an attack through them alone overstates robustness (Gupta &
Ajanthan 2020; Bernhard et al. 2019). An image counts only if it survives an attack through straight-through gradients
*and* the adversarial image of the candidate's own latent float weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from ..studies.epsilon import Epsilon
from ..studies.seeds import Seed
from ..trainers.attacks.pgd import pgd, pgd_examples
from .base import Direction, Objective, Score, Subject, binomial_error

__all__ = ["MASKING_GAP", "PGDAccuracy"]

MASKING_GAP = 0.02
"""Share of images that only the transferred attack breaks above which a candidate is flagged."""


class PGDAccuracy(Objective):
    """Share of images that stay correct under both attacks, in [0, 1].

    Args:
        epsilon: L∞ radius on images in [0, 1], a number or a fraction such as ``"8/255"``.
        steps: Gradient steps of one restart.
        restarts: Random starts; an image must survive all of them.
        images: Attack this many images only; None takes all.
        step_size: Length of a step; None takes ``2.5 * epsilon / steps``, 2/255 for the defaults.
    """

    name = "pgd_accuracy"
    direction: ClassVar[Direction] = "maximize"

    def __init__(
        self,
        *,
        epsilon: Epsilon = 8 / 255,
        steps: Annotated[int, Field(ge=1)] = 10,
        restarts: Annotated[int, Field(ge=1)] = 1,
        images: Annotated[int, Field(ge=1)] | None = None,
        step_size: Epsilon | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.steps = steps
        self.restarts = restarts
        self.images = images
        self.step_size = step_size if step_size is not None else 2.5 * epsilon / steps

    def measure(self, subject: Subject) -> dict[str, Any]:
        """Counts of images: right when clean, after each attack, after both; and the attack's settings."""
        task, candidate = subject.task, subject.candidate
        candidate.model.eval()
        candidate.latent.eval()
        settings: dict[str, Any] = {
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "steps": self.steps,
            "restarts": self.restarts,
        }
        counts = dict.fromkeys(("clean_correct", "robust_straight_through", "robust_transfer", "robust"), 0)
        plain = task.evaluation(subject.split, self.images)
        for number, batch in enumerate(plain.batches(subject.batch_size)):
            # the same starts in every trial of a study, so that trials differ by their models alone
            seed = Seed(subject.study_seed).child(self.name).child(number)
            attack = {"loss": task.attack_loss, "correct": task.correct, **settings}
            arguments = (batch.images, batch.targets)
            direct = pgd(
                candidate.model, *arguments, **attack, generator=seed.child("direct").torch(batch.images.device)
            )
            examples = pgd_examples(
                candidate.latent, *arguments, **attack, generator=seed.child("transfer").torch(batch.images.device)
            )
            with torch.inference_mode():
                clean = task.correct(candidate.model(batch.images), batch.targets)
                transfer = clean & task.correct(candidate.model(examples), batch.targets)
            direct = direct & clean
            for key, survivors in zip(counts, (clean, direct, transfer, direct & transfer), strict=True):
                counts[key] += int(survivors.sum())
        return {"images": len(plain), **counts, **settings}

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """Robust accuracy; details say how far the straight-through attack alone overstated it."""
        count = max(raw["images"], 1)
        value = raw["robust"] / count
        gap = (raw["robust_straight_through"] - raw["robust"]) / count
        details = {
            "straight_through_accuracy": raw["robust_straight_through"] / count,
            "transfer_accuracy": raw["robust_transfer"] / count,
            "masking_gap": gap,
            "flagged": gap > MASKING_GAP,
            "images": raw["images"],
        }
        return Score(value, binomial_error(value, count), details)

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0
