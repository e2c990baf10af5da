"""The digital family: contrast, elastic transform, pixelate, JPEG and saturate (Hendrycks & Dietterich 2019)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import gaussian_blur
from .jpeg import jpeg
from .randomness import Draws
from .resampling import pixelated
from .severities import checked, constant, is_small, to_bytes

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate", "saturate"]


def contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Pull every value towards its channel's mean.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        severity: 1–5.
        draws: Not used; every corruption takes it.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    kept = constant(images, severity, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
    mean = images.mean(dim=(2, 3), keepdim=True)
    return to_bytes((images - mean) * kept + mean)


def saturate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Scale and shift HSV's saturation (published for tuning); shapes as in `contrast`, `draws` is not used.

    At constant hue and value V a channel's distance from V is in proportion to the saturation, so no colour conversion
    is needed. Greys count as red, hue 0, which the published code reddens where it adds saturation.
    """
    small = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))
    large = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
    factor, added = constant(images, severity, small, large)
    value = images.amax(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    saturation = (spread / value.clamp(min=1e-6)).mul_(factor).add_(added).clamp_(0.0, 1.0)
    # the share of V that a channel lacks is its distance from V, rescaled; a grey lacks it in green and blue
    rescale = saturation * value / spread.clamp(min=1e-6)
    coloured = torch.addcmul(value, images - value, rescale)
    if added:
        red_only = images.new_zeros(1, 3, 1, 1)
        red_only[:, 1:] = 1.0
        coloured = torch.where(spread > 0, coloured, value - red_only * (saturation * value))
    return to_bytes(coloured)


def elastic_transform(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Move pixels by a smooth random displacement, small images first by a random affine map of three points.

    Shapes as in `contrast`. Small images follow CIFAR-10-C with its lengths as shares of the side; large ones
    imagecorruptions, which has no affine map and displaces by ``250 * c`` times noise of 0.005 of the height.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32)
    y = torch.arange(height, device=images.device, dtype=torch.float32)[:, None]
    if is_small(images):
        side = float(min(height, width))
        shares = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
        displacement, smoothness, jitter = (side * share for share in shares[checked(severity) - 1])
        inverse = _inverse_affine(height, width, jitter, draws)[..., None, None]
        sources = (inverse[:, :, 0] * x + inverse[:, :, 1] * y + inverse[:, :, 2]).unbind(1)
        images = _sample(images, *sources, border="edge centre")
        sigmas = (smoothness, smoothness)
    else:
        displacement = 0.005 * height * 250.0 * (0.05, 0.065, 0.085, 0.1, 0.12)[checked(severity) - 1]
        sigmas = (0.01 * height, 0.01 * width)
    if displacement == 0.0:
        return to_bytes(images)
    field = draws.uniform(2, height, width, low=-displacement, high=displacement)
    field = gaussian_blur(field, sigmas, truncate=3.0, border="reflect")
    return to_bytes(_sample(images, field[:, 0] + x, field[:, 1] + y, border="edge outside"))


def _inverse_affine(height: int, width: int, jitter: float, draws: Draws) -> Tensor:
    """(N, 2, 3) float32: from a pixel (x, y, 1) of the warped image to its place in the original."""
    points, inverse_square = _three_points(height, width, draws.device)
    moved = points + draws.uniform(2, 3, low=-jitter, high=jitter)
    # products written out: a library's matrix product may sum in another order for another batch
    forward = (moved[..., None] * inverse_square).sum(2)
    (a, b), (c, d) = forward[:, 0, :2].unbind(1), forward[:, 1, :2].unbind(1)
    turn = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1) / (a * d - b * c)[:, None, None]
    return torch.cat([turn, -(turn * forward[:, None, :, 2]).sum(2, keepdim=True)], dim=2)


@lru_cache(maxsize=64)
def _three_points(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(2, 3) float32, x and y of three corners of a square in the middle, and (3, 3), the inverse of them over ones."""
    centre_x, centre_y, reach = width // 2, height // 2, min(height, width) // 3
    points = np.array(
        [
            [centre_x + reach, centre_x + reach, centre_x - reach],
            [centre_y + reach, centre_y - reach, centre_y - reach],
            [1.0, 1.0, 1.0],
        ]
    )
    inverse = np.linalg.inv(points).astype(np.float32)
    return torch.as_tensor(points[:2].astype(np.float32), device=device), torch.as_tensor(inverse, device=device)


def _sample(images: Tensor, x: Tensor, y: Tensor, *, border: Literal["edge centre", "edge outside"]) -> Tensor:
    """Bilinear samples at pixel coordinates (N, H, W), mirrored about the edge pixels' centres or their outer sides."""
    height, width = images.shape[-2:]
    # both libraries of the published code mirror, but about different lines: OpenCV's REFLECT_101, SciPy's "reflect"
    about_centre = border == "edge centre"
    grid = torch.empty(*x.shape, 2, device=images.device)
    if about_centre:
        torch.add(x * (2.0 / (width - 1)), -1.0, out=grid[..., 0])
        torch.add(y * (2.0 / (height - 1)), -1.0, out=grid[..., 1])
    else:
        torch.add(x * (2.0 / width), 1.0 / width - 1.0, out=grid[..., 0])
        torch.add(y * (2.0 / height), 1.0 / height - 1.0, out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centre)


def pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Shrink with a box filter and enlarge by repeating pixels; shapes as in `contrast`, `draws` is not used."""
    share = constant(images, severity, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
    height, width = images.shape[-2:]
    enlarge: Literal["box", "nearest"] = "box" if is_small(images) else "nearest"
    return pixelated(images, int(height * share), int(width * share), enlarge=enlarge)


def jpeg_compression(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Encode and decode as baseline JPEG; shapes as in `contrast`, `draws` is not used."""
    quality = constant(images, severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
    return jpeg(images, quality)
