"""Calibration: extremes at 8 bits, the best clip below, and nothing else touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgefront.compression.calibration import calibrate, clip_errors
from forgefront.compression.quantizers import CLIP_RATIOS, ActivationQuantizer, fake_quantize, range_parameters
from forgefront.studies.seeds import Seed


def batches(count: int = 3) -> list[torch.Tensor]:
    """Long-tailed, so that a clip pays."""
    generator = Seed(6).torch()
    return [torch.randn(16, 40, generator=generator) ** 3 for _ in range(count)]


class Network(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 40)
        self.activation = nn.ReLU()
        self.first, self.second = ActivationQuantizer(8), ActivationQuantizer(bits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.linear(self.first(x))))


def test_errors_are_those_of_the_quantized_tensor() -> None:
    tensor = batches(1)[0]
    low, high = tensor.min().clamp(max=0), tensor.max()
    for ratio, error in zip(CLIP_RATIOS, clip_errors(tensor, low, high, 4), strict=True):
        scale, zero_point = range_parameters(low * ratio, high * ratio, 4)
        expected = (fake_quantize(tensor, scale, zero_point, 4) - tensor).double().square().sum()
        assert float(error) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_take_the_clip_of_least_error_over_all_batches(bits: int) -> None:
    torch.manual_seed(0)
    model, images = Network(bits).eval(), batches()
    with torch.no_grad():
        outputs = torch.cat([model.activation(model.linear(batch)) for batch in images])
    calibrate(model, [model.first, model.second], iter(images))
    assert not model.second.enabled
    chosen = model.second.maximum.clone()
    found = (fake_quantize(outputs, model.second.scale, model.second.zero_point, bits) - outputs).square().sum()
    whole = ActivationQuantizer(bits)
    whole.observe = "always"
    for part in outputs.split(16):
        whole(part)
    candidates = []
    for ratio in CLIP_RATIOS:
        scale, zero_point = range_parameters(whole.minimum * ratio, whole.maximum * ratio, bits)
        candidates.append(float((fake_quantize(outputs, scale, zero_point, bits) - outputs).square().sum()))
    assert float(found) == pytest.approx(min(candidates), rel=1e-5)
    assert float(found) < candidates[0]
    assert float(chosen) < float(whole.maximum)
    assert int(model.second.zero_point) == 0


def test_eight_bits_keep_the_extremes() -> None:
    model, images = Network(8).eval(), batches()
    calibrate(model, [model.first, model.second], images)
    expected = ActivationQuantizer(8)
    for batch in images:
        expected(batch)
    assert torch.equal(model.first.scale, expected.scale)
    assert torch.equal(model.first.zero_point, expected.zero_point)


def test_silence_and_no_images() -> None:
    model = Network(3).eval()
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.zero_()
    calibrate(model, [model.second], batches())
    model.second.freeze()
    assert float(model.second.scale) == 1.0
    with pytest.raises(ValueError, match="`calibration` must hold at least one batch"):
        calibrate(model, [model.second], [])
