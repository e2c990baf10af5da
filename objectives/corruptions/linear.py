"""Separable linear operators on images as small matrices: gaussian blur, clipped zoom, box resampling.

An operator acts as ``rows @ image @ columns.T``, which turns a filter with any border rule into two batched products.
All matrices are float32 on the CPU and depend on sizes and constants alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["apply", "box_matrix", "gaussian_blur", "gaussian_matrix", "zoom_matrix"]


def apply(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ image @ columns.T`` for (…, H, W) images; `rows` is (h, H), `columns` (w, W), the result (…, h, w)."""
    return rows.to(images) @ images @ columns.to(images).T


@lru_cache(maxsize=64)
def gaussian_matrix(size: int, sigma: float, truncate: float, border: Literal["nearest", "reflect"]) -> Tensor:
    """(size, size): a normalised gaussian of radius int(truncate * sigma + 0.5), as scipy.ndimage samples it.

    Args:
        size: Length of the axis.
        sigma: Standard deviation in pixels; 0 gives the identity.
        truncate: Where the kernel ends, in standard deviations.
        border: ``"nearest"`` repeats the edge pixel, ``"reflect"`` mirrors with the edge pixel doubled.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return torch.eye(size)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    sources = np.arange(size)[:, None] + offsets[None, :]
    if border == "nearest":
        sources = sources.clip(0, size - 1)
    else:
        sources = sources % (2 * size)
        sources = np.where(sources < size, sources, 2 * size - 1 - sources)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], sources), taps[None, :])
    return torch.from_numpy(matrix.astype(np.float32))


def gaussian_blur(
    images: Tensor, sigma: float, *, truncate: float = 4.0, border: Literal["nearest", "reflect"] = "nearest"
) -> Tensor:
    """Blur (…, H, W) with a gaussian; the defaults are those of ``skimage.filters.gaussian``."""
    height, width = images.shape[-2:]
    rows = gaussian_matrix(height, sigma, truncate, border)
    return apply(images, rows, gaussian_matrix(width, sigma, truncate, border))


@lru_cache(maxsize=256)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """(size, size): enlarge the middle of an axis by `factor` (≥ 1) with linear interpolation and cut it back.

    The middle ``ceil(size / factor)`` samples are stretched corner to corner over their rounded enlarged length, as
    ``scipy.ndimage.zoom(order=1)`` does, and the centre of the result is kept.
    """
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    enlarged = round(kept * factor)
    trim = (enlarged - size) // 2
    positions = (np.arange(size) + trim) * ((kept - 1) / max(enlarged - 1, 1))
    lower = np.minimum(np.floor(positions).astype(int), kept - 1)
    upper = np.minimum(lower + 1, kept - 1)
    share = positions - lower
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), first + lower), 1.0 - share)
    np.add.at(matrix, (np.arange(size), first + upper), share)
    return torch.from_numpy(matrix.astype(np.float32))


@lru_cache(maxsize=64)
def box_matrix(source: int, target: int) -> Tensor:
    """(target, source): Pillow's BOX filter, which averages the whole source pixels whose centres a target covers."""
    scale = source / target
    support = 0.5 * max(scale, 1.0)
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), source)
        inside = (np.arange(low, high) + 0.5 - centre) / max(scale, 1.0)
        weights = ((inside > -0.5) & (inside <= 0.5)).astype(float)
        matrix[row, low:high] = weights / weights.sum()
    return torch.from_numpy(matrix.astype(np.float32))
