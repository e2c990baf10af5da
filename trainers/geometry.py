"""Random crops and flips of a whole batch on its device, each image with its own draw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["random_crop", "random_horizontal_flip"]


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by whole pixels, as padding with zeros and cropping at a random place does.

    Args:
        images: Any dtype, (N, C, H, W).
        padding: Largest shift in pixels along each axis, 0 leaves the images alone.
        generator: On the device of `images`.

    Returns:
        Images of the same shape and dtype.
    """
    if padding == 0:
        return images
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=images.device)
    rows = offsets[0, :, None] + torch.arange(height, device=images.device)
    columns = offsets[1, :, None] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_horizontal_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability one half.

    Args:
        images: Any dtype, (N, C, H, W).
        generator: On the device of `images`.
    """
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
