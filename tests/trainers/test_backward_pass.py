"""Gradients passed through what rounds and clips, while outputs stay the same to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from forgefront.compression.quantizers import ActivationQuantizer
from forgefront.trainers.attacks.backward_pass import backward_pass_approximation

IMAGES = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 6 - 3


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * self.function(2.0 * x)


def run(model: nn.Module, images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_(True)
    outputs = model(leaf)
    return outputs.detach(), torch.autograd.grad(outputs.sum(), leaf)[0]


@pytest.mark.parametrize(
    "function",
    [
        torch.round, torch.floor, torch.ceil, torch.trunc, torch.sign,
        Tensor.round, Tensor.round_, Tensor.floor_, torch.round_,
        lambda x: torch.round(x, decimals=1), lambda x: x.round(decimals=1), lambda x: x.round_().mul_(1.0),
        lambda x: x.clone().round_(),
    ],
)  # fmt: skip
def test_roundings_pass_gradients_and_round_all_the_same(function):
    model = Function(function)
    plain, none = run(model)
    assert not none.any()
    with backward_pass_approximation(model) as replaced:
        outputs, gradient = run(model)
    assert replaced.count == 1
    assert torch.equal(outputs, plain)
    assert torch.equal(gradient, torch.full_like(gradient, 6.0))
    assert not run(model)[1].any()


def quantizer(bits: int = 4) -> ActivationQuantizer:
    part = ActivationQuantizer(bits)
    part.update(torch.tensor([-1.0, 1.0]))
    part.freeze()
    return part


def test_clipped_activations_pass_gradients():
    model = nn.Sequential(quantizer())
    outputs, gradient = run(model)
    inside = IMAGES.abs() < 0.9
    assert torch.equal(gradient[inside], torch.ones_like(gradient[inside]))
    assert not gradient[IMAGES.abs() > 1.2].any()
    with backward_pass_approximation(model) as replaced:
        again, through = run(model)
    assert replaced.count == 1
    assert torch.equal(again, outputs)
    assert torch.equal(through, torch.ones_like(through))


def test_a_model_that_neither_rounds_nor_clips_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten()).eval()
    plain = run(model)
    with backward_pass_approximation(model) as replaced:
        same = run(model)
    assert replaced.count == 0
    assert all(torch.equal(one, other) for one, other in zip(plain, same, strict=True))


def test_gradients_that_a_function_defines_itself_stay():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.round(x)

        @staticmethod
        def backward(ctx, gradient):
            return 0.5 * gradient

    with backward_pass_approximation(Function(Own.apply)) as replaced:
        _, gradient = run(Function(Own.apply))
    assert replaced.count == 0
    assert torch.equal(gradient, torch.full_like(gradient, 3.0))


def test_everything_is_put_back_after_a_failure():
    model = nn.Sequential(quantizer())

    def fail() -> None:
        with backward_pass_approximation(model):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not model[0]._forward_hooks
    assert not run(Function(torch.round))[1].any()
