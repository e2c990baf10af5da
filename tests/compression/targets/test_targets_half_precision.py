"""The GPU target's float16 copy, on the CPU: what it keeps, what it fuses, what it refuses."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.quantizers import ActivationQuantizer, activation_quantizers
from forgefront.compression.targets.base import simulate
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.compression.targets.parity import signal_to_noise
from forgefront.compression.targets.torch_cuda import TorchCUDA, half_precision
from forgefront.studies.errors import TargetError
from forgefront.trainers.models.digits_cnn import digits_cnn


def test_the_float16_copy_computes_what_was_simulated_and_leaves_the_candidate_alone(candidates) -> None:
    images = candidates.images(64)
    candidate = candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 8, 8, images)
    before = simulate(candidate, images.numpy())
    half = half_precision(candidate.model)
    with torch.no_grad():
        outputs = half(images.half()).float().numpy()
    assert signal_to_noise(before, outputs) > 20.0
    assert not any(isinstance(module, ActivationQuantizer) for module in half.modules())
    assert activation_quantizers(candidate.model.modules())
    assert (simulate(candidate, images.numpy()) == before).all()


@pytest.mark.parametrize(("bits", "refused"), [([], False), ([8], False), ([32, 8], False), ([8, 4], True)])
def test_outputs_below_eight_bits_are_refused_in_float16(bits: list[int], refused: bool) -> None:
    OnnxRuntimeCPU().check_activation_bits(bits)
    if refused:
        with pytest.raises(TargetError, match="must be at least 8 with target torch-cuda; found 4"):
            TorchCUDA().check_activation_bits(bits)
    else:
        TorchCUDA().check_activation_bits(bits)
