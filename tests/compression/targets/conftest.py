"""Candidates small enough to export within a test: seeded weights, calibrated activation ranges, integer codes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from forgefront.compression.bias_grid import round_biases
from forgefront.compression.candidate import Candidate, LayerCodes
from forgefront.compression.insertion import insert_activation_quantizers
from forgefront.compression.quantizers import activation_quantizers, quantize_weight
from forgefront.spaces.plan import LayerPlan, Quantization, TrialPlan


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A model in evaluation mode whose batch norms do something; some of their gains are negative."""
    torch.manual_seed(0)
    model = build().eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(-0.3, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return model


def dense(model: nn.Module) -> Candidate:
    """A candidate without any compression."""
    return Candidate(model, model, TrialPlan())


def quantized(model: nn.Module, weight_bits: int, activation_bits: int, images: Tensor) -> Candidate:
    """A post-training quantized copy of `model` with biases on the accumulator's grid."""
    model = copy.deepcopy(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    part = Quantization(weight_bits=weight_bits, activation_bits=activation_bits)
    plan = TrialPlan({name: LayerPlan(quantization=part) for name in layers})
    codes = {}
    for name, layer in layers.items():
        codes[name] = LayerCodes(*quantize_weight(layer.weight, weight_bits), weight_bits)
        layer.weight.data = codes[name].weight()
    simulated = insert_activation_quantizers(model, plan, images[:1])
    quantizers = activation_quantizers(simulated.modules())
    for quantizer in quantizers:
        quantizer.observe = "always"
    with torch.no_grad():
        simulated(images)
    for quantizer in quantizers:
        quantizer.freeze()
    round_biases(simulated, codes)
    return Candidate(simulated.eval(), model, plan, codes)


def optimised(path: Path, folder: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs, counted."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


class Candidates:
    """The functions above, for tests."""

    seeded = staticmethod(seeded)
    dense = staticmethod(dense)
    quantized = staticmethod(quantized)
    optimised = staticmethod(optimised)

    @staticmethod
    def images(count: int, size: int = 32) -> Tensor:
        return torch.from_numpy(np.random.default_rng(0).random((count, 3, size, size), dtype=np.float32))


@pytest.fixture(scope="session")
def candidates() -> type[Candidates]:
    return Candidates
