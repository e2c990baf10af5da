"""The weather family: snow, frost, fog, brightness and spatter (Hendrycks & Dietterich 2019, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .blur import smear
from .filters import gaussian_blur
from .frost import frost_canvas
from .liquid import mud, water
from .randomness import Draws
from .resampling import clipped_zoom
from .severities import WHOLE, constant, is_small, to_bytes
from .shifts import crops

__all__ = ["brightness", "fog", "frost", "plasma_fractal", "snow", "spatter"]

LUMA = (0.299, 0.587, 0.114)


def snow(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Whiten the image and add flakes: thresholded noise, enlarged and smeared by the wind.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        severity: 1–5.
        draws: The batch's random numbers.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the grid of eight bits.
    """
    small = (
        (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
    )
    large = (
        (0.1, 0.3, 3.0, 0.5, 10.0, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12.0, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12.0, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12.0, 12.0, 0.55),
    )
    mean, deviation, zoom, threshold, radius, sigma, kept = constant(images, severity, small, large)
    height, width = images.shape[-2:]
    layer = clipped_zoom(draws.normal(1, height, width).mul_(deviation).add_(mean), zoom)
    flakes = to_bytes(torch.where(layer < threshold, 0.0, layer))
    angle = draws.uniform(low=-135.0, high=-45.0)
    flakes = to_bytes(smear(flakes, radius, sigma, angle) + (0.5 - WHOLE) / 255.0)
    red, green, blue = images.split(1, dim=1)
    grey = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    whitened = torch.maximum(images, grey.mul_(1.5).add_(0.5)).mul_(1.0 - kept).add_(images, alpha=kept)
    return to_bytes(whitened.add_(flakes + flakes.flip(2, 3)))


def frost(images: Tensor, severity: int, draws: Draws, *, textures: Sequence[Tensor] | None = None) -> Tensor:
    """Blend with an icy texture; shapes as in `snow`.

    The published corruption crops photographs. The procedural textures used without them share their mean colours,
    contrasts and spectra; results then compare within Forgefront, not digit for digit with published tables.

    Args:
        images: As in `snow`.
        severity: 1–5.
        draws: The batch's random numbers.
        textures: (3, h, w) uint8 each, from `frost.load_textures`, best the same tensors each time, so that what is
            made of them is kept; None takes the procedural ones.
    """
    small = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    kept, ice = constant(images, severity, small, large)
    height, width = images.shape[-2:]
    canvas, places = frost_canvas(textures, height, width, is_small(images), images.device)
    which = draws.integers(0, len(canvas))
    starts = (draws.uniform(2) * places[which]).long()
    crop = crops(canvas, which, starts[:, 0], starts[:, 1], height, width)
    return to_bytes(crop.float().mul_(ice / 255.0).add_(images, alpha=kept))


def fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add a plasma fractal and scale the sum back to the image's own maximum; shapes as in `snow`."""
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    thickness, decay = constant(images, severity, small, large)
    height, width = images.shape[-2:]
    size = 1 << (max(height, width) - 1).bit_length()
    plasma = plasma_fractal(size, decay, draws)[:, None, :height, :width]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return to_bytes((images + thickness * plasma).mul_(brightest / (brightest + thickness)))


def plasma_fractal(size: int, decay: float, draws: Draws) -> Tensor:
    """(N, size, size) float32 in [0, 1]: the diamond–square algorithm on a torus, `size` a power of two."""
    height = torch.zeros(len(draws), size, size, device=draws.device)
    step, wobble = size, 100.0

    def wobbled(total: Tensor) -> Tensor:
        # the published code wobbles by wobble * U(-wobble, wobble)
        return total / 4.0 + draws.uniform(*total.shape[1:], low=-wobble * wobble, high=wobble * wobble)

    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        edges = corners + corners.roll(-1, 1)
        height[:, half::step, half::step] = wobbled(edges + edges.roll(-1, 2))
        centres, corners = height[:, half::step, half::step], height[:, ::step, ::step]
        height[:, ::step, half::step] = wobbled(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        height[:, half::step, ::step] = wobbled(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wobble = half, wobble / decay
    height -= height.amin(dim=(1, 2), keepdim=True)
    return height / height.amax(dim=(1, 2), keepdim=True)


def brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Raise HSV's value; shapes as in `snow`, `draws` is not used.

    With V = max(R, G, B), raising V at constant hue and saturation multiplies each channel by (V + c) / V, so no colour
    conversion is needed; black becomes grey c.
    """
    added = constant(images, severity, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
    value = images.amax(dim=1, keepdim=True)
    raised = (value + added).clamp(max=1.0)
    return to_bytes(torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised))


def spatter(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Splash with water (severities 1–3) or mud (4 and 5), published for tuning; shapes as in `snow`.

    The liquid lies where blurred noise exceeds a threshold.
    """
    small = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )
    large = (
        (0.65, 0.3, 4.0, 0.69, 0.6, False),
        (0.65, 0.3, 3.0, 0.68, 0.6, False),
        (0.65, 0.3, 2.0, 0.68, 0.5, False),
        (0.65, 0.3, 1.0, 0.65, 1.5, True),
        (0.67, 0.4, 1.0, 0.65, 1.5, True),
    )
    mean, deviation, sigma, threshold, amount, dirty = constant(images, severity, small, large)
    layer = gaussian_blur(draws.normal(1, *images.shape[-2:]).mul_(deviation).add_(mean), sigma)
    if dirty:
        return to_bytes(mud(images, layer > threshold, smoothness=amount))
    return to_bytes(water(images, torch.where(layer < threshold, 0.0, layer), brilliance=amount))
