"""Blurs as sums of shifted images: gaussian (SciPy's and scikit-image's sampling) and any doubly symmetric kernel.

Each value is computed by the same elementwise steps whatever the batch, unlike matrix products and convolutions, whose
order of summation a library chooses by size: so an image is blurred alike alone and among others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gaussian_blur", "gaussian_taps", "symmetric_filter"]

# from this width on, differences of running sums are cheaper than single taps
RUN = 2


@lru_cache(maxsize=64)
def gaussian_taps(sigma: float, truncate: float = 4.0) -> tuple[float, ...]:
    """Half of a normalised gaussian, centre first, of radius int(truncate * sigma + 0.5), sampled as SciPy does."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return (1.0,)
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return tuple((taps / (2.0 * taps.sum() - taps[0])).tolist())


def gaussian_blur(
    images: Tensor,
    sigma: float | tuple[float, float],
    *,
    truncate: float = 4.0,
    border: Literal["nearest", "reflect"] = "nearest",
) -> Tensor:
    """Blur the last two axes; the defaults are those of ``skimage.filters.gaussian``.

    Args:
        images: (N, C, H, W) float32.
        sigma: Standard deviation in pixels, of both axes or of rows and columns.
        truncate: Where the kernel ends, in standard deviations.
        border: ``"nearest"`` repeats the edge pixel, ``"reflect"`` mirrors with the edge pixel doubled.

    Returns:
        (N, C, H, W) float32; `images` itself where `sigma` is too small for a second tap.
    """
    sigmas = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    for axis, deviation in zip((2, 3), sigmas, strict=True):
        taps = gaussian_taps(deviation, truncate)
        if len(taps) > 1:
            images = _along(_extended(images, axis, len(taps) - 1, border), axis, taps)
    return images


def _extended(images: Tensor, axis: int, reach: int, border: Literal["nearest", "reflect"]) -> Tensor:
    if border == "nearest":
        return F.pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="replicate")
    first, last = images.narrow(axis, 0, reach), images.narrow(axis, images.shape[axis] - reach, reach)
    return torch.cat([first.flip(axis), images, last.flip(axis)], dim=axis)


def _along(extended: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    reach = len(taps) - 1
    size = extended.shape[axis] - 2 * reach
    total = extended.narrow(axis, reach, size) * taps[0]
    pair = torch.empty_like(total)
    for step in range(1, reach + 1):
        before, after = extended.narrow(axis, reach - step, size), extended.narrow(axis, reach + step, size)
        total.add_(torch.add(before, after, out=pair), alpha=taps[step])
    return total


def symmetric_filter(images: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlate with a kernel that equals its mirror images, the border mirrored about the edge pixel's centre.

    Where the middle of a kernel's row is constant, as a disk's is, that run is a difference of running sums; they hold
    whole grey levels, which float32 adds exactly.

    Args:
        images: (N, C, H, W) float32 in [0, 1] on the grid of eight bits.
        kernel: (k, k) float64, k odd, ``kernel == kernel[::-1] == kernel[:, ::-1]``.

    Returns:
        (N, C, H, W) float32.
    """
    height, width = images.shape[-2:]
    reach = len(kernel) // 2
    quarter = kernel[reach:, reach:]
    levels = (F.pad(images, (reach,) * 4, mode="reflect") * 255.0).round_()
    runs = [_run(row) for row in quarter]
    sums = F.pad(levels.cumsum(3), (1, 0)) if max(runs) > RUN else None
    total = torch.zeros_like(images)
    pair = torch.empty_like(total)
    for down, (row, run) in enumerate(zip(quarter, runs, strict=True)):
        lines = _lines(levels, reach, down, height)
        start = 1
        if sums is not None and run > RUN:
            running = _lines(sums, reach, down, height)
            after, before = running.narrow(3, reach + run, width), running.narrow(3, reach + 1 - run, width)
            total.add_(torch.sub(after, before, out=pair), alpha=float(row[0]) / 255.0)
            start = run
        elif row[0] > 0.0:
            total.add_(lines.narrow(3, reach, width), alpha=float(row[0]) / 255.0)
        for across in range(start, reach + 1):
            if row[across] > 0.0:
                left, right = lines.narrow(3, reach - across, width), lines.narrow(3, reach + across, width)
                total.add_(torch.add(left, right, out=pair), alpha=float(row[across]) / 255.0)
    return total


def _run(row: np.ndarray) -> int:
    """How many weights from the middle on are equal."""
    different = np.flatnonzero(np.abs(row - row[0]) > 1e-12)
    return int(different[0]) if len(different) else len(row)


def _lines(planes: Tensor, reach: int, down: int, height: int) -> Tensor:
    """The lines `down` below each line plus, unless that is the line itself, those as far above."""
    if down == 0:
        return planes.narrow(2, reach, height)
    return planes.narrow(2, reach - down, height) + planes.narrow(2, reach + down, height)
