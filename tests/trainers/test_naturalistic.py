"""Naturalistic augmentation and geometry: identities, ranges, seeds."""

from __future__ import annotations

import colorsys

import pytest
import torch

from forgefront.trainers.augmentations.naturalistic import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    grayscale,
    naturalistic_augmentation,
)
from forgefront.trainers.geometry import random_crop, random_horizontal_flip


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 32, 32, generator=draws(1))


def test_strength_zero_is_exactly_the_identity(images):
    assert naturalistic_augmentation(images, 0.0, draws()) is images


def test_strength_is_continuous_at_zero(images):
    changed = naturalistic_augmentation(images.repeat(8, 1, 1, 1), 1e-4, draws())
    assert (changed - images.repeat(8, 1, 1, 1)).abs().max() < 1e-3


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_images_stay_in_range_and_the_input_is_left_alone(images, strength):
    before = images.clone()
    changed = naturalistic_augmentation(images, strength, draws())
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_the_generator_alone_decides(images):
    first, again, other = (naturalistic_augmentation(images, 1.0, draws(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_change_grows_with_strength(images):
    many = images.repeat(8, 1, 1, 1)
    change = [(naturalistic_augmentation(many, s, draws()) - many).abs().mean() for s in (0.1, 0.3, 1.0, 2.0)]
    assert change == sorted(change)


def test_published_strength_leaves_the_published_share_of_images_unchanged():
    # 0.5 no distortion, 0.8 keep colour, 0.5 no blur, 0.5 no noise
    images = torch.rand(4000, 3, 8, 8, generator=draws(1))
    changed = naturalistic_augmentation(images, 1.0, draws())
    same = (changed == images).flatten(1).all(dim=1).float().mean()
    assert same == pytest.approx(0.5 * 0.8 * 0.5 * 0.5, abs=0.02)


@pytest.mark.parametrize("change", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_factor_one_is_the_identity(images, change):
    assert torch.allclose(change(images, torch.ones(16)), images, atol=1e-6)


def test_saturation_zero_is_grayscale_and_contrast_zero_is_flat(images):
    assert torch.allclose(adjust_saturation(images, torch.zeros(16)), grayscale(images), atol=1e-6)
    assert adjust_contrast(images, torch.zeros(16)).std(dim=(1, 2, 3)).max() < 1e-6


@pytest.mark.parametrize("turns", [0.0, 0.1, -0.2, 0.5])
def test_hue_agrees_with_colorsys(turns):
    images = torch.rand(2, 3, 4, 4, generator=draws(5))
    images[0, :, 0, 0] = 0.25  # grey has no hue
    changed = adjust_hue(images, torch.full((2,), turns))
    for n in range(2):
        for y in range(4):
            for x in range(4):
                hue, saturation, value = colorsys.rgb_to_hsv(*images[n, :, y, x].tolist())
                expected = colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value)
                assert changed[n, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_each_image_has_its_own_factor(images):
    factors = torch.linspace(0.0, 1.0, 16)
    assert torch.allclose(adjust_brightness(images, factors), images * factors[:, None, None, None])


def test_blur_keeps_constant_images_and_the_limit_of_no_blur(images):
    constant = torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(gaussian_blur(constant, torch.tensor([0.5, 2.0])), constant, atol=1e-6)
    assert torch.equal(gaussian_blur(images, torch.zeros(16)), images)


def test_blur_is_the_sampled_gaussian():
    image = torch.zeros(1, 3, 9, 9)
    image[:, :, 4, 4] = 1.0
    blurred = gaussian_blur(image, torch.tensor([1.0]))
    tap = torch.exp(torch.tensor([-0.5, 0.0, -0.5]))
    tap /= tap.sum()
    assert torch.allclose(blurred[0, 0, 3:6, 3:6], tap[:, None] * tap[None], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_shifts_whole_images(dtype):
    images = (torch.rand(32, 3, 8, 8, generator=draws(2)) * 255).to(dtype)
    cropped = random_crop(images, 2, draws())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    matches = torch.stack([(window == cropped).flatten(1).all(dim=1) for window in windows])
    assert cropped.dtype == dtype
    assert (matches.sum(dim=0) == 1).all()
    assert matches.any(dim=1).sum() > 10


def test_no_padding_is_the_identity(images):
    assert random_crop(images, 0, draws()) is images


def test_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 3, 4, 4, generator=draws(2))
    flipped = random_horizontal_flip(images, draws())
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    same = (flipped == images).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 140 < int(mirrored.sum()) < 260
