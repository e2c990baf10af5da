"""The corruptions on CIFAR-10 against figures that were measured with a port of the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import resolve

# RMS change at severities 1 and 5 that a NumPy port of the published code makes on 160 other natural 32x32 crops
MEASURED = {
    "gaussian_noise": (10.01, 24.45),
    "shot_noise": (7.03, 21.69),
    "impulse_noise": (14.65, 38.22),
    "glass_blur": (20.22, 26.20),
    "motion_blur": (10.68, 22.32),
    "snow": (13.59, 57.76),
    "frost": (32.5, 57.8),
    "fog": (13.28, 46.6),
    "elastic_transform": (32.1, 21.3),
}


@pytest.mark.parametrize("name", MEASURED)
def test_cifar_images_change_by_about_what_was_measured(name: str, cifar: np.ndarray) -> None:
    images = torch.from_numpy(cifar.copy()).permute(0, 3, 1, 2).contiguous().float() / 255.0
    for severity, expected in zip((1, 5), MEASURED[name], strict=True):
        corrupted = resolve("corruption", name)(images, severity, Draws(0, torch.arange(len(images)), name))
        change = 255.0 * float((corrupted - images).square().mean().sqrt())
        # other images: textures and brightness differ, by up to 15 % for what depends on them
        assert change == pytest.approx(expected, rel=0.18)
