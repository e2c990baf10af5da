"""Properties that all fifteen corruptions share, on real images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from forgefront.objectives.corruptions.blur import glass_sources
from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import names, resolve

NAMES = names("corruption")
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


def to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous().float() / 255.0


def corrupt(name: str, images: Tensor, severity: int, indices: Tensor | None = None, seed: int = 0) -> Tensor:
    indices = torch.arange(len(images)) if indices is None else indices
    return resolve("corruption", name)(images, severity, Draws(seed, indices, f"{name}/{severity}"))


@pytest.mark.parametrize("name", NAMES)
def test_output_is_bytes_of_the_same_shape_and_input_is_untouched(name: str, photographs: np.ndarray) -> None:
    images = to_tensor(photographs[:4])
    before = images.clone()
    for severity in range(1, 6):
        result = corrupt(name, images, severity)
        levels = result * 255.0
        assert result.shape == images.shape
        assert result.dtype == torch.float32
        assert result.min() >= 0.0
        assert result.max() <= 1.0
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_an_image_is_corrupted_alike_alone_and_among_others(name: str, severity: int, photographs: np.ndarray) -> None:
    images = to_tensor(photographs)
    chosen = torch.tensor([40, 3, 11])
    whole = corrupt(name, images, severity)
    assert torch.equal(whole, corrupt(name, images, severity))
    assert torch.equal(whole[chosen], corrupt(name, images[chosen], severity, chosen))
    assert torch.equal(whole[chosen[:1]], corrupt(name, images[chosen[:1]], severity, chosen[:1]))


@pytest.mark.parametrize("name", NAMES)
def test_the_study_seed_matters_just_where_there_is_chance(name: str, photographs: np.ndarray) -> None:
    images = to_tensor(photographs[:8])
    same = torch.equal(corrupt(name, images, 3, seed=0), corrupt(name, images, 3, seed=1))
    assert same == (name in DETERMINISTIC)


# elastic transforms grow rougher, not larger; glass blur's third severity is its mildest; published, both
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"elastic_transform", "glass_blur", "frost"}))
def test_change_grows_with_severity(name: str, photographs: np.ndarray) -> None:
    images = to_tensor(photographs)
    changes = [float((corrupt(name, images, severity) - images).square().mean()) for severity in range(1, 6)]
    # motion blur's fourth step lengthens the kernel past where its weights end
    assert all(later > 0.97 * earlier for earlier, later in pairwise(changes))
    assert changes[4] > 1.5 * changes[0]


@pytest.mark.parametrize("name", NAMES)
def test_large_and_oblong_images_take_the_constants_of_imagenet_c(name: str) -> None:
    photograph = load_sample_images().images[0][100:196, 200:344]
    images = to_tensor(photograph[None])
    for severity in (1, 5):
        result = corrupt(name, images, severity)
        assert result.shape == (1, 3, 96, 144)
        assert float((result - images).abs().mean()) > 1.0 / 255.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (33, 47)])
def test_other_small_sizes(name: str, shape: tuple[int, int], photographs: np.ndarray) -> None:
    wide = np.concatenate([photographs[:2], photographs[2:4]], axis=2)
    tall = np.concatenate([wide, wide], axis=1)[:, : shape[0], : shape[1]]
    assert corrupt(name, to_tensor(tall), 5).shape == (2, 3, *shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [0, 6, -1])
def test_severity_is_one_to_five(name: str, severity: int, photographs: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`severity` must be one of 1–5"):
        corrupt(name, to_tensor(photographs[:1]), severity)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"]
)
def test_blurs_and_shifts_leave_an_even_image_alone(name: str, level: int) -> None:
    images = torch.full((2, 3, 32, 32), level / 255.0)
    for severity in range(1, 6):
        assert torch.equal((corrupt(name, images, severity) * 255).round(), (images * 255).round())


def test_brightness_of_black_is_grey() -> None:
    result = corrupt("brightness", torch.zeros(1, 3, 8, 8), 5)
    assert torch.allclose(result, torch.tensor(76 / 255))


@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_glass_sources_equal_the_published_loop(reach: int) -> None:
    height, width = 20, 24
    offsets = Draws(0, torch.arange(3), "glass").integers(-reach, reach, 2, height, width)
    sources = glass_sources(height, width, reach, Draws(0, torch.arange(3), "glass"))
    for image in range(3):
        pixels = np.arange(height * width).reshape(height, width, 1).repeat(3, axis=2)
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dy, dx = offsets[image, :, h, w].tolist()
                # the published "swap" of two views of one array
                pixels[h, w], pixels[h + dy, w + dx] = pixels[h + dy, w + dx], pixels[h, w]
        assert np.array_equal(sources[image].numpy(), pixels[:, :, 0].flatten())
