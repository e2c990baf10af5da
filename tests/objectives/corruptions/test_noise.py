"""The noise family against NumPy and SciPy, at every severity of both sets of constants."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import resolve

CONSTANTS = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
}


def constant(name, image, severity):
    return CONSTANTS[name][min(image.shape[:2]) > 64][severity - 1]


def in_bytes(image):
    return np.uint8(np.clip(image, 0.0, 1.0) * 255.0).astype(int)


def channels_first(drawn):
    return drawn.transpose(1, 2, 0)


def gaussian_noise(image, severity, chance):
    noise = channels_first(chance.normal(3, *image.shape[:2]))
    return in_bytes(image / 255.0 + constant("gaussian_noise", image, severity) * noise)


def speckle_noise(image, severity, chance):
    noise = channels_first(chance.normal(3, *image.shape[:2]))
    return in_bytes(image / 255.0 * (1.0 + constant("speckle_noise", image, severity) * noise))


@functools.cache
def poisson_cdf(level, photons):
    return stats.poisson.cdf(np.arange(int(photons + 8 * photons**0.5 + 20)), level / 255.0 * photons)


def shot_noise(image, severity, chance):
    photons = constant("shot_noise", image, severity)
    probability = stats.norm.cdf(channels_first(chance.normal(3, *image.shape[:2])))
    counts = np.empty(image.shape)
    for level in np.unique(image):
        here = image == level
        counts[here] = np.searchsorted(poisson_cdf(int(level), photons), probability[here])
    return in_bytes(counts / photons + 1e-9)


def impulse_noise(image, severity, chance):
    amount = constant("impulse_noise", image, severity)
    place = channels_first(chance.uniform(3, *image.shape[:2]))
    return np.where(place < amount / 2, 0, np.where(place < amount, 255, image)).astype(int)


# a flip of a whole Poisson count or of one of 0.4 % impulses moves more than noise does
TOLERANCES = {
    gaussian_noise: {"spectrum": 0.02, "repeats": 3},
    speckle_noise: {"spectrum": 0.02, "repeats": 3},
    shot_noise: {"beyond": 1e-4, "spectrum": 0.02, "repeats": 3},
    impulse_noise: {"rms": 0.04, "spectrum": 0.03, "saturation": 0.003, "repeats": 4},
}


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("oracle", TOLERANCES, ids=lambda oracle: oracle.__name__)
def test_noise_is_the_published_one(oracle, severity, agrees, tolerance):
    agrees(oracle, severity, tolerance(**TOLERANCES[oracle]))


@pytest.mark.parametrize("severity", range(1, 6))
def test_impulses_are_salt_and_pepper_in_equal_parts(severity, images):
    grey = torch.full((32, 3, *images.shape[1:3]), 128 / 255)
    result = resolve("corruption", "impulse_noise")(grey, severity, Draws(3, torch.arange(32), "a"))
    amount = constant("impulse_noise", images[0], severity)
    deviation = (amount / 2 / result.numel()) ** 0.5
    for value in (0.0, 1.0):
        assert float((result == value).float().mean()) == pytest.approx(amount / 2, abs=5 * deviation)
