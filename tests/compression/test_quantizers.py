"""Quantizers: ranges of codes, idempotence, exact zeros, straight-through gradients."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
    dequantize,
    fake_quantize,
    quantize_weight,
)
from forgefront.studies.seeds import Seed


def random_weight(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(*shape, generator=Seed(seed).torch()) * torch.rand(shape[0], *[1] * (len(shape) - 1)) * 0.1


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantizing_twice_changes_nothing(bits: int, per: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        codes, scale = quantize_weight(random_weight(12, 5, 3, 3, seed=seed).to(dtype), bits, per=per)
        again, same_scale = quantize_weight(dequantize(codes, scale), bits, per=per)
        assert torch.equal(codes, again)
        assert torch.equal(scale, same_scale)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_in_the_narrow_range_and_shapes_as_stated(bits: int) -> None:
    codes, scale = quantize_weight(random_weight(12, 5, 3, 3), bits)
    limit = max(1, 2 ** (bits - 1) - 1)
    assert codes.dtype == torch.int8
    assert codes.abs().max() == limit
    assert codes.shape == (12, 5, 3, 3)
    assert scale.shape == (12,)
    assert quantize_weight(random_weight(12, 5), bits, per="layer")[1].shape == ()


def test_eight_bits_are_within_half_a_step_and_use_the_whole_range() -> None:
    weight = random_weight(12, 45)
    codes, scale = quantize_weight(weight, 8)
    assert (codes.abs().amax(dim=1) == 127).all()
    assert ((dequantize(codes, scale) - weight).abs() <= scale[:, None] * 0.501).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_low_bits_lose_less_than_without_clipping(bits: int) -> None:
    weight = torch.randn(4, 2000, generator=Seed(7).torch())
    limit = 2 ** (bits - 1) - 1
    unclipped = weight.abs().amax(dim=1, keepdim=True) / limit
    plain = torch.round(weight / unclipped) * unclipped
    clipped = dequantize(*quantize_weight(weight, bits))
    assert (clipped - weight).square().sum() < (plain - weight).square().sum()


def test_one_bit_is_the_sign_times_the_mean_of_what_is_kept() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = quantize_weight(weight, 1)
    assert codes.tolist() == [[1, -1, 0, 1], [0, 0, 0, 0]]
    assert scale.tolist() == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_zeros_stay_zero_and_an_empty_channel_is_finite(bits: int) -> None:
    weight = random_weight(4, 50)
    weight[:, ::2], weight[1] = 0.0, 0.0
    simulated = dequantize(*quantize_weight(weight, bits))
    assert torch.isfinite(simulated).all()
    assert (simulated[weight == 0] == 0).all()


def test_a_layer_scale_keeps_codes_within_the_clusters() -> None:
    codebook = torch.linspace(-1, 1, 7)
    weight = codebook[torch.randint(7, (16, 30), generator=Seed(8).torch())]
    assert len(torch.unique(quantize_weight(weight, 8, per="layer")[0])) <= 7


def test_weight_gradient_is_the_identity_and_the_value_exact() -> None:
    weight = random_weight(3, 8).requires_grad_()
    quantizer = WeightQuantizer(4)
    assert quantizer(weight) is weight
    quantizer.enabled = True
    simulated = quantizer(weight)
    simulated.mul(torch.arange(8.0)).sum().backward()
    assert torch.equal(simulated, dequantize(*quantize_weight(weight, 4)))
    assert torch.equal(weight.grad, torch.arange(8.0).expand(3, 8))


def test_bits_outside_one_to_eight_are_refused() -> None:
    for bits in (0, 9, 32):
        with pytest.raises(ValueError, match="`bits` must be in 1–8"):
            quantize_weight(torch.ones(2, 2), bits)
        with pytest.raises(ValueError, match="`bits` must be in 1–8"):
            ActivationQuantizer(bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_take_the_grid_of_an_integer_runtime(bits: int) -> None:
    quantizer = ActivationQuantizer(bits)
    tensor = torch.randn(4, 3, 5, 5, generator=Seed(9).torch()) * 3 + 1
    quantizer(tensor)
    quantizer.freeze()
    levels, scale, zero_point = 2**bits - 1, float(quantizer.scale), int(quantizer.zero_point)
    codes = (torch.round(tensor / scale) + zero_point).clamp(0, levels)
    assert torch.equal(quantizer(tensor), (codes - zero_point) * quantizer.scale)
    assert torch.equal(quantizer(quantizer(tensor)), quantizer(tensor))
    assert 0 < zero_point <= levels
    assert float(quantizer(torch.zeros(1))) == 0.0


def test_outputs_of_relu_have_zero_point_zero_and_silence_is_finite() -> None:
    quantizer = ActivationQuantizer(8)
    quantizer(torch.rand(10))
    assert int(quantizer.zero_point) == 0
    silent = ActivationQuantizer(4)
    silent(torch.zeros(3, 3))
    silent.freeze()
    assert torch.equal(silent(torch.zeros(3, 3)), torch.zeros(3, 3))
    assert float(silent.scale) == 1.0
    assert quantizer(torch.empty(0, 3)).shape == (0, 3)


def test_activation_gradient_passes_inside_the_range_only() -> None:
    tensor = torch.tensor([-2.0, -0.4, 0.3, 3.0], requires_grad=True)
    fake_quantize(tensor, torch.tensor(0.1), torch.tensor(5), 4).sum().backward()
    assert tensor.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_ranges_average_batches_and_stop_when_frozen() -> None:
    quantizer = ActivationQuantizer(8)
    for high in (1.0, 3.0):
        quantizer(torch.tensor([0.0, high]))
    assert float(quantizer.maximum) == pytest.approx(2.0)
    quantizer.eval()
    quantizer(torch.tensor([0.0, 100.0]))
    assert float(quantizer.maximum) == pytest.approx(2.0)
    quantizer.freeze()
    quantizer.train()
    quantizer(torch.tensor([0.0, 100.0]))
    assert float(quantizer.maximum) == pytest.approx(2.0)
