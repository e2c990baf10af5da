"""The noise family: gaussian, shot, impulse and speckle noise (Hendrycks & Dietterich 2019, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from .poisson import poisson_counts
from .randomness import Draws
from .severities import constant, to_bytes

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]


def gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add normal noise of a given standard deviation.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        severity: 1–5.
        draws: The batch's random numbers.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    deviation = constant(images, severity, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
    return to_bytes(images + deviation * draws.normal(*images.shape[1:]))


def shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Replace each value, taken as one of 256 levels, by a Poisson count; shapes as in `gaussian_noise`."""
    photons = constant(images, severity, (500.0, 250.0, 100.0, 75.0, 50.0), (60.0, 25.0, 12.0, 5.0, 3.0))
    levels = (images * 255.0).round_().to(torch.int64)
    return to_bytes(poisson_counts(levels, draws.normal(*images.shape[1:]), photons).div_(photons))


def impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Set a share of the values, each channel on its own, to 0 or 1; shapes as in `gaussian_noise`."""
    amount = constant(images, severity, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
    chance = draws.uniform(*images.shape[1:])
    # one draw decides both: below half the amount is pepper, the rest of it salt; products cost less than choices
    kept, light = torch.empty_like(chance), torch.empty_like(chance)
    torch.ge(chance, amount, out=kept)
    torch.ge(chance, amount / 2, out=light)
    return to_bytes((images * kept).add_(light.sub_(kept)))


def speckle_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add normal noise in proportion to each value (published for tuning); shapes as in `gaussian_noise`."""
    deviation = constant(images, severity, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6))
    return to_bytes(images + images * draws.normal(*images.shape[1:]).mul_(deviation))
