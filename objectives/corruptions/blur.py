"""The blur family: defocus, glass, motion, zoom and gaussian blur (Hendrycks & Dietterich 2019, appendix B)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .disk import disk_filter
from .filters import gaussian_blur as gaussian_filter
from .randomness import Draws
from .resampling import clipped_zoom
from .severities import WHOLE, constant, is_small, to_bytes
from .shifts import shifted_sum

__all__ = ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "smear", "zoom_blur"]

# a tap below this share moves no grey level
NEGLIGIBLE_TAP = 1e-6
# pointers are followed for 2**6 steps; a chain goes on with a chance of at most 0.43, so one in 1e24 is longer
DOUBLINGS = 6


def defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Convolve with a softened disk, mirrored at the border.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        severity: 1–5.
        draws: Not used; every corruption takes it.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
    large = ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5))
    radius, softness = constant(images, severity, small, large)
    return to_bytes(disk_filter(images, radius, softness))


def gaussian_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur with a gaussian (published for tuning); shapes as in `defocus_blur`, `draws` is not used."""
    sigma = constant(images, severity, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0))
    return to_bytes(gaussian_filter(images, sigma))


def glass_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur, let each pixel take a near neighbour's place, blur; shapes as in `defocus_blur`.

    The published loop "swaps" two NumPy views and thereby copies: a pixel receives its neighbour and gives nothing. In
    its descending scan a neighbour that comes earlier in raster order is still untouched, so with offsets of -1 and 0
    an iteration is one gather; chains through pixels already overwritten are followed by doubling pointers.
    """
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach, iterations = constant(images, severity, small, large)
    pixels = to_bytes(gaussian_filter(images, sigma)).flatten(2)
    for _ in range(iterations):
        sources = glass_sources(images.shape[-2], images.shape[-1], reach, draws)
        pixels = pixels.gather(2, sources[:, None].expand_as(pixels))
    return to_bytes(gaussian_filter(pixels.view(images.shape), sigma))


def glass_sources(height: int, width: int, reach: int, draws: Draws) -> Tensor:
    """(N, H * W) int64: where the value that each pixel ends with came from, in one iteration of `glass_blur`."""
    rows = torch.arange(height, device=draws.device)[:, None]
    columns = torch.arange(width, device=draws.device)[None, :]
    moved = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    offsets = draws.integers(-reach, reach, 2, height, width)
    shift = (offsets[:, 0] * width + offsets[:, 1]).mul_(moved)
    here = rows * width + columns
    sources = shift.add_(here).flatten(1)
    if reach == 1:
        return sources
    here, moved = here.flatten(), moved.flatten()
    # a source later in raster order was written before this pixel read it: look through it. What needs no look points
    # into a second half, where every place points at itself, so that all pointers can be followed together.
    size = height * width
    settled = (sources <= here) | ~moved[sources]
    sources = sources.add_(settled, alpha=size)
    itself = torch.arange(size, 2 * size, device=draws.device).expand_as(sources)
    for _ in range(DOUBLINGS):
        sources = torch.cat([sources, itself], dim=1).gather(1, sources)
    return sources.sub_(size)


def smear(planes: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """ImageMagick's motion blur: one-sided gaussian taps along a line, at whole-pixel offsets, edge pixels repeated.

    Args:
        planes: (N, C, H, W) float32.
        radius: The kernel holds 2 * ceil(radius) + 1 taps.
        sigma: Their standard deviation in pixels.
        angle: (N,) degrees; 0 looks to the right, 90 down.

    Returns:
        (N, C, H, W) float32.
    """
    taps = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    taps = taps[taps >= NEGLIGIBLE_TAP]
    radians = torch.deg2rad(angle)
    steps = torch.arange(len(taps), device=planes.device)
    across = torch.ceil(steps * radians.cos()[:, None] - 0.5).long()
    down = torch.ceil(steps * radians.sin()[:, None] - 0.5).long()
    return shifted_sum(planes, down, across, taps.tolist(), reach=len(taps) - 1)


def motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Smear along a line within 45 degrees of the horizontal; shapes as in `defocus_blur`."""
    small = ((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5))
    large = ((10.0, 3.0), (15.0, 5.0), (15.0, 8.0), (15.0, 12.0), (20.0, 15.0))
    radius, sigma = constant(images, severity, small, large)
    angle = draws.uniform(low=-45.0, high=45.0)
    # CIFAR-10-C's ImageMagick rounds to eight bits, NumPy and so imagecorruptions truncate
    rounding = (0.5 - WHOLE) / 255.0 if is_small(images) else 0.0
    return to_bytes(smear(images, radius, sigma, angle).add_(rounding))


def zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Average the image with enlargements of its middle; shapes as in `defocus_blur`."""
    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    end, step = constant(images, severity, small, large)
    factors = [float(factor) for factor in np.arange(1, end, step)]
    # interpolation is twice as fast with a pixel's channels side by side
    images = images.contiguous(memory_format=torch.channels_last)
    total = images.clone()
    for factor in factors:
        total += clipped_zoom(images, factor)
    return to_bytes(total.div_(len(factors) + 1)).contiguous()
