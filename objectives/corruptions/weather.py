"""The weather family of CIFAR-10-C: snow, frost, fog and brightness (Hendrycks & Dietterich 2019, appendix B)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import smear
from .linear import apply, zoom_matrix
from .randomness import Draws
from .severities import WHOLE, constant, is_small, to_bytes

__all__ = ["brightness", "fog", "frost", "plasma_fractal", "snow"]

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
    layer = mean + deviation * draws.normal(1, height, width).to(images)
    layer = apply(layer, zoom_matrix(height, zoom), zoom_matrix(width, zoom))
    flakes = to_bytes(torch.where(layer < threshold, 0.0, layer))
    angle = draws.uniform(low=-135.0, high=-45.0)
    flakes = to_bytes(smear(flakes, radius, sigma, angle) + (0.5 - WHOLE) / 255.0)
    grey = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    whitened = kept * images + (1.0 - kept) * torch.maximum(images, grey * 1.5 + 0.5)
    return to_bytes(whitened + flakes + flakes.flip(2, 3))


def frost(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blend with an icy texture; shapes as in `snow`.

    The published corruption crops photographs; here the textures are procedural (`frost_textures`), so results compare
    within Forgefront, not digit for digit with tables made from the photographs.
    """
    small = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    kept, ice = constant(images, severity, small, large)
    height, width = images.shape[-2:]
    textures = frost_textures(1 if is_small(images) else 5).to(images)
    size = textures.shape[-1]
    which = draws.integers(0, len(textures), 1, 1, 1)
    rows = (draws.integers(0, size, 1, 1, 1) + torch.arange(height, device=draws.device)[:, None]) % size
    columns = (draws.integers(0, size, 1, 1, 1) + torch.arange(width, device=draws.device)) % size
    channels = torch.arange(3, device=draws.device)[:, None, None]
    return to_bytes(kept * images + ice * textures[which, channels, rows, columns])


@lru_cache(maxsize=2)
def frost_textures(scale: int) -> Tensor:
    """(5, 3, S, S) float32 in [0, 1] on the grid of eight bits: random fields that repeat at their edges.

    Each has the mean colour, contrast and power spectrum (power ~ frequency ** slope) measured on one of the five
    photographs that the published corruption draws from, at the fifth of their size that CIFAR-10-C uses.

    Args:
        scale: 1, or 5 for images at the photographs' own size.
    """
    looks = (
        ((78, 149, 166), 17, -2.0),
        ((201, 205, 214), 22, -1.4),
        ((201, 205, 214), 22, -1.4),
        ((138, 153, 166), 29, -1.1),
        ((112, 123, 135), 43, -1.3),
    )
    size = 128
    # the textures belong to the corruption, as the photographs do: the same in every study
    generator = np.random.default_rng(20190328)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    textures = []
    for colour, deviation, slope in looks:
        spectrum = np.fft.rfft2(generator.standard_normal((size, size))) * frequency ** (slope / 2)
        field = np.fft.irfft2(spectrum, s=(size, size))
        texture = np.array(colour)[:, None, None] + deviation * field / field.std()
        textures.append(np.clip(np.rint(texture), 0, 255) / 255.0)
    stack = torch.from_numpy(np.stack(textures).astype(np.float32))
    return stack if scale == 1 else F.interpolate(stack, scale_factor=scale, mode="bilinear")


def fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add a plasma fractal and scale the sum back to the image's own maximum; shapes as in `snow`."""
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    thickness, decay = constant(images, severity, small, large)
    height, width = images.shape[-2:]
    size = 1 << (max(height, width) - 1).bit_length()
    plasma = plasma_fractal(size, decay, draws)[:, None, :height, :width].to(images)
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return to_bytes((images + thickness * plasma) * brightest / (brightest + thickness))


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
