"""The digital family of CIFAR-10-C: contrast, elastic transform, pixelate and JPEG (Hendrycks & Dietterich 2019)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .jpeg import jpeg
from .linear import box_matrix, gaussian_blur
from .randomness import Draws
from .severities import constant, to_bytes

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate"]


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


def elastic_transform(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """A random affine map of three points, then a smooth random displacement; shapes as in `contrast`."""
    height, width = images.shape[-2:]
    side = float(min(height, width))
    # displacement, its smoothness, and the jitter of the three points, as shares of the side
    small = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    # imagecorruptions states the displacement for sides near 250 whatever the image; as a share it scales with it
    large = tuple((alpha, 0.01, 0.005) for alpha in (0.05, 0.065, 0.085, 0.1, 0.12))
    displacement, smoothness, jitter = (side * share for share in constant(images, severity, small, large))
    columns = torch.arange(width, device=images.device, dtype=torch.float32)
    rows = torch.arange(height, device=images.device, dtype=torch.float32)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    inverse = _inverse_affine(height, width, jitter, draws)
    source = torch.einsum("nij,jhw->nihw", inverse, torch.stack([x, y, torch.ones_like(x)]))
    warped = _sample(images, source[:, 0], source[:, 1], border="edge centre")
    if displacement == 0.0:
        return to_bytes(warped)
    field = draws.uniform(2, height, width, low=-1.0, high=1.0)
    field = gaussian_blur(field, smoothness, truncate=3.0, border="reflect") * displacement
    return to_bytes(_sample(warped, x + field[:, 0], y + field[:, 1], border="edge outside"))


def _inverse_affine(height: int, width: int, jitter: float, draws: Draws) -> Tensor:
    """(N, 2, 3) float32: from a pixel (x, y, 1) of the warped image to its place in the original."""
    centre_x, centre_y, reach = width // 2, height // 2, min(height, width) // 3
    corners = [
        [centre_x + reach, centre_x + reach, centre_x - reach],
        [centre_y + reach, centre_y - reach, centre_y - reach],
    ]
    points = torch.tensor(corners, dtype=torch.float32, device=draws.device)
    moved = points + draws.uniform(2, 3, low=-jitter, high=jitter)
    square = torch.cat([points, torch.ones_like(points[:1])])
    forward = moved @ torch.linalg.inv(square)
    (a, b), (c, d) = forward[:, 0, :2].unbind(1), forward[:, 1, :2].unbind(1)
    turn = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1) / (a * d - b * c)[:, None, None]
    return torch.cat([turn, -(turn @ forward[:, :, 2:])], dim=2)


def _sample(images: Tensor, x: Tensor, y: Tensor, *, border: Literal["edge centre", "edge outside"]) -> Tensor:
    """Bilinear samples at pixel coordinates (N, H, W), mirrored about the edge pixels' centres or their outer sides."""
    height, width = images.shape[-2:]
    # both libraries of the published code mirror, but about different lines: OpenCV's REFLECT_101, SciPy's "reflect"
    about_centre = border == "edge centre"
    if about_centre:
        grid = torch.stack([2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0], dim=3)
    else:
        grid = torch.stack([(2.0 * x + 1.0) / width - 1.0, (2.0 * y + 1.0) / height - 1.0], dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centre)


def pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Shrink with a box filter and enlarge by repeating pixels; shapes as in `contrast`, `draws` is not used."""
    share = constant(images, severity, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
    height, width = images.shape[-2:]
    low_height, low_width = int(height * share), int(width * share)
    # Pillow rounds to bytes after each axis
    narrow = _round(images @ box_matrix(width, low_width).to(images).T)
    low = _round(box_matrix(height, low_height).to(images) @ narrow)
    return box_matrix(low_height, height).to(images) @ low @ box_matrix(low_width, width).to(images).T


def _round(images: Tensor) -> Tensor:
    return (images * 255.0 + (0.5 + 1e-4)).floor_().div_(255.0)


def jpeg_compression(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Encode and decode as baseline JPEG; shapes as in `contrast`, `draws` is not used."""
    quality = constant(images, severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
    return jpeg(images, quality)
