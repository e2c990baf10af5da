"""What a JPEG file keeps of an image (ITU-T T.81, baseline, 4:2:0), as batched tensor code without the entropy coder.

Follows libjpeg's defaults, which are Pillow's: the tables of annex K scaled by quality, chroma averaged over 2x2 pixels
and interpolated back with its triangle filter. libjpeg transforms in integers, so values may differ by a few levels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["jpeg", "quantization_table"]

# T.81 annex K.1, row by row
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# lifts values that are halves, but for float32 noise, to the side that libjpeg rounds them to
NOISE = 1e-3


def quantization_table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """(8, 8) float32: `base` scaled as libjpeg does for a quality of 1–100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor(base)
    return ((table * scale + 50) // 100).clamp(1, 255).float()


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Encode and decode.

    Args:
        images: (N, 3, H, W) float32 in [0, 1], RGB on the grid of eight bits.
        quality: 1–100.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    height, width = images.shape[-2:]
    red, green, blue = (images * 255.0).round().unbind(1)
    luma = _round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma = torch.stack(
        [
            _round(-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128.0 - NOISE),
            _round(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128.0 - NOISE),
        ],
        dim=1,
    )
    luma = _transform(_pad(luma[:, None], 16), quantization_table(LUMINANCE, quality))
    small = _transform(_halve(_pad(chroma, 16)), quantization_table(CHROMINANCE, quality))
    small = small[:, :, : math.ceil(height / 2), : math.ceil(width / 2)]
    blue_chroma, red_chroma = (_double(small)[:, :, :height, :width] - 128.0).unbind(1)
    luma = luma[:, 0, :height, :width]
    decoded = torch.stack(
        [
            luma + _round(1.402 * red_chroma),
            luma + _round(-0.344136286 * blue_chroma - 0.714136286 * red_chroma),
            luma + _round(1.772 * blue_chroma),
        ],
        dim=1,
    )
    return decoded.clamp_(0.0, 255.0).div_(255.0)


def _round(values: Tensor) -> Tensor:
    return (values + (0.5 + NOISE)).floor_()


def _pad(planes: Tensor, multiple: int) -> Tensor:
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _halve(planes: Tensor) -> Tensor:
    """Average 2x2 pixels; halves go down and up in turn along a row, so that the mean keeps its level."""
    total = planes[:, :, ::2, ::2] + planes[:, :, ::2, 1::2] + planes[:, :, 1::2, ::2] + planes[:, :, 1::2, 1::2]
    bias = 1.0 + torch.arange(total.shape[-1], device=planes.device) % 2
    return ((total + bias) / 4.0).floor_()


def _double(planes: Tensor) -> Tensor:
    """Twice the size: each new pixel is 9/16 of the nearest, 3/16 of two neighbours and 1/16 of the diagonal one."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (0, 0, 1, 1), mode="replicate")
    upper, lower = 3.0 * planes + padded[:, :, :-2], 3.0 * planes + padded[:, :, 2:]
    tall = torch.stack([upper, lower], dim=3).reshape(*planes.shape[:2], 2 * height, width)
    padded = F.pad(tall, (1, 1, 0, 0), mode="replicate")
    left, right = 3.0 * tall + padded[..., :-2] + 8.0, 3.0 * tall + padded[..., 2:] + 7.0
    return (torch.stack([left, right], dim=4) / 16.0).floor_().reshape(*planes.shape[:2], 2 * height, 2 * width)


def _cosines() -> Tensor:
    """(8, 8): the orthonormal DCT-II, one frequency a row."""
    frequency, position = torch.arange(8.0)[:, None], torch.arange(8.0)[None, :]
    matrix = torch.cos((2.0 * position + 1.0) * frequency * math.pi / 16.0) / 2.0
    matrix[0] /= math.sqrt(2.0)
    return matrix


def _transform(planes: Tensor, table: Tensor) -> Tensor:
    """DCT, quantize, dequantize and back, for (N, C, H, W) planes of bytes with sides that are multiples of 8."""
    count, channels, height, width = planes.shape
    cosines, table = _cosines().to(planes), table.to(planes)
    blocks = (planes - 128.0).reshape(count, channels, height // 8, 8, width // 8, 8)
    blocks = torch.einsum("ui,nchiwj,vj->nchuwv", cosines, blocks, cosines)
    levels = blocks / table[:, None, :]
    levels = levels.sign() * (levels.abs() + (0.5 + NOISE)).floor_()
    blocks = torch.einsum("ui,nchuwv,vj->nchiwj", cosines, levels * table[:, None, :], cosines)
    return _round(blocks.reshape(planes.shape) + 128.0).clamp_(0.0, 255.0)
