"""scikit-learn's bundled handwritten digits (1,797 real 8x8 images), brought to 32x32 RGB; no download."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from .base import ImageData, image_data

__all__ = ["digits"]

TEST_IMAGES = 297
SIZE = 32


def digits(*, upsampling: Literal["bilinear", "nearest"] = "bilinear") -> ImageData:
    """The digits in scikit-learn's order: the last 297 images are the test split, the 1,500 before them train.

    scikit-learn states no split; this one is the project's own and fixed. Grey levels 0–16 become 0–255, each image
    is upsampled from 8x8 to 32x32 and its grey repeated in three channels.

    Args:
        upsampling: How the 8x8 images are brought to 32x32.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] * (255.0 / 16.0)
    corners = {} if upsampling == "nearest" else {"align_corners": False}
    large = functional.interpolate(grey, size=(SIZE, SIZE), mode=upsampling, **corners)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous().numpy()
    labels = bunch.target.astype(np.int64)
    train, test = slice(None, -TEST_IMAGES), slice(-TEST_IMAGES, None)
    names = [str(digit) for digit in range(10)]
    return image_data(images[train], labels[train], images[test], labels[test], class_names=names)
