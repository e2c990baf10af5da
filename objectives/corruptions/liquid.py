"""Water and mud for the corruption spatter, with OpenCV's edge detector, distance and histogram steps in tensor code.

Every step takes (N, 1, H, W) float32 that holds whole numbers and follows cv2 4.x to its rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import gaussian_blur

__all__ = ["canny", "chamfer_distance", "equalized", "mud", "water"]

PALE_TURQUOISE = (175, 238, 238)
MUD_BROWN = (63, 42, 20)
REACH = 20
# tangents of 22.5 and 67.5 degrees in OpenCV's 15-bit fixed point
TANGENT_22 = 13573.0 / 32768.0
TANGENT_67 = 13573.0 / 32768.0 + 2.0
# how far weak edges are followed from strong ones; those in blurred blobs are a few pixels long
FOLLOWED = 8


def water(images: Tensor, layer: Tensor, *, brilliance: float) -> Tensor:
    """Brighten by drops: the liquid weighed by an embossed map of the distance to its edges.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        layer: (N, 1, H, W) float32, the liquid's thickness, 0 where there is none.
        brilliance: What the brightest point of each image adds.

    Returns:
        (N, 3, H, W) float32, not yet clipped.
    """
    # the published code's cast to eight bits wraps around
    liquid = (layer * 255.0).floor_().remainder_(256.0)
    distance = chamfer_distance(canny(liquid, low=50.0, high=150.0))
    relief = equalized(_box(distance).add_(1e-4).floor_())
    relief = _embossed(relief)
    relief = _box(relief).round_()
    drops = liquid * relief
    drops *= brilliance / drops.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)
    return torch.cat([plane + drops * share for plane, share in _coloured(images, PALE_TURQUOISE)], dim=1)


def mud(images: Tensor, covered: Tensor, *, smoothness: float) -> Tensor:
    """Paint the softened middle of what is covered; shapes as in `water`, `covered` bool (N, 1, H, W)."""
    opacity = gaussian_blur(covered.float(), smoothness)
    # a bit of float32 noise either side of the published threshold
    opacity = torch.where(opacity < 0.8 - 1e-6, 0.0, opacity)
    kept = 1.0 - opacity
    return torch.cat([plane * kept + opacity * share for plane, share in _coloured(images, MUD_BROWN)], dim=1)


def _coloured(images: Tensor, colour: tuple[int, int, int]) -> Iterator[tuple[Tensor, float]]:
    """Each channel, (N, 1, H, W), with its share of `colour` in [0, 1]."""
    return zip(images.split(1, dim=1), (level / 255.0 for level in colour), strict=True)


def canny(levels: Tensor, *, low: float, high: float) -> Tensor:
    """``cv2.Canny``'s edges (aperture 3, |dx| + |dy|), bool (N, 1, H, W); weak ones are followed for 8 pixels."""
    height, width = levels.shape[-2:]
    padded = F.pad(levels, (1, 1, 1, 1), mode="replicate")
    smooth_rows = padded[:, :, :-2] + 2.0 * padded[:, :, 1:-1] + padded[:, :, 2:]
    smooth_columns = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
    dx, dy = smooth_rows[..., 2:] - smooth_rows[..., :-2], smooth_columns[:, :, 2:] - smooth_columns[:, :, :-2]
    across, down = dx.abs(), dy.abs()
    strength = across + down
    bordered = F.pad(strength, (1, 1, 1, 1))

    def neighbour(rows: int, columns: int) -> Tensor:
        return bordered[:, :, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # a maximum along its gradient: above the earlier neighbour, not below the later one; strictly on diagonals
    level = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    upright = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    diagonal = torch.where((dx < 0) ^ (dy < 0), rising, falling)
    steep = torch.where(down > across * TANGENT_67, upright, diagonal)
    maximum = torch.where(down < across * TANGENT_22, level, steep)
    weak = maximum & (strength > low)
    edges = (weak & (strength > high)).float()
    candidates = weak.float()
    for _ in range(FOLLOWED):
        edges = F.max_pool2d(edges, 3, stride=1, padding=1).mul_(candidates)
    return edges > 0.5


def chamfer_distance(edges: Tensor) -> Tensor:
    """``cv2.distanceTransform(DIST_L2, 5)`` to the nearest edge, at most 20: moves of 1, 1.4 and 2.1969 pixels.

    The shortest path between two pixels is a norm of their offset, so the transform splits into the nearest edge of
    each column and a minimum over columns.
    """
    far = float(REACH)
    height, width = edges.shape[-2:]
    rows = torch.arange(height, device=edges.device, dtype=torch.float32)[:, None]
    above = torch.where(edges, rows, -far).cummax(2).values
    below = torch.where(edges, rows, height + far).flip(2).cummin(2).values.flip(2)
    down = torch.minimum(rows - above, below - rows).clamp_(max=far)
    bordered = F.pad(down, (REACH, REACH, 0, 0), value=far)
    nearest = down.clone()
    for across in range(1, REACH):
        left, right = bordered.narrow(3, REACH - across, width), bordered.narrow(3, REACH + across, width)
        side = torch.minimum(left, right)
        # octagonal norm: the largest of the four linear forms of its facets
        path = torch.maximum(side + 0.1969 * across, side * 0.1969 + across)
        path = torch.maximum(path, side * 0.7969 + 0.6031 * across)
        path = torch.maximum(path, side * 0.6031 + 0.7969 * across)
        nearest = torch.minimum(nearest, path)
    return nearest


def equalized(levels: Tensor) -> Tensor:
    """``cv2.equalizeHist`` of whole numbers from 0 to 20."""
    flat = levels.flatten(1).long()
    counts = torch.zeros(len(levels), REACH + 1, dtype=torch.int64, device=levels.device)
    counts = counts.scatter_add_(1, flat, torch.ones_like(flat))
    lowest = (counts > 0).to(torch.int64).argmax(1, keepdim=True)
    others = flat.shape[1] - counts.gather(1, lowest)
    above_lowest = counts.cumsum(1) - counts.gather(1, lowest)
    # OpenCV's order of float32 steps, which decides halves
    scale = torch.full_like(others, 255.0, dtype=torch.float32).div_(others.clamp(min=1))
    spread = (above_lowest * scale).clamp_(min=0.0).round_()
    # an image of one level stays as it is
    table = torch.where(others > 0, spread, lowest.to(spread.dtype))
    return table.gather(1, flat).view_as(levels)


def _box(levels: Tensor) -> Tensor:
    """The mean of 3x3 pixels, mirrored about the edge pixel's centre."""
    padded = F.pad(levels, (1, 1, 1, 1), mode="reflect")
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).div_(9.0)


def _embossed(levels: Tensor) -> Tensor:
    """Lit from the upper left: correlation with ((-2, -1, 0), (-1, 1, 1), (0, 1, 2)), cut to eight bits."""
    height, width = levels.shape[-2:]
    padded = F.pad(levels, (1, 1, 1, 1), mode="reflect")
    total = levels.clone()
    for row, column, weight in ((0, 0, -2), (0, 1, -1), (1, 0, -1), (1, 2, 1), (2, 1, 1), (2, 2, 2)):
        total.add_(padded[:, :, row : row + height, column : column + width], alpha=weight)
    return total.clamp_(0.0, 255.0)
