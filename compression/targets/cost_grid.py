"""Costs on a grid of channel counts: which counts to measure, reading between them, fitting the whole to networks.

Pure functions behind `cost_table`; the gradient of `bilinear` is what a hardware loss feels. Nothing here makes costs
grow with channels: some integer kernels take longer for 8 channels than for 16, and a loss should know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["bilinear", "boundary_line", "channel_counts", "fit_line", "from_zero"]

MULTIPLE = 8


def channel_counts(dense: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Numbers of channels to measure, ascending, the dense one last.

    Multiples of 8, since runtimes compute in such blocks and are slow with other counts; a layer of fewer is measured
    as it is.

    Args:
        dense: The full number, at least 1.
        fractions: Shares of it, in (0, 1].
    """
    rounded = {max(MULTIPLE, round(dense * share / MULTIPLE) * MULTIPLE) for share in fractions}
    return (*sorted(count for count in rounded if count < dense), dense)


def from_zero(values: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A grid with one more line in front, at position 0, so that what lies below the first line is a cell too.

    There the surface goes on with the first cell's slope, but not below a proportional share, as it does where a lone
    line says nothing of slopes.

    Args:
        values: (lines, …), not negative.
        positions: (lines,), positive and ascending.

    Returns:
        Values (lines + 1, …) and positions (lines + 1,).
    """
    first = np.zeros_like(values[0])
    if len(positions) > 1:
        slope = (values[1] - values[0]) / (positions[1] - positions[0])
        first = np.maximum(values[0] - slope * positions[0], 0.0)
    return np.concatenate([first[None], values]), np.concatenate([[0.0], positions])


def bilinear(values: Tensor, rows: Tensor, columns: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Surfaces through `values`, each at its (`x`, `y`): linear along either axis between grid lines, differentiable.

    On a grid line the slope is that of the cell below it: what removing one more channel saves. Nothing is read back
    from the device.

    Args:
        values: (…, R, C), a grid of two lines or more either way for each place.
        rows: (…, R), positions of the rows, ascending.
        columns: (…, C), positions of the columns, ascending.
        x: (…), positions along the rows, of the grids' type.
        y: (…), positions along the columns, the same.

    Returns:
        (…).
    """
    i, s = _cell(rows, x)
    j, t = _cell(columns, y)
    width, flat = values.shape[-1], values.flatten(-2)
    low, right, down, both = (
        flat.gather(-1, (i + below) * width + j + beside).squeeze(-1)
        for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    near, far = low + (down - low) * s, right + (both - right) * s
    return near + (far - near) * t


def _cell(grid: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The cells, (…, 1), that hold `position`, (…), and the shares of the way through them, (…)."""
    index = torch.searchsorted(grid, position.detach()[..., None]).sub(1).clamp(0, grid.shape[-1] - 2)
    start, end = grid.gather(-1, index).squeeze(-1), grid.gather(-1, index + 1).squeeze(-1)
    return index, (position - start) / (end - start)


def fit_line(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Scale and overhead, neither negative, that minimise Σ ((overhead + scale·predicted − measured) ÷ measured)².

    Args:
        predicted: (N,) positive.
        measured: (N,) positive.

    Returns:
        Scale, positive, and overhead.
    """
    design = np.stack([predicted, np.ones_like(predicted)], axis=1) / measured[:, None]
    (scale, overhead), *_ = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)
    if scale > 0.0 and overhead >= 0.0 and len(predicted) > 1:
        return float(scale), float(overhead)
    # a line through the origin: what is left when the best of the others has a negative part
    share = design[:, 0]
    return float(share.sum() / (share @ share)), 0.0


def boundary_line(elements: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """What it takes to enter or leave a network: a fixed part and one for each number that crosses, neither negative.

    Args:
        elements: (N,) numbers that cross.
        ends: (N,) time that each crossing was found to take; noise may make some negative.
    """
    slope, fixed = np.polyfit(elements, ends, 1) if len(set(elements.tolist())) > 1 else (0.0, ends.mean())
    if slope < 0.0:
        return max(float(ends.mean()), 0.0), 0.0
    if fixed < 0.0:
        return 0.0, max(float(elements @ ends / (elements @ elements)), 0.0)
    return float(fixed), float(slope)
