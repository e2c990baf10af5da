"""AugMix (Hendrycks et al. 2020, arXiv 1912.02781, algorithm 1) with a strength, in batches on any device.

Each image goes through `width` chains of one to `depth` operations; the chains' results are mixed with weights from a
Dirichlet(1, …, 1), and the mixture with the image itself by m ~ Beta(1, 1):

    mixed = (1 - m·min(1, s))·image + m·min(1, s)·Σ_i w_i·chain_i(image)

The operations are the nine of the published code that overlap with no published corruption. Each has a level drawn
from U(0.1, severity) with a severity of 3·s (at most 10), so that strength s = 0 is the identity, 1 as published for
small images, and what has no level (autocontrast, equalize) fades with s as well. As in the published code they work
on the 256 grey levels of 8-bit images; the image itself is mixed as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .image_operations import affine, autocontrast, equalize, posterize, solarize

__all__ = ["OPERATIONS", "augmix"]

OPERATIONS = (
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("autocontrast", "equalize", "posterize", "solarize"),
)
AFFINE = 5
"""The first so many operations move pixels, and are one resampling."""

SEVERITY = 3.0
LARGEST_LEVEL = 10.0
SMALLEST_LEVEL = 0.1
# at the largest level
ROTATION = 30.0
SHEAR = 0.3
SHIFT = 1.0 / 3.0
KEPT_BITS = 4.0
SOLARIZED = 256.0


def augmix(images: Tensor, strength: float, generator: torch.Generator, *, width: int = 3, depth: int = 3) -> Tensor:
    """Mix each image with chains of operations, each image with its own draws.

    Args:
        images: float32 in [0, 1], (N, C, H, W).
        strength: s, at least 0; 0 returns `images` as they are.
        generator: On the device of `images`.
        width: Chains an image, at least 1.
        depth: Most operations a chain, at least 1; each chain draws its number from 1 to this.

    Returns:
        float32 in [0, 1], in the shape of `images`.
    """
    if strength == 0.0 or not len(images):
        return images
    count, device = len(images), images.device
    chains = width * count

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    severity = min(SEVERITY * strength, LARGEST_LEVEL)
    lowest = min(SMALLEST_LEVEL, severity)
    kinds = torch.randint(len(OPERATIONS), (depth, chains), generator=generator, device=device)
    depths = torch.randint(1, depth + 1, (chains,), generator=generator, device=device)
    amounts = (lowest + (severity - lowest) * uniform(depth, chains)) / LARGEST_LEVEL
    signs = torch.where(uniform(depth, chains) < 0.5, -1.0, 1.0)
    # a Dirichlet of ones is exponential draws over their sum; Beta(1, 1) is uniform
    weights = -torch.log1p(-uniform(width, count))
    weights = weights / weights.sum(dim=0)
    share = (min(1.0, strength) * uniform(count))[:, None, None, None]

    chained = (images * 255.0).round_().clamp_(0.0, 255.0).repeat(width, 1, 1, 1)
    idle = torch.arange(depth, device=device)[:, None] >= depths
    _run(chained, kinds.masked_fill(idle, len(OPERATIONS)), amounts, signs)
    mixture = (chained.view(width, *images.shape) * (weights / 255.0)[:, :, None, None, None]).sum(dim=0)
    return torch.lerp(images, mixture, share).clamp_(0.0, 1.0)


def _run(levels: Tensor, kinds: Tensor, amounts: Tensor, signs: Tensor) -> None:
    """Apply operation `kinds[step]` to each of `levels` (N, C, H, W) in place, step by step; (steps, N) each."""
    # images of one operation together, and all affine ones, so that each is one call; the sizes cross to the host once
    family = (kinds - (AFFINE - 1)).clamp_(min=0)
    families = len(OPERATIONS) - AFFINE + 1
    order = family.argsort(dim=1, stable=True)
    sizes = torch.stack([(family == number).sum(dim=1) for number in range(families)], dim=1).tolist()
    for step, counts in enumerate(sizes):
        parts = order[step, : sum(counts)].split(counts)
        for number, chosen in enumerate(parts):
            if not len(chosen):
                continue
            part, amount = levels[chosen], amounts[step, chosen]
            if number == 0:
                moved = affine(part, _matrices(kinds[step, chosen], amount, signs[step, chosen], part.shape[-2:]))
            else:
                moved = _recolour(OPERATIONS[AFFINE - 1 + number], part, amount)
            levels[chosen] = moved


def _recolour(name: str, levels: Tensor, amount: Tensor) -> Tensor:
    if name == "autocontrast":
        return autocontrast(levels)
    if name == "equalize":
        return equalize(levels)
    if name == "posterize":
        return posterize(levels, KEPT_BITS - (KEPT_BITS * amount).floor())
    return solarize(levels, SOLARIZED - (SOLARIZED * amount).floor())


def _matrices(kinds: Tensor, amount: Tensor, signs: Tensor, size: torch.Size) -> Tensor:
    """For each image the map from output to input pixels as (N, 2, 3), of the first five operations."""
    height, width = size
    signed = amount * signs
    # counterclockwise in the image, whose y grows downwards
    angle = torch.deg2rad((ROTATION * amount).floor() * -signs)
    shear = SHEAR * signed
    across = (SHIFT * width * amount).floor() * signs
    down = (SHIFT * height * amount).floor() * signs
    rotates = kinds == 0
    zero = torch.zeros_like(amount)
    cosine = torch.where(rotates, torch.cos(angle), zero + 1.0)
    sine = torch.where(rotates, torch.sin(angle), zero)
    # about the centre, as the corner stays otherwise
    x, y = width / 2.0, height / 2.0
    rows = [
        cosine,
        torch.where(kinds == 1, shear, sine),
        torch.where(kinds == 3, across, x - cosine * x - sine * y),
        torch.where(kinds == 2, shear, -sine),
        cosine,
        torch.where(kinds == 4, down, y + sine * x - cosine * y),
    ]
    return torch.stack(rows, dim=1).view(-1, 2, 3)
