"""Single-step training attacks: N-FGSM (de Jorge et al. 2022), FGSM-RS (Wong et al. 2020) and plain FGSM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import LossFunction, input_gradient, uniform_noise

__all__ = ["FGSMRS", "NFGSM", "TrainingFGSM"]


class NFGSM:
    """N-FGSM: x' = clamp(x + η + α·sign ∇L(x + η)), η ~ U(-kε, kε), without projection onto the ε-ball.

    The perturbation is therefore bounded by kε + α (3ε at the published setting), not by ε; this is what keeps
    single-step training from catastrophic overfitting (de Jorge et al. 2022, arXiv 2202.01181, Algorithm 1).

    Args:
        epsilon: L∞ radius on images in [0, 1].
        noise: k, the noise radius in units of ε.
        step_size: α in units of ε.
    """

    def __init__(self, *, epsilon: float, noise: float = 2.0, step_size: float = 1.0) -> None:
        self.epsilon = epsilon
        self.noise = noise
        self.step_size = step_size

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1]."""
        noisy = (images + uniform_noise(images, self.noise * self.epsilon, generator)).clamp_(0.0, 1.0)
        gradient, _ = input_gradient(model, noisy, targets, loss)
        return (noisy + self.step_size * self.epsilon * gradient.sign()).clamp_(0.0, 1.0)


class FGSMRS:
    """FGSM-RS: one step of 1.25 ε from a random start, projected onto the ε-ball (Wong et al. 2020, arXiv 2001.03994).

    Args:
        epsilon: L∞ radius on images in [0, 1].
        step_size: Length of the step in units of ε.
    """

    def __init__(self, *, epsilon: float, step_size: float = 1.25) -> None:
        self.epsilon = epsilon
        self.step_size = step_size

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], within ε of `images`."""
        start = (images + uniform_noise(images, self.epsilon, generator)).clamp_(0.0, 1.0)
        gradient, _ = input_gradient(model, start, targets, loss)
        delta = start - images + self.step_size * self.epsilon * gradient.sign()
        return (images + delta.clamp_(-self.epsilon, self.epsilon)).clamp_(0.0, 1.0)


class TrainingFGSM:
    """Plain FGSM, x' = clamp(x + α·sign ∇L(x)): no noise, no projection (Goodfellow et al. 2015, arXiv 1412.6572).

    For comparison: training with it overfits catastrophically, the more surely the longer the step.

    Args:
        epsilon: L∞ radius on images in [0, 1].
        step_size: α in units of ε.
    """

    def __init__(self, *, epsilon: float, step_size: float = 1.0) -> None:
        self.epsilon = epsilon
        self.step_size = step_size

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], within α of `images`."""
        gradient, _ = input_gradient(model, images, targets, loss)
        return (images + self.step_size * self.epsilon * gradient.sign()).clamp_(0.0, 1.0)
