"""What attacks raise: closed forms, and that no scale of the logits hides the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from forgefront.trainers.attacks.losses import cross_entropy, margin, scale_free, scaled_cross_entropy

LOSSES = [cross_entropy, margin, scaled_cross_entropy]
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 3.5], [1.0, 1.0, 1.0]])
TARGETS = torch.tensor([0, 1, 2])


def gradient(loss, logits: Tensor, targets: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(leaf, targets).sum(), leaf)[0]


def test_cross_entropy_and_margin_in_closed_form():
    expected = LOGITS.exp().sum(1).log() - LOGITS[torch.arange(3), TARGETS]
    assert torch.allclose(cross_entropy(LOGITS, TARGETS), expected)
    assert margin(LOGITS, TARGETS).tolist() == [-1.5, 0.5, 0.0]


def test_the_margin_is_positive_where_the_image_is_misclassified():
    logits, targets = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 7
    assert torch.equal(margin(logits, targets) > 0, logits.argmax(1) != targets)


def test_scaled_cross_entropy_is_cross_entropy_at_a_range_of_ten():
    scaled = LOGITS[:2] * 10.0 / torch.tensor([[3.0], [3.5]])
    assert torch.allclose(scaled_cross_entropy(LOGITS[:2], TARGETS[:2]), cross_entropy(scaled, TARGETS[:2]))
    factors = torch.tensor([[10 / 3.0], [10 / 3.5]])
    expected = (scaled.softmax(1) - torch.eye(3)[TARGETS[:2]]) * factors
    assert torch.allclose(gradient(scaled_cross_entropy, LOGITS[:2], TARGETS[:2]), expected, atol=1e-6)


@pytest.mark.parametrize("exponent", [-60, -10, 3, 60])
def test_scaled_cross_entropy_knows_no_scale(exponent):
    factor = 2.0**exponent
    assert torch.equal(scaled_cross_entropy(LOGITS * factor, TARGETS), scaled_cross_entropy(LOGITS, TARGETS))
    logits, targets = LOGITS[:2], TARGETS[:2]
    once, scaled = (gradient(scaled_cross_entropy, part, targets) for part in (logits, logits * factor))
    assert torch.equal(once, scaled * factor)


def test_large_logits_hide_the_gradient_from_cross_entropy_alone():
    logits, targets = LOGITS[:1] * 1000.0, TARGETS[:1]
    assert not gradient(cross_entropy, logits, targets).any()
    for loss in (margin, scaled_cross_entropy):
        assert gradient(loss, logits, targets).abs().max() > 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_that_are_all_the_same_have_a_finite_loss_and_gradient(loss):
    logits = torch.zeros(2, 5)
    assert loss(logits, torch.tensor([0, 4])).isfinite().all()
    assert gradient(loss, logits, torch.tensor([0, 4])).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_are_float32(loss, dtype):
    found = loss(LOGITS.to(dtype), TARGETS)
    assert found.dtype == torch.float32
    assert torch.allclose(found, loss(LOGITS, TARGETS), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_any_number_of_classes(loss, classes):
    logits = torch.randn(9, classes, generator=torch.Generator().manual_seed(0)) * 20
    targets = torch.arange(9) % classes
    assert loss(logits, targets).shape == (9,)
    assert gradient(loss, logits, targets).flatten(1).abs().amax(1).min() > 0 or loss is cross_entropy


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["cross-entropy", "margin", "scaled-cross-entropy"], "scaled-cross-entropy"),
        (["cross-entropy", "margin"], "margin"),
        (["objectness", "boxes"], "objectness"),
    ],
)
def test_the_loss_that_scale_hides_least(names, chosen):
    assert scale_free(names) == chosen
