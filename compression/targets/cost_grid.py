"""Costs on a grid of channel counts: which counts to measure, reading between them, fitting the whole to networks.

Pure functions behind `cost_table`; the gradient of `bilinear` is what a hardware loss feels. Nothing here makes costs
grow with channels: some integer kernels take longer for 8 channels than for 16, and a loss should know.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["bilinear", "boundary_line", "channel_counts", "fit_line"]

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


def bilinear(
    values: Sequence[Sequence[float]], rows: Sequence[float], columns: Sequence[float], x: Tensor, y: Tensor
) -> Tensor:
    """The surface through `values` at (`x`, `y`), linear along either axis between grid lines, and differentiable.

    Below the first grid line the surface goes on with the first cell's slope, but not below a proportional share. On a
    grid line the slope is that of the cell below it: what removing one more channel saves.

    Args:
        values: (rows, columns), not negative.
        rows: Positions of the rows, positive and ascending.
        columns: Positions of the columns, the same.
        x: 0-d float, the position along the rows.
        y: 0-d float, the position along the columns.

    Returns:
        0-d float.
    """
    i, s = _cell(rows, x)
    j, t = _cell(columns, y)
    low = _between(rows, [row[j] for row in values], i, s, x)
    if t is None:
        return low
    high = _between(rows, [row[j + 1] for row in values], i, s, x)
    below = float(y.detach()) < columns[0]
    falling = low + (high - low) * t
    return torch.maximum(falling, low * y / columns[0]) if below else falling


def _between(rows: Sequence[float], line: Sequence[float], i: int, s: Tensor | None, x: Tensor) -> Tensor:
    """`line`, values at `rows`, read at `x`, which lies a share `s` of the way through cell `i`."""
    if s is None:
        return x.new_tensor(line[i])
    value = line[i] + (line[i + 1] - line[i]) * s
    return torch.maximum(value, line[i] * x / rows[0]) if float(x.detach()) < rows[0] else value


def _cell(grid: Sequence[float], position: Tensor) -> tuple[int, Tensor | None]:
    """The cell that holds `position`, and the share of the way through it; None on a grid of one line."""
    if len(grid) == 1:
        return 0, None
    index = min(max(bisect_left(grid, float(position.detach())) - 1, 0), len(grid) - 2)
    return index, (position - grid[index]) / (grid[index + 1] - grid[index])


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
