"""Sums of whole-pixel shifts that differ from image to image, and crops at places that differ, all on the device.

A shift of a padded plane by whole pixels is a stretch of its memory that starts elsewhere: picking stretches from a
view of all of them copies long runs, where gathering pixel by pixel would need an index for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crops", "shifted_sum"]


def shifted_sum(planes: Tensor, rows: Tensor, columns: Tensor, weights: Sequence[float], reach: int) -> Tensor:
    """The weighted sum of each image's shifted copies, edge pixels repeated beyond the border.

    Args:
        planes: (N, C, H, W) float32.
        rows: (N, K) int64: how far below a pixel the value comes from, at most `reach` either way.
        columns: (N, K) int64: how far to the right, at most `reach` either way.
        weights: K numbers.
        reach: Pixels.

    Returns:
        (N, C, H, W) float32.
    """
    count, channels, height, width = planes.shape
    padded = F.pad(planes, (reach,) * 4, mode="replicate")
    stride = width + 2 * reach
    length = (height - 1) * stride + width
    area = stride * (height + 2 * reach)
    stretches = padded.as_strided((count, area - length + 1, channels, length), (channels * area, 1, area, 1))
    starts = (rows + reach) * stride + (columns + reach)
    image = torch.arange(count, device=planes.device)
    # the last line has no right margin; a total of whole lines can be viewed as an image
    total = planes.new_empty(count, channels, height * stride)
    sums = total[:, :, :length]
    torch.mul(stretches[image, starts[:, 0]], weights[0], out=sums)
    for step in range(1, len(weights)):
        sums.add_(stretches[image, starts[:, step]], alpha=weights[step])
    return total.view(count, channels, height, stride)[..., :width]


def crops(canvas: Tensor, which: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Cut a rectangle for each image.

    Args:
        canvas: (T, C, H, W), contiguous, any dtype.
        which: (N,) int64 in [0, T).
        rows: (N,) int64: first line, at most H - height.
        columns: (N,) int64: first column, at most W - width.
        height: Of the crops.
        width: Of the crops.

    Returns:
        (N, C, height, width) of the canvas's dtype.
    """
    count, channels, full_height, full_width = canvas.shape
    area = full_height * full_width
    places = canvas.as_strided(
        (count, full_height - height + 1, full_width - width + 1, channels, height, width),
        (channels * area, full_width, 1, area, full_width, 1),
    )
    return places[which, rows, columns]
