"""What a JPEG file keeps of an image (ITU-T T.81, baseline, 4:2:0), as batched tensor code without the entropy coder.

Follows libjpeg's defaults, which are Pillow's: the tables of annex K scaled by quality, chroma averaged over 2x2 pixels
and interpolated back with its triangle filter, and its integer arithmetic throughout, so that values are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
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
# libjpeg's fixed point: colour in 16 bits, cosines in 13 with 2 more between the two passes
COLOUR = 2.0**-16
FINE, BETWEEN = 13, 2


@lru_cache(maxsize=32)
def quantization_table(base: tuple[tuple[int, ...], ...], quality: int, device: torch.device) -> Tensor:
    """(8, 8) int32: `base` scaled as libjpeg does for a quality of 1–100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = (np.array(base) * scale + 50) // 100
    return torch.as_tensor(table.clip(1, 255).astype(np.int32), device=device)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Encode and decode.

    Args:
        images: (N, 3, H, W) float32 in [0, 1], RGB on the grid of eight bits.
        quality: 1–100.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    height, width = images.shape[-2:]
    luminance, chrominance = (quantization_table(base, quality, images.device) for base in (LUMINANCE, CHROMINANCE))
    red, green, blue = (images * 255.0).round_().unbind(1)
    # sums stay below 2**24, so float32 holds them exactly
    luma = _scaled(red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0)
    centre = 128.0 * 65536.0 + 32767.0
    chroma = torch.stack(
        [
            _scaled(blue * 32768.0 - red * 11059.0 - green * 21709.0 + centre),
            _scaled(red * 32768.0 - green * 27439.0 - blue * 5329.0 + centre),
        ],
        dim=1,
    )
    luma = _pad(luma[:, None], 8, 8)
    # libjpeg fills up the right before it halves chroma, the bottom after
    chroma = _pad(_halve(_pad(chroma, 2, 16)), 8, 8)
    luma, small = _transform((luma, chroma), (luminance, chrominance))
    luma = luma[:, 0, :height, :width]
    small = small[:, :, : math.ceil(height / 2), : math.ceil(width / 2)]
    blue_chroma, red_chroma = (_double(small)[:, :, :height, :width] - 128.0).unbind(1)
    decoded = torch.stack(
        [
            luma + _scaled(red_chroma * 91881.0 + 32768.0),
            luma + _scaled(blue_chroma * -22554.0 - red_chroma * 46802.0 + 32768.0),
            luma + _scaled(blue_chroma * 116130.0 + 32768.0),
        ],
        dim=1,
    )
    return decoded.clamp_(0.0, 255.0).div_(255.0)


def _scaled(values: Tensor) -> Tensor:
    return values.mul_(COLOUR).floor_()


def _pad(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last line and column until their numbers are multiples of `rows` and `columns`."""
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % columns, 0, -height % rows), mode="replicate")


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


def _transform(groups: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> list[Tensor]:
    """DCT, quantize, dequantize and back, for groups of (N, C, H, W) planes of bytes with sides of multiples of 8."""
    # one row and column of all blocks at a time: (8, 8, blocks)
    parts = [_split(planes).permute(3, 5, 0, 1, 2, 4).flatten(2) for planes in groups]
    counts = [part.shape[2] for part in parts]
    blocks = torch.cat(parts, dim=2).sub_(128.0).to(torch.int32)
    rows = _forward(blocks.unbind(1), first=True)
    levels = torch.stack(_forward(torch.stack(rows, 1).unbind(0), first=False))
    for part, table in zip(levels.split(counts, dim=2), tables, strict=True):
        _quantized_(part, table[:, :, None])
    columns = torch.stack(_inverse(levels.unbind(0), FINE - BETWEEN))
    pixels = torch.stack(_inverse(columns.unbind(1), FINE + BETWEEN + 3), 1)
    pixels = pixels.add_(128).clamp_(0, 255).to(torch.float32)
    transformed = []
    for part, planes in zip(pixels.split(counts, dim=2), groups, strict=True):
        result = torch.empty_like(planes)
        _split(result).permute(3, 5, 0, 1, 2, 4).copy_(part.reshape(8, 8, *_split(planes).shape[:3], -1))
        transformed.append(result)
    return transformed


def _split(planes: Tensor) -> Tensor:
    """(N, C, H / 8, 8, W / 8, 8), a view."""
    count, channels, height, width = planes.shape
    return planes.view(count, channels, height // 8, 8, width // 8, 8)


def _quantized_(levels: Tensor, table: Tensor) -> None:
    """Round to multiples of the table, in place; the transform's values come eight times too large."""
    # float32 divides faster, and right: quotients of numbers below 2**18 stay clear of the next whole number
    sizes = levels.abs().add_(table * 4).to(torch.float32).div_(table * 8).floor_()
    levels.copy_(sizes.copysign_(levels)).mul_(table)


def _descaled(values: Tensor, bits: int) -> Tensor:
    return values.add_(1 << (bits - 1)).bitwise_right_shift_(bits)


def _forward(samples: Sequence[Tensor], *, first: bool) -> list[Tensor]:
    """One pass of libjpeg's accurate integer DCT (Loeffler, Ligtenberg & Moschytz 1989) over eight int32 tensors."""
    sums = [samples[i] + samples[7 - i] for i in range(4)]
    bits = FINE - BETWEEN if first else FINE + BETWEEN
    outer, inner = sums[0] + sums[3], sums[1] + sums[2]
    even = [outer + inner, outer - inner]
    even = [value.bitwise_left_shift_(BETWEEN) if first else _descaled(value, BETWEEN) for value in even]
    low, high = sums[1] - sums[2], sums[0] - sums[3]
    turned = (low + high) * 4433
    second, sixth = _descaled(turned + high * 6270, bits), _descaled(turned - low * 15137, bits)
    odd = _rotated([samples[3 - i] - samples[4 + i] for i in range(4)])
    seventh, fifth, third, start = (_descaled(value, bits) for value in odd)
    return [even[0], start, second, third, even[1], fifth, sixth, seventh]


def _inverse(levels: Sequence[Tensor], bits: int) -> list[Tensor]:
    """One pass of the inverse over eight int32 tensors, scaled down by 2**bits."""
    turned = (levels[2] + levels[6]) * 4433
    low, high = turned - levels[6] * 15137, turned + levels[2] * 6270
    total, difference = (levels[0] + levels[4]) << FINE, (levels[0] - levels[4]) << FINE
    even = [total + high, difference + low, difference - low, total - high]
    odd = _rotated([levels[7], levels[5], levels[3], levels[1]])[::-1]
    upper = [_descaled(a + b, bits) for a, b in zip(even, odd, strict=True)]
    lower = [_descaled(a - b, bits) for a, b in zip(even, odd, strict=True)]
    return upper + lower[::-1]


def _rotated(values: list[Tensor]) -> list[Tensor]:
    """The odd half of the transform, the same in both directions."""
    a, b, c, d = values
    z3, z4 = a + c, b + d
    z5 = (z3 + z4) * 9633
    z1, z2 = (a + d) * -7373, (b + c) * -20995
    z3, z4 = z3.mul_(-16069).add_(z5), z4.mul_(-3196).add_(z5)
    return [a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4]
