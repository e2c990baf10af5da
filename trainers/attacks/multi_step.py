"""Adversarial training with several gradient steps a batch: PGD-AT (Madry et al. 2018), TRADES (Zhang et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import LossFunction, input_gradient
from .threat import Threat

__all__ = ["PGDAT", "TRADES"]

CROSSINGS = 2.5
NOISE = 0.001


class PGDAT:
    """PGD adversarial training: `steps` steps from a random start (Madry et al. 2018, arXiv 1706.06083).

    Args:
        epsilon: L∞ radius on images in [0, 1].
        steps: Gradient steps a batch, at least 1.
        step_size: Length of a step in units of ε; None means 2.5 / steps, so that the ball can be crossed (2/255 with
            ε = 8/255 and the published 10 steps).
    """

    def __init__(self, *, epsilon: float, steps: int = 10, step_size: float | None = None) -> None:
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = CROSSINGS / steps if step_size is None else step_size

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], within ε of `images`."""
        return self.ascend(model, Threat("linf", self.epsilon).random_start(images, generator), images, targets, loss)

    def ascend(self, model: nn.Module, start: Tensor, images: Tensor, targets: Tensor, loss: LossFunction) -> Tensor:
        """Take all steps from `start`, each projected back into the ball around `images`."""
        threat, adversarial = Threat("linf", self.epsilon), start
        for _ in range(self.steps):
            gradient, _ = input_gradient(model, adversarial, targets, loss)
            moved = adversarial + threat.step(gradient, self.step_size * self.epsilon)
            adversarial = threat.project(moved, images)
        return adversarial


class TRADES(PGDAT):
    """The attack of TRADES: it drives predictions away from those for the plain images (arXiv 1901.08573, eq. 5).

    Instead of a loss on labels, `loss` is the divergence from the plain predictions, which are its `targets`; the model
    is then trained on loss(images) + β·KL(p(images) ‖ p(adversarial)). Published for CIFAR-10: β = 6, 10 steps of
    0.007 with ε = 0.031, from images plus 0.001·N(0, 1), the model in evaluation mode.

    Unlike the published code, which trains on images and adversarial images in a forward pass each, both go through
    one, so that batch norm normalises by statistics of both together.

    Args:
        epsilon: L∞ radius on images in [0, 1].
        steps: Gradient steps a batch, at least 1.
        step_size: Length of a step in units of ε; None means 2.5 / steps.
        beta: β, how much robustness weighs against accuracy.
    """

    def __init__(self, *, epsilon: float, steps: int = 10, step_size: float | None = None, beta: float = 6.0) -> None:
        super().__init__(epsilon=epsilon, steps=steps, step_size=step_size)
        self.beta = beta

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], within ε of `images`.

        Args:
            model: In evaluation mode, as `targets` came from it.
            images: float32 in [0, 1], (N, 3, H, W).
            targets: What the model predicts for `images`, as `loss` takes it.
            loss: (outputs, targets) -> divergence of each image's prediction from its target, (N,).
            generator: On the device of `images`.
        """
        # without noise the divergence has its minimum here, and no gradient
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        start = Threat("linf", self.epsilon).project(images + NOISE * noise, images)
        return self.ascend(model, start, images, targets, loss)
