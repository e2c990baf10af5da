"""Judges a corruption against a loop in NumPy, SciPy and Pillow: pixel by pixel for the same chance, else by statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import resolve


class Chance(Protocol):
    """Where an oracle's random numbers for one image come from."""

    def normal(self, *shape: int) -> np.ndarray: ...

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray: ...

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray: ...


class SameChance:
    """The numbers that the corruption itself draws for one image, in its order."""

    def __init__(self, index: int, stream: str) -> None:
        self.draws = Draws(0, torch.tensor([index]), stream)

    def normal(self, *shape: int) -> np.ndarray:
        return self.draws.normal(*shape)[0].double().numpy()

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return self.draws.uniform(*shape, low=low, high=high)[0].double().numpy()

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        return self.draws.integers(low, high, *shape)[0].numpy()


class OtherChance:
    """NumPy's generator."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return self.generator.uniform(low, high, shape)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        return self.generator.integers(low, high, shape)


Oracle = Callable[[np.ndarray, int, Chance], np.ndarray]
"""((H, W, 3) uint8, severity, chance) -> (H, W, 3) whole numbers in 0–255; H or W above 64 means ImageNet-C."""


@dataclass(frozen=True)
class Tolerance:
    """How far a corruption may be from its oracle.

    Args:
        beyond: With the same chance, share of values that may differ by more than one grey level.
        mean: With other chance, difference of the mean change in grey levels.
        rms: Relative difference of the root mean square change.
        spectrum: Difference of the change's share of power above half the Nyquist frequency.
        saturation: Difference of the share of values that are 0 or 255.
        repeats: How often each image is corrupted for the statistics, where few angles or places would not average.
    """

    beyond: float = 0.0
    mean: float = 0.5
    rms: float = 0.01
    spectrum: float = 0.01
    saturation: float = 0.003
    repeats: int = 1


def statistics(images: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """Mean and RMS change, its share of power above half Nyquist, the share of values that are 0 or 255."""
    change = corrupted.astype(float) - images
    grey = change.mean(axis=3)
    power = np.square(np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))))
    rows, columns = (np.abs(np.fft.fftfreq(size)) for size in grey.shape[1:])
    high = np.maximum(rows[:, None], columns[None, :]) > 0.25
    share = power[:, high].sum() / power.sum()
    extreme = np.mean((corrupted == 0) | (corrupted == 255))
    return np.array([change.mean(), np.sqrt(np.square(change).mean()), share, extreme])


def corrupt(name: str, images: np.ndarray, severity: int, stream: str, **options: Any) -> np.ndarray:
    tensor = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous().float() / 255.0
    draws = Draws(0, torch.arange(len(images)), stream)
    result = resolve("corruption", name)(tensor, severity, draws, **options)
    return (result * 255.0).round().permute(0, 2, 3, 1).numpy().astype(int)


@pytest.fixture(scope="session")
def large_photographs() -> np.ndarray:
    """(6, 66, 90, 3) uint8: crops of scikit-learn's two photographs at half of their size."""
    generator = np.random.default_rng(1)
    crops = []
    for photograph in load_sample_images().images:
        half = np.asarray(Image.fromarray(photograph).resize((320, 213), Image.Resampling.BOX))
        for _ in range(3):
            row, column = generator.integers(0, 213 - 66), generator.integers(0, 320 - 90)
            crops.append(half[row : row + 66, column : column + 90])
    return np.stack(crops)


@pytest.fixture(params=["CIFAR-10-C", "ImageNet-C"])
def images(request: pytest.FixtureRequest) -> np.ndarray:
    """Photographs of a size that takes the one set of constants or the other."""
    small = request.param == "CIFAR-10-C"
    return request.getfixturevalue("photographs")[::4] if small else request.getfixturevalue("large_photographs")


@pytest.fixture
def agrees(images: np.ndarray) -> Callable[..., None]:
    """Asserts that a corruption is what an oracle says."""

    def check(oracle: Oracle, severity: int, tolerance: Tolerance, **options: Any) -> None:
        name = oracle.__name__
        few = images[:: len(images) // 3]
        found = corrupt(name, few, severity, "same", **options)
        expected = np.stack([oracle(image, severity, SameChance(i, "same")) for i, image in enumerate(few)])
        assert (np.abs(found - expected) > 1).mean() <= tolerance.beyond, "pixels"
        many = np.tile(images, (tolerance.repeats, 1, 1, 1))
        found = corrupt(name, many, severity, f"{name}/{severity}", **options)
        expected = np.stack([oracle(image, severity, OtherChance(999 * severity + i)) for i, image in enumerate(many)])
        (mean, rms, spectrum, extreme), wanted = statistics(many, found), statistics(many, expected)
        assert mean == pytest.approx(wanted[0], abs=tolerance.mean), "mean"
        assert rms == pytest.approx(wanted[1], rel=tolerance.rms), "root mean square"
        assert spectrum == pytest.approx(wanted[2], abs=tolerance.spectrum), "spectrum"
        assert extreme == pytest.approx(wanted[3], abs=tolerance.saturation), "saturation"

    return check


@pytest.fixture(scope="session")
def tolerance() -> type[Tolerance]:
    return Tolerance
