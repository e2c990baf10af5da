"""Operations on 8-bit grey levels as Pillow defines them, for whole batches: what AugMix chains.

Images are float32 tensors of whole numbers in 0–255, (N, C, H, W), each with its own amount; results likewise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["affine", "autocontrast", "equalize", "posterize", "solarize"]

LEVELS = 256
ROUNDING = 0.02


def affine(levels: Tensor, matrices: Tensor) -> Tensor:
    """Resample bilinearly; what comes from outside the image is black (`Image.transform` with `Image.AFFINE`).

    Args:
        levels: (N, C, H, W).
        matrices: (N, 2, 3): where each output pixel comes from, x' = a·x + b·y + c and y' = d·x + e·y + f, with pixel
            centres at halves.
    """
    height, width = levels.shape[-2:]
    x = torch.arange(width, device=levels.device) + 0.5
    y = torch.arange(height, device=levels.device) + 0.5
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrices.unbind(1))
    sources = torch.stack([_along(a, b, c, x, y).mul_(2.0 / width), _along(d, e, f, x, y).mul_(2.0 / height)], dim=-1)
    # pixels at the border are repeated half a pixel outwards, as Pillow does; further out all is black
    moved = functional.grid_sample(levels, sources - 1.0, padding_mode="border", align_corners=False)
    inside = ((sources >= 0.0) & (sources < 2.0)).all(dim=-1)
    # Pillow drops fractions; what is whole but for rounding errors stays
    return moved.add_(ROUNDING).floor_().mul_(inside[:, None])


def _along(across: Tensor, down: Tensor, offset: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """across·x + down·y + offset at each pixel, (N, H, W)."""
    return across[:, None, None] * x + (down[:, None] * y + offset[:, None])[:, :, None]


def autocontrast(levels: Tensor) -> Tensor:
    """Stretch each channel from its darkest to its brightest level over 0–255 (`ImageOps.autocontrast`)."""
    low = levels.amin(dim=(2, 3), keepdim=True)
    spread = levels.amax(dim=(2, 3), keepdim=True) - low
    # in double precision and in Pillow's order, so that rounding errors cut off the same levels
    divisor = spread.clamp(min=1.0).double()
    # a number over a tensor would be a product with its reciprocal, rounded twice
    scale = torch.full_like(divisor, 255.0) / divisor
    stretched = (levels * scale).add_(-low * scale).trunc_().clamp_(0.0, 255.0).to(levels.dtype)
    return torch.where(spread > 0.0, stretched, levels)


def equalize(levels: Tensor) -> Tensor:
    """Make each channel's histogram as even as a table of levels can (`ImageOps.equalize`)."""
    count, channels, height, width = levels.shape
    flat = levels.reshape(count * channels, height * width).long()
    histogram = torch.zeros(count * channels, LEVELS, dtype=torch.long, device=levels.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    brightest = histogram.gather(1, flat.amax(dim=1, keepdim=True))
    step = torch.div(height * width - brightest, LEVELS - 1, rounding_mode="floor")
    below = histogram.cumsum(dim=1) - histogram
    table = torch.div(torch.div(step, 2, rounding_mode="floor") + below, step.clamp(min=1), rounding_mode="floor")
    # a channel of nearly one level stays as it is
    table = torch.where(step > 0, table.clamp_(max=LEVELS - 1), torch.arange(LEVELS, device=levels.device))
    return table.to(levels.dtype).gather(1, flat).view_as(levels)


def posterize(levels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (N,), 0 to 8, of each level (`ImageOps.posterize`)."""
    step = torch.exp2(8.0 - bits)[:, None, None, None]
    return torch.floor(levels / step) * step


def solarize(levels: Tensor, threshold: Tensor) -> Tensor:
    """Invert levels at or above the image's threshold (N,), 0 to 256 (`ImageOps.solarize`)."""
    return torch.where(levels < threshold[:, None, None, None], levels, 255.0 - levels)
