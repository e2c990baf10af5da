"""Layers planned to be exported as float: simulated weights as they are, rounded activations, no integer kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from torch import nn

from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.spaces.plan import LayerPlan, TrialPlan
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

TARGET = OnnxRuntimeCPU()


def unconverted(candidate, *names):
    """`candidate` with all its layers, or those named, planned to be exported as float."""
    layers = {
        name: LayerPlan(quantization=dataclasses.replace(plan.quantization, export="float"))
        if not names or name in names
        else plan
        for name, plan in candidate.plan.layers.items()
    }
    return dataclasses.replace(candidate, plan=TrialPlan(layers))


def predictions(outputs):
    return outputs.argmax(axis=1)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_unconverted_model_has_float_weights_and_rounded_activations(bits, candidates, tmp_path):
    images = candidates.images(64)
    candidate = unconverted(candidates.quantized(candidates.seeded(lambda: resnet20(10)), bits, 8, images))
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 45.0
    model = onnx.load(artefact.path)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QuantizeLinear") == 30
    assert not any(array.dtype in (np.int8, np.int32) for array in arrays.values())
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    layers = [layer for layer in candidate.model.modules() if isinstance(layer, nn.Conv2d)]
    assert all(
        np.array_equal(arrays[name], layer.weight.detach().numpy()) for name, layer in zip(weights, layers, strict=True)
    )


def test_the_runtime_leaves_float_weights_float(candidates, tmp_path):
    images = candidates.images(16)
    candidate = unconverted(candidates.quantized(candidates.seeded(lambda: resnet20(10)), 4, 8, images))
    operators = candidates.optimised(TARGET.export(candidate, tmp_path, images[:1]).path, tmp_path)
    assert operators["Conv"] + operators["FusedConv"] == 19
    assert operators["QLinearConv"] == operators["QGemm"] == 0


def test_weights_that_were_never_quantized_stay_as_they_are(candidates, tmp_path):
    images = candidates.images(64)
    candidate = candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 2, 8, images)
    candidate = dataclasses.replace(candidate, codes={})
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 45.0
    assert candidates.optimised(artefact.path, tmp_path)["QLinearConv"] == 0


def test_one_layer_may_be_float_among_integer_ones(candidates, tmp_path):
    images = candidates.images(32)
    candidate = candidates.quantized(candidates.seeded(lambda: resnet20(10)), 8, 8, images)
    artefact = TARGET.export(unconverted(candidate, "layer2.0.conv1"), tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 35.0
    assert candidates.optimised(artefact.path, tmp_path)["QLinearConv"] == 18


def test_weights_on_a_grid_zip_well(candidates, tmp_path):
    images, model = candidates.images(8), candidates.seeded(lambda: resnet20(10))
    whole = TARGET.export(candidates.dense(model), tmp_path / "dense", images[:1])
    on_grid = unconverted(candidates.quantized(model, 8, 8, images))
    artefact = TARGET.export(on_grid, tmp_path / "float", images[:1])
    assert abs(artefact.bytes / whole.bytes - 1) < 0.01
    assert whole.zipped_bytes / artefact.zipped_bytes > 1.5
