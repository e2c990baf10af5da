"""Properties that all corruptions share, on real images: bytes, seeds, subsets, sizes, no wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from forgefront.objectives.corruptions.blur import glass_sources
from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import names, resolve

NAMES = names("corruption")
DETERMINISTIC = {
    "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "saturate",
}  # fmt: skip


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


# elastic transforms grow rougher, not larger; glass blur's third severity is its mildest; saturate first fades, then
# adds; spatter is water, then mud: all published
@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"elastic_transform", "glass_blur", "frost", "saturate", "spatter"})
)
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
        assert float((result - images).abs().mean()) > 0.5 / 255.0


def enlarged(shape: tuple[int, int]) -> Tensor:
    """(1, 3, *shape): a photograph, resized."""
    height, width = shape
    photograph = Image.fromarray(load_sample_images().images[1]).resize((width, height))
    return to_tensor(np.asarray(photograph)[None])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8), (24, 24), (33, 47), (64, 300), (300, 64), (65, 65), (66, 1024), (700, 70)])
def test_all_sizes(name: str, shape: tuple[int, int]) -> None:
    images = enlarged(shape)
    for severity in (1, 5):
        result = corrupt(name, images, severity)
        assert result.shape == images.shape
        assert 0.0 <= float(result.min()) <= float(result.max()) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_megapixel(name: str) -> None:
    images = enlarged((1024, 1024))
    assert corrupt(name, images, 3).shape == images.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [1, 2, 5])
def test_a_large_image_is_corrupted_alike_alone_and_among_others(name: str, severity: int) -> None:
    wide = enlarged((140, 400))[0]
    images = torch.stack([wide[:, i : i + 73, 30 * i : 30 * i + 101] for i in range(7)])
    chosen = torch.tensor([5, 0])
    whole = corrupt(name, images, severity)
    assert torch.equal(whole[chosen], corrupt(name, images[chosen], severity, chosen))
    assert torch.equal(whole[chosen[:1]], corrupt(name, images[chosen[:1]], severity, chosen[:1]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(32, 32), (66, 70)])
def test_black_and_white_images_stay_finite(name: str, level: float, shape: tuple[int, int]) -> None:
    images = torch.full((2, 3, *shape), level)
    for severity in range(1, 6):
        assert torch.isfinite(corrupt(name, images, severity)).all()


class NoWaiting(TorchDispatchMode):
    """Fails on what would make a GPU's host wait: reading a value, sizes that depend on data, tensors made on the host."""

    FORBIDDEN = frozenset(
        {
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
            "aten::lift_fresh",
            "aten::equal",
            "aten::is_nonzero",
            "aten::_unique2",
            "aten::bincount",
            "aten::linalg_inv_ex",
            "aten::_linalg_check_errors",
        }
    )

    def __torch_dispatch__(self, function: OpOverload, types: object, arguments: Any = (), keywords: Any = None) -> Any:
        name = function._schema.name
        assert name not in self.FORBIDDEN, name
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            masks = [index for index in arguments[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{name} with a mask"
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(32, 32), (66, 70)])
def test_the_host_never_waits_for_a_value(name: str, shape: tuple[int, int]) -> None:
    images, indices = enlarged(shape), torch.arange(1)
    corruption = resolve("corruption", name)
    for severity in range(1, 6):
        # constants are copied to a device once
        corruption(images, severity, Draws(0, indices, "a"))
        with NoWaiting():
            corruption(images, severity, Draws(0, indices, "a"))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.linalg.inv(x),
    ],
)
def test_waiting_would_be_noticed(waiting: Callable[[Tensor], object]) -> None:
    values = torch.eye(2)
    with pytest.raises(AssertionError), NoWaiting():
        waiting(values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [0, 6, -1])
def test_severity_is_one_to_five(name: str, severity: int, photographs: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`severity` must be one of 1–5"):
        corrupt(name, to_tensor(photographs[:1]), severity)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur",
        "gaussian_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "contrast",
        "elastic_transform",
        "pixelate",
    ],
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
