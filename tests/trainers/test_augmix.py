"""AugMix: its operations against Pillow, its identities, what it draws."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torch import Tensor

from forgefront.studies.registry import REGISTRY, resolve
from forgefront.trainers.augmentations import augmix as module
from forgefront.trainers.augmentations.augmix import OPERATIONS, augmix
from forgefront.trainers.augmentations.image_operations import affine, autocontrast, equalize, posterize, solarize

COUNT = 12


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(height: int, width: int) -> Tensor:
    """Crops of a photograph, uint8, (12, 3, height, width), the last of a single grey."""
    photograph, generator = load_sample_images().images[0], np.random.default_rng(0)
    rows = generator.integers(0, photograph.shape[0] - height, COUNT)
    columns = generator.integers(0, photograph.shape[1] - width, COUNT)
    crops = [photograph[y : y + height, x : x + width] for y, x in zip(rows, columns, strict=True)]
    crops[-1] = np.full_like(crops[-1], 77)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def by_pillow(images: Tensor, change) -> Tensor:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.from_numpy(np.stack([np.asarray(change(one)) for one in pictures])).permute(0, 3, 1, 2).float()


def everywhere(value: float) -> Tensor:
    return torch.full((COUNT,), value)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize(
    ("operation", "change", "largest"),
    [
        (autocontrast, ImageOps.autocontrast, 0),
        (equalize, ImageOps.equalize, 0),
        (lambda levels: posterize(levels, everywhere(4.0)), lambda one: ImageOps.posterize(one, 4), 0),
        (lambda levels: posterize(levels, everywhere(1.0)), lambda one: ImageOps.posterize(one, 1), 0),
        (lambda levels: solarize(levels, everywhere(179.0)), lambda one: ImageOps.solarize(one, 179), 0),
    ],
)
def test_operations_on_levels_are_pillows(size, operation, change, largest):
    images = photographs(*size)
    assert (operation(images.float()) - by_pillow(images, change)).abs().max() <= largest


def test_autocontrast_is_pillows_for_every_pair_of_extremes():
    level = torch.arange(256.0)
    low, high = (one.flatten() for one in torch.meshgrid(level[::3], level[::2], indexing="ij"))
    low, high = low[low <= high], high[low <= high]
    ramps = level.clamp(low[:, None], high[:, None])[:, None, None]
    stretched = autocontrast(ramps)
    for ramp, found in zip(ramps, stretched, strict=True):
        expected = ImageOps.autocontrast(Image.fromarray(ramp[0].numpy().astype(np.uint8)))
        assert np.array_equal(found[0].numpy(), np.asarray(expected))


def test_posterize_keeps_all_bits_or_none():
    levels = photographs(16, 16).float()
    assert torch.equal(posterize(levels, everywhere(8.0)), levels)
    assert posterize(levels, everywhere(0.0)).abs().max() == 0


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("amount", [0.03, 0.17, 0.3, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_on_places_are_pillows(size, amount, sign):
    images, (height, width) = photographs(*size), size
    shear = amount * 0.3 * sign
    across, down = int(amount * width / 3) * sign, int(amount * height / 3) * sign
    matrices = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, across, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, down),
    }
    for number, name in enumerate(OPERATIONS[: module.AFFINE]):

        def change(one: Image.Image, name: str = name) -> Image.Image:
            if name == "rotate":
                return one.rotate(int(amount * 30) * sign, resample=Image.Resampling.BILINEAR)
            return one.transform(one.size, Image.Transform.AFFINE, matrices[name], Image.Resampling.BILINEAR)

        kinds = torch.full((COUNT,), number)
        found = affine(images.float(), module._matrices(kinds, everywhere(amount), everywhere(sign), images.shape[-2:]))
        difference = (found - by_pillow(images, change)).abs()
        # a fraction near a whole number may fall to either side
        assert difference.max() <= 1, name
        assert difference.mean() <= 0.03, name


def test_strength_zero_is_exactly_the_identity():
    images = photographs(32, 32) / 255.0
    assert augmix(images, 0.0, draws()) is images
    assert augmix(images[:0], 1.0, draws()).shape == (0, 3, 32, 32)


def test_strength_is_continuous_at_zero():
    images = photographs(32, 32) / 255.0
    assert (augmix(images, 1e-4, draws()) - images).abs().max() <= 1e-4


@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (7, 1, 24, 40), (5, 3, 96, 64)])
def test_images_stay_in_range_and_the_input_is_left_alone(strength, shape):
    images = torch.rand(shape, generator=draws(1))
    before = images.clone()
    changed = augmix(images, strength, draws())
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_the_generator_alone_decides():
    images = photographs(32, 32) / 255.0
    first, again, other = (augmix(images, 1.0, draws(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_change_grows_with_strength():
    images = (photographs(32, 32) / 255.0).repeat(20, 1, 1, 1)
    change = [float((augmix(images, strength, draws()) - images).abs().mean()) for strength in (0.1, 0.3, 1.0, 3.0)]
    assert change == sorted(change)
    assert change[0] < 0.2 * change[2]


def test_a_grey_image_stays_grey_and_only_its_borders_and_levels_change():
    # every operation treats channels alike, and nothing but pixels from outside makes a pattern
    images = torch.full((64, 3, 32, 32), 77 / 255.0)
    changed = augmix(images, 1.0, draws())
    assert (changed - changed[:, :1]).abs().max() < 1e-6
    # one white pixel in a hundred would be more than rotations by 9 degrees and shifts by a tenth can bring
    assert (changed[:, :, 14:18, 14:18] - changed[:, :, 15:16, 15:16]).abs().max() < 1e-6


def test_mixing_weights_are_a_dirichlets_and_the_share_is_uniform(monkeypatch):
    # chains that end in 0, 1 and 2 tell their weights apart: Σ w_i·i has the mean 1 and the variance of Dirichlet(1, 1, 1)
    def run(levels: Tensor, kinds: Tensor, amounts: Tensor, signs: Tensor) -> None:
        levels.copy_(255.0 * torch.arange(3.0).repeat_interleave(len(levels) // 3)[:, None, None, None] / 2.0)

    monkeypatch.setattr(module, "_run", run)
    mixed = augmix(torch.zeros(20000, 1, 2, 2), 1.0, draws())[:, 0, 0, 0].double()
    # E[m] = 1/2, E[m²] = 1/3; S = Σ w_i·i/2 has the mean 1/2 and the second moment 1/4 + (2/3)/(4·4)
    assert mixed.mean() == pytest.approx(0.25, abs=0.005)
    assert mixed.square().mean() == pytest.approx((1 / 3) * (1 / 4 + 1 / 24), abs=0.003)


def test_every_operation_and_depth_is_drawn_equally_often(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_run", lambda levels, kinds, amounts, signs: seen.append((kinds, amounts, signs)))
    augmix(torch.zeros(3000, 1, 2, 2), 1.0, draws())
    ((kinds, amounts, signs),) = seen
    idle = len(OPERATIONS)
    assert [(kinds[step] != idle).float().mean() for step in range(3)] == pytest.approx([1, 2 / 3, 1 / 3], abs=0.02)
    shares = [(kinds[0] == number).float().mean() for number in range(len(OPERATIONS))]
    assert shares == pytest.approx([1 / 9] * 9, abs=0.015)
    # levels are U(0.1, 3) of 10
    assert 0.01 <= amounts.min() < amounts.max() <= 0.3
    assert amounts.mean() == pytest.approx(0.155, abs=0.003)
    assert (signs == 1).float().mean() == pytest.approx(0.5, abs=0.02)


def test_each_image_is_transformed_by_its_own_operations(monkeypatch):
    # the batch as a whole and its images one by one go through the same chains
    images = photographs(32, 32).float()
    kinds = torch.randint(0, len(OPERATIONS) + 1, (3, COUNT), generator=draws(5))
    amounts, signs = torch.rand(3, COUNT, generator=draws(6)), torch.ones(3, COUNT)
    together = images.clone()
    module._run(together, kinds, amounts, signs)
    for position in range(COUNT):
        alone = images[position : position + 1].clone()
        one = slice(position, position + 1)
        module._run(alone, kinds[:, one], amounts[:, one], signs[:, one])
        assert (together[one] - alone).abs().max() <= 1


@pytest.mark.parametrize("name", REGISTRY["augmentation"])
def test_augmentations_are_called_alike(name):
    augment = resolve("augmentation", name)
    assert list(inspect.signature(augment).parameters)[:3] == ["images", "strength", "generator"]
    images = photographs(32, 32) / 255.0
    assert augment(images, 0.0, draws()) is images
    assert augment(images, 1.0, draws()).shape == images.shape
