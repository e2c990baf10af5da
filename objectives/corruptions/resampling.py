"""Enlarging and shrinking as the published code does: SciPy's linear zoom of the middle, Pillow's box filter."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["clipped_zoom", "pixelated"]

# far below a grey level: lifts means that are halves, but for float32 noise, to the side that Pillow rounds them to
NOISE = 1e-4


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle by `factor` (≥ 1) with linear interpolation and keep the size.

    The middle ``ceil(size / factor)`` samples of an axis are stretched corner to corner over their rounded enlarged
    length, as ``scipy.ndimage.zoom(order=1)`` does, and the centre of the result is kept.

    Args:
        images: (N, C, H, W) float32.
        factor: How much larger.

    Returns:
        (N, C, H, W) float32, perhaps a view.
    """
    if factor == 1.0:
        return images
    height, width = images.shape[-2:]
    kept_height, kept_width = math.ceil(height / factor), math.ceil(width / factor)
    middle = _middle(images, kept_height, kept_width)
    large = (round(kept_height * factor), round(kept_width * factor))
    return _middle(F.interpolate(middle, size=large, mode="bilinear", align_corners=True), height, width)


def _middle(images: Tensor, height: int, width: int) -> Tensor:
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def pixelated(images: Tensor, height: int, width: int, *, enlarge: Literal["box", "nearest"]) -> Tensor:
    """Shrink to (height, width) with Pillow's BOX filter, rounding to bytes after each axis, and repeat pixels.

    Args:
        images: (N, C, H, W) float32 in [0, 1] on the grid of eight bits.
        height: Of the small image, at most H.
        width: Of the small image, at most W.
        enlarge: Which filter of Pillow's brings the size back; both repeat pixels, yet round ties differently.

    Returns:
        (N, C, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    full_height, full_width = images.shape[-2:]
    device = images.device
    # a line at a time is copied fast, a column is not: turn the image and work on lines
    levels = _turned((images * 255.0).round_())
    levels = _turned(_averaged(levels, *_windows(full_width, width, device)))
    levels = _turned(_averaged(levels, *_windows(full_height, height, device)).div_(255.0))
    chosen = (
        _windows(source, target, device)[0][0] if enlarge == "box" else _nearest(source, target, device)
        for source, target in ((width, full_width), (height, full_height))
    )
    return _turned(levels.index_select(2, next(chosen))).index_select(2, next(chosen))


def _turned(images: Tensor) -> Tensor:
    return images.transpose(2, 3).contiguous()


def _averaged(levels: Tensor, sources: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Means of lines, rounded to whole levels."""
    total = levels.index_select(2, sources[0])
    for source, weight in zip(sources[1:], weights[1:], strict=True):
        total.addcmul_(levels.index_select(2, source), weight[:, None])
    return total.div_(counts[:, None]).add_(0.5 + NOISE).floor_()


@lru_cache(maxsize=64)
def _windows(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels a target averages: the ones whose centres it covers, as Pillow's BOX filter counts them.

    Returns:
        (k, target) int64 sources, (k, target) float32 of 1 or 0 for those that a target has, (target,) how many.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    chosen = []
    for index in range(target):
        centre = (index + 0.5) * scale
        low, high = max(int(centre - 0.5 * stretch + 0.5), 0), min(int(centre + 0.5 * stretch + 0.5), source)
        inside = (np.arange(low, high) - centre + 0.5) * (1.0 / stretch)
        chosen.append(np.arange(low, high)[(inside > -0.5) & (inside <= 0.5)])
    counts = np.array([len(pixels) for pixels in chosen])
    steps = np.arange(counts.max())[:, None]
    sources = np.array([pixels[0] for pixels in chosen]) + np.minimum(steps, counts - 1)
    weights = (steps < counts).astype(np.float32)
    return (
        torch.as_tensor(sources, device=device),
        torch.as_tensor(weights, device=device),
        torch.as_tensor(counts.astype(np.float32), device=device),
    )


@lru_cache(maxsize=64)
def _nearest(source: int, target: int, device: torch.device) -> Tensor:
    """(target,) int64: the source pixel under each target's centre, found as by Pillow: adding up steps in float64."""
    step = source / target
    places = np.cumsum(np.concatenate([[0.5 * step], np.full(target - 1, step)]))
    return torch.as_tensor(places.astype(np.int64), device=device)
