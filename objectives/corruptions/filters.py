"""Gaussian blur as a sum of shifted images, sampled as SciPy and scikit-image do.

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

__all__ = ["along", "gaussian_blur", "gaussian_taps"]


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
            images = along(_extended(images, axis, len(taps) - 1, border), axis, taps)
    return images


def _extended(images: Tensor, axis: int, reach: int, border: Literal["nearest", "reflect"]) -> Tensor:
    if border == "nearest":
        return F.pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="replicate")
    first, last = images.narrow(axis, 0, reach), images.narrow(axis, images.shape[axis] - reach, reach)
    return torch.cat([first.flip(axis), images, last.flip(axis)], dim=axis)


def along(extended: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    """A symmetric filter, given by its half from the centre on, over one axis of what was extended by its reach."""
    reach = len(taps) - 1
    size = extended.shape[axis] - 2 * reach
    total = extended.narrow(axis, reach, size) * taps[0]
    pair = torch.empty_like(total)
    for step in range(1, reach + 1):
        before, after = extended.narrow(axis, reach - step, size), extended.narrow(axis, reach + step, size)
        total.add_(torch.add(before, after, out=pair), alpha=taps[step])
    return total
