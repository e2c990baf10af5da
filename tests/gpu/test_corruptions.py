"""The corruptions on a GPU: the processor's images, no wait for the device, subsets bit for bit; skipped where none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import names, resolve

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

NAMES = names("corruption")
SHAPES = [(32, 32), (72, 101)]


def photographs(count: int, shape: tuple[int, int]) -> Tensor:
    """(count, 3, *shape) float32: crops of a photograph."""
    photograph = np.asarray(Image.fromarray(load_sample_images().images[0]).resize((320, 213)))
    height, width = shape
    crops = [photograph[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().float() / 255.0


def corrupt(name: str, images: Tensor, severity: int, indices: Tensor | None = None) -> Tensor:
    indices = torch.arange(len(images), device=images.device) if indices is None else indices
    return resolve("corruption", name)(images, severity, Draws(0, indices, f"{name}/{severity}"))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that makes the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_host_never_waits(name: str, shape: tuple[int, int]) -> None:
    images = photographs(4, shape).cuda()
    indices = torch.arange(4, device="cuda")
    for severity in range(1, 6):
        # constants are copied to a device once
        corrupt(name, images, severity, indices)
        with no_waiting():
            corrupt(name, images, severity, indices)


def test_waiting_would_be_noticed() -> None:
    values = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        values.sum().item()


# a value next to a threshold, of snow's or spatter's noise say, may fall on its other side; all else is rounding
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_makes_the_images_of_the_processor(name: str, severity: int, shape: tuple[int, int]) -> None:
    images = photographs(16, shape)
    there = corrupt(name, images.cuda(), severity).cpu()
    difference = ((there - corrupt(name, images, severity)) * 255.0).abs().round()
    assert float((difference > 1.0).float().mean()) < 2e-3
    assert float((difference > 0.0).float().mean()) < 2e-2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_subset_equals_the_whole_bit_for_bit(name: str, shape: tuple[int, int]) -> None:
    images = photographs(33, shape).cuda()
    chosen = torch.tensor([30, 2, 17], device="cuda")
    for severity in (1, 3, 5):
        whole = corrupt(name, images, severity)
        assert torch.equal(whole, corrupt(name, images, severity))
        assert torch.equal(whole[chosen], corrupt(name, images[chosen], severity, chosen))
        assert torch.equal(whole[chosen[:1]], corrupt(name, images[chosen[:1]], severity, chosen[:1]))
