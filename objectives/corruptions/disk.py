"""Correlation with a disk softened by a gaussian, the kernel of defocus blur, mirrored at the image's border.

A disk is a stack of runs, and a run of equal weights is a difference of running sums, which hold whole grey levels and
so are exact; the gaussian follows as two short passes. What the published code's cutting of the softened disk to a
square changes is a few taps at the square's rim.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import along

__all__ = ["disk_filter", "disk_kernel"]

# all that is left out together moves a value by less than a hundredth of a grey level
NEGLIGIBLE = 1e-9
NEGLIGIBLE_WEIGHT = 1e-6


def disk_filter(images: Tensor, radius: float, softness: float) -> Tensor:
    """Correlate with `disk_kernel`, the border mirrored about the edge pixel's centre.

    Args:
        images: (N, C, H, W) float32 in [0, 1] on the grid of eight bits.
        radius: Of the disk, in pixels.
        softness: Standard deviation of the gaussian, in pixels.

    Returns:
        (N, C, H, W) float32.
    """
    height, width = images.shape[-2:]
    taps = _softening(radius, softness)
    rim = _rim(radius, softness)
    soft = len(taps) - 1
    runs = [math.isqrt(math.floor(radius**2) - down**2) for down in range(math.floor(radius) + 1)]
    reach = len(runs) - 1 + soft
    levels = (F.pad(images, (reach,) * 4, mode="reflect") * 255.0).round_()
    # the disk, on a margin for the gaussian around the image
    margin = reach - soft
    tall, wide = height + 2 * soft, width + 2 * soft
    if len(runs) == 1:
        disk = levels.narrow(2, margin, tall).narrow(3, margin, wide)
    else:
        sums = F.pad(levels.cumsum(3), (1, 0))
        disk = levels.new_zeros(*images.shape[:2], tall, wide)
        for down, run in enumerate(runs):
            lines = _lines(sums, margin, down, tall)
            disk += lines.narrow(3, margin + run + 1, wide)
            disk -= lines.narrow(3, margin - run, wide)
    disk = disk * (1.0 / (255.0 * (2 * sum(2 * run + 1 for run in runs) - 2 * runs[0] - 1)))
    total = along(along(disk, 2, taps), 3, taps)
    pair = torch.empty_like(total)
    for down, weights in rim.items():
        lines = _lines(levels, reach, down, height)
        for across, weight in weights:
            side = lines.narrow(3, reach + across, width)
            if across:
                torch.add(side, lines.narrow(3, reach - across, width), out=pair)
            total.add_(pair if across else side, alpha=weight / 255.0)
    return total


def _lines(planes: Tensor, reach: int, down: int, height: int) -> Tensor:
    """The lines `down` below each line plus, unless that is the line itself, those as far above."""
    if down == 0:
        return planes.narrow(2, reach, height)
    return planes.narrow(2, reach - down, height) + planes.narrow(2, reach + down, height)


def _square(radius: float) -> tuple[int, int]:
    """The published code's half sides of the disk's square and of the gaussian's."""
    return (8, 1) if radius <= 8 else (math.ceil(radius), 2)


@lru_cache(maxsize=16)
def _softening(radius: float, softness: float) -> tuple[float, ...]:
    """Half of the gaussian, centre first, without a tail that moves no grey level."""
    taps = np.exp(-(np.arange(_square(radius)[1] + 1) ** 2) / (2.0 * softness**2))
    taps /= 2.0 * taps.sum() - taps[0]
    return tuple(tap for tap in taps.tolist() if tap > NEGLIGIBLE)


def disk_kernel(radius: float, softness: float) -> np.ndarray:
    """(k, k) float64: a disk of sum 1, softened by a 3x3 (5x5 beyond radius 8) gaussian that mirrors at the square."""
    reach, half = _square(radius)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(float)
    padded = np.pad(disk / disk.sum(), half, mode="reflect")
    taps = np.exp(-(np.arange(-half, half + 1) ** 2) / (2.0 * softness**2))
    taps /= taps.sum()
    size = len(axis)
    soft = sum(taps[i] * padded[i : i + size] for i in range(len(taps)))
    return sum(taps[i] * soft[:, i : i + size] for i in range(len(taps)))


@lru_cache(maxsize=16)
def _rim(radius: float, softness: float) -> dict[int, list[tuple[int, float]]]:
    """What `disk_kernel` has beyond disk then gaussian: across and weight by the distance down, of one quarter."""
    reach, half = _square(radius)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(float)
    plain = np.pad(disk / disk.sum(), half)
    taps = np.array(_softening(radius, softness))
    for axis_number in (0, 1):
        plain = np.apply_along_axis(np.convolve, axis_number, plain, [*taps[:0:-1], *taps], mode="same")
    difference = np.pad(disk_kernel(radius, softness), half) - plain
    quarter = difference[reach + half :, reach + half :]
    rim: dict[int, list[tuple[int, float]]] = {}
    for down, across in zip(*np.nonzero(np.abs(quarter) > NEGLIGIBLE_WEIGHT), strict=True):
        rim.setdefault(int(down), []).append((int(across), float(quarter[down, across])))
    return rim
