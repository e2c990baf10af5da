"""What an attack is: one that makes training batches adversarial, or one that measures how robust a model is.

All work on float32 images in [0, 1]; normalisation is part of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "AttackResult",
    "EvaluationAttack",
    "LossFunction",
    "TrainingAttack",
    "Victim",
    "input_gradient",
    "uniform_noise",
]

LossFunction = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> loss of each image, (N,), which an attack raises."""


class TrainingAttack(Protocol):
    """An attack used while training; its options (`epsilon` among them) are given when it is made."""

    epsilon: float

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], in the shape of `images` and without gradient history."""
        ...


@dataclass(frozen=True)
class Victim:
    """A model under attack, and what an attack must know of its task.

    Args:
        model: Takes (N, 3, H, W) float32 images in [0, 1].
        losses: What an attack may raise, by name (`Task.attack_losses`).
        correct: (outputs, targets) -> bool, (N,).
    """

    model: nn.Module
    losses: Mapping[str, LossFunction]
    correct: Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class AttackResult:
    """What an attack on a batch found.

    Args:
        robust: bool, (N,): correct when clean and at everything that was tried.
        examples: float32 in [0, 1], the shape of the images: for each image its worst perturbed version, which is one
            that the model gets wrong where there is one.
        zero_gradients: How many images had no gradient at all at the attack's first iterate; None where no gradient is
            taken.
    """

    robust: Tensor
    examples: Tensor
    zero_gradients: int | None = None


class EvaluationAttack(Protocol):
    """An attack that measures robustness; its options are given when it is made.

    The model runs in evaluation mode and is left in the mode that it came in.
    """

    epsilon: float

    def __call__(self, victim: Victim, images: Tensor, targets: Any, generator: torch.Generator) -> AttackResult:
        """Attack a batch.

        Args:
            victim: The model.
            images: float32 in [0, 1], (N, 3, H, W).
            targets: One for each image, indexable by a bool mask or int64 indices.
            generator: On the device of `images`.
        """
        ...


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor]:
    """Gradient of the summed loss with respect to the images; parameters accumulate nothing.

    Args:
        model: Any module; its mode is left alone.
        images: float32, (N, 3, H, W).
        targets: What `loss` takes, one for each image.
        loss: Per-image loss.

    Returns:
        The gradient, in the shape of `images` (0 where it is NaN or there is none), and the outputs without gradient
        history.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        outputs = model(leaf)
        total, gradient = loss(outputs, targets).sum(), None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    # what a model casts to integers has no gradient at all
    return torch.zeros_like(images) if gradient is None else torch.nan_to_num(gradient), outputs.detach()


def uniform_noise(like: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Float32 noise U(-radius, radius) in the shape of `like`."""
    draws = torch.rand(like.shape, generator=generator, device=like.device, dtype=torch.float32)
    return (2.0 * draws - 1.0) * radius
