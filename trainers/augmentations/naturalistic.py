"""Naturalistic augmentation (Cygert & Czyżewski 2021, III-C, after Hermann et al. 2020) with a strength, in batches.

Four changes, each drawn anew for each image: colour distortion (probability 0.5; brightness, contrast and saturation
by factors in 1 ± 0.8, hue by ± 0.2 turns, as SimCLR defines it), colour drop (0.2), Gaussian blur (0.5; σ ~ U(0.1, 2)
pixels), Gaussian noise (0.5). The strength s multiplies every magnitude and every probability (at most 1), so that 0
is exactly the identity and 1 as published.

The papers leave two things open, stated here: the noise's σ is drawn from U(0, 0.1) on images in [0, 1], and the four
colour changes come in one random order for the whole batch (SimCLR draws an order for each image). The blur's kernel
has 2·⌊side/20⌋ + 1 taps and at least 3, SimCLR's tenth of the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "gaussian_blur",
    "grayscale",
    "naturalistic_augmentation",
]

DISTORTION_PROBABILITY = 0.5
DROP_PROBABILITY = 0.2
BLUR_PROBABILITY = 0.5
NOISE_PROBABILITY = 0.5
FACTOR_RANGE = 0.8
HUE_RANGE = 0.2
BLUR_SIGMA = (0.1, 2.0)
NOISE_SIGMA = 0.1
LUMA = (0.299, 0.587, 0.114)


def naturalistic_augmentation(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Distort colours, drop colour, blur and add noise, each image with its own draws.

    Args:
        images: float32 in [0, 1], (N, 3, H, W).
        strength: s, at least 0; 0 returns `images` as they are.
        generator: On the device of `images`.

    Returns:
        float32 in [0, 1], in the shape of `images`.
    """
    if strength == 0.0:
        return images

    def chosen(probability: float) -> Tensor:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        return (draws < min(1.0, probability * strength)).nonzero().flatten()

    result = images.clone()
    for positions, change in (
        (chosen(DISTORTION_PROBABILITY), _distort),
        (chosen(DROP_PROBABILITY), lambda part, _strength, _generator: grayscale(part)),
        (chosen(BLUR_PROBABILITY), _blur),
        (chosen(NOISE_PROBABILITY), _add_noise),
    ):
        if len(positions):
            result[positions] = change(result[positions], strength, generator)
    return result


def _uniform(count: int, low: float, high: float, generator: torch.Generator, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator, device=device)


def _distort(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    reach, turn = FACTOR_RANGE * strength, min(0.5, HUE_RANGE * strength)
    count, device = len(images), images.device
    changes: list[Callable[[Tensor, Tensor], Tensor]]
    changes = [adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue]
    amounts = [_uniform(count, max(0.0, 1.0 - reach), 1.0 + reach, generator, device) for _ in range(3)]
    amounts.append(_uniform(count, -turn, turn, generator, device))
    for number in torch.randperm(4, generator=generator, device=device).tolist():
        images = changes[number](images, amounts[number])
    return images


def _blur(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return gaussian_blur(images, strength * _uniform(len(images), *BLUR_SIGMA, generator, images.device))


def _add_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    sigma = strength * _uniform(len(images), 0.0, NOISE_SIGMA, generator, images.device)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + sigma[:, None, None, None] * noise).clamp_(0.0, 1.0)


def grayscale(images: Tensor) -> Tensor:
    """The luma of each pixel in all three channels; (N, 3, H, W) to the same shape."""
    weights = images.new_tensor(LUMA)[None, :, None, None]
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, images, factor[:, None, None, None]).clamp_(0.0, 1.0)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image (N, 3, H, W) by its factor (N,) and clip to [0, 1]; 1 is the identity."""
    return (images * factor[:, None, None, None]).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each image's distance from its mean luma by its factor (N,) and clip; 1 is the identity."""
    mean = grayscale(images).mean(dim=(1, 2, 3), keepdim=True).expand_as(images)
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each pixel's distance from its own luma by its image's factor (N,) and clip; 1 is the identity."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the HSV hue of each image (N, 3, H, W) by its `turns` (N,), in whole circles; 0 is the identity.

    Value and saturation stay; the channels are rebuilt as v - v·s·max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6
    for n = 5, 3, 1.
    """
    value, _ = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sector = sector + 6.0 * turns[:, None, None]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.remainder(offset + sector, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1).clamp_(0.0, 1.0)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own σ, with reflected edges.

    Args:
        images: float, (N, C, H, W), sides of at least 2.
        sigma: σ in pixels, (N,); towards 0 the identity.
    """
    count, channels, height, width = images.shape
    radius = max(1, math.floor(min(height, width) / 20))
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    # below a thousandth of a pixel the side taps are exactly 0 anyway
    kernels = torch.exp(-0.5 * (taps[None] / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = images.reshape(1, count * channels, height, width)
    padded = functional.pad(planes, (radius, radius, radius, radius), mode="reflect")
    rows = functional.conv2d(padded, kernels[:, None, :, None], groups=count * channels)
    blurred = functional.conv2d(rows, kernels[:, None, None, :], groups=count * channels)
    return blurred.reshape(images.shape)
