"""What a training attack is: a callable that makes a clean batch adversarial (L∞, float32 images in [0, 1])."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["LossFunction", "TrainingAttack", "input_gradient", "uniform_noise"]

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> loss of each image, (N,)."""


class TrainingAttack(Protocol):
    """An attack used while training; its options (`epsilon` among them) are given when it is made."""

    epsilon: float

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], in the shape of `images` and without gradient history."""
        ...


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor]:
    """Gradient of the summed loss with respect to the images; parameters accumulate nothing.

    Args:
        model: Any module; its mode is left alone.
        images: float32, (N, 3, H, W).
        targets: What `loss` takes, one for each image.
        loss: Per-image loss.

    Returns:
        The gradient (NaN replaced by 0), in the shape of `images`, and the outputs without gradient history.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        outputs = model(leaf)
        (gradient,) = torch.autograd.grad(loss(outputs, targets).sum(), leaf)
    return torch.nan_to_num(gradient), outputs.detach()


def uniform_noise(like: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Float32 noise U(-radius, radius) in the shape of `like`."""
    draws = torch.rand(like.shape, generator=generator, device=like.device, dtype=torch.float32)
    return (2.0 * draws - 1.0) * radius
