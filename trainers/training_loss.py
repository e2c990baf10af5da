"""The loss that one step minimises: the task's own, and how far the predictions for a batch's views lie apart.

Without views it is the task's loss. With augmented views (AugMix, Hendrycks et al. 2020, eq. 2) and with adversarial
ones (TRADES, Zhang et al. 2019, eq. 5) it is, over N images,

    loss(images) + λ·(1/N)·Σ JS(p(image); p(view 1); p(view 2))
    loss(images) + β·(1/N)·Σ KL(p(image) ‖ p(adversarial))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .divergences import jensen_shannon, kullback_leibler

if TYPE_CHECKING:
    from ..spaces.plan import Recipe
    from .tasks.base import Batch, Task

__all__ = ["disagreement", "training_loss"]


def disagreement(predictions: Sequence[Tensor], *, adversarial: bool) -> Tensor:
    """KL of the first prediction from the second if they are `adversarial`, JS of them all if not; a mean, a scalar.

    Args:
        predictions: Log-probabilities for the images and for each of their views, each (N, ..., C).
        adversarial: The one view was made by an attack.
    """
    if adversarial:
        plain, attacked = predictions
        return kullback_leibler(plain, attacked).mean()
    return jensen_shannon(predictions).mean()


def training_loss(
    task: Task, outputs: Any, batch: Batch, recipe: Recipe, *, weight: float = 0.0, adversarial: bool = False
) -> tuple[Tensor, Any]:
    """The loss of a batch, a scalar, and the outputs for its images alone.

    Args:
        task: Gives the loss of the images.
        outputs: The model's for `batch.inputs`.
        batch: With views, or without.
        recipe: What the task's loss depends on.
        weight: λ or β; of no importance without views.
        adversarial: The views were made by an attack, not by an augmentation.
    """
    if batch.views is None:
        return task.loss(outputs, batch, recipe), outputs
    parts = task.split(outputs, 1 + len(batch.views) // len(batch.images))
    predictions = [task.log_probabilities(part) for part in parts]
    loss = task.loss(parts[0], batch, recipe) + weight * disagreement(predictions, adversarial=adversarial)
    return loss, parts[0]
