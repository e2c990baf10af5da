"""Few distinct values are packed in the file and unpacked on loading: the same bits, smaller, with the same kernels."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from forgefront.compression.targets.onnx_builder import GraphBuilder, Value
from forgefront.compression.targets.onnx_codebook import pack, weights
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.trainers.models.cifar_resnet import resnet20

TARGET = OnnxRuntimeCPU()
RANDOM = np.random.default_rng(0)


def unpacked(values: np.ndarray) -> tuple[np.ndarray, onnx.ModelProto]:
    """What the runtime makes of `values`, and the model that holds them."""
    graph = GraphBuilder()
    stored = weights(graph, values)
    if values.dtype == np.int8:
        stored = graph.add("Cast", stored, to=TensorProto.FLOAT)
    zeros = graph.add("Mul", "images", graph.constant(np.float32(0)))
    model = graph.model((1,), [(Value(graph.add("Max", graph.add("Abs", zeros), stored)), "output")])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": np.zeros((1, 1), np.float32)})[0], model


@pytest.mark.parametrize("kind", ["int8", "float", "float by row"])
@pytest.mark.parametrize("count", [2, 3, 7, 16, 17, 100])
def test_packed_weights_are_unpacked_bit_for_bit(count, kind):
    table = np.arange(-count // 2, count - count // 2, dtype=np.int8 if kind == "int8" else np.float32)
    values = RANDOM.choice(table, (8, 64, 16))
    if kind == "float by row":
        values *= np.linspace(0.1, 1.0, 8, dtype=np.float32).reshape(8, 1, 1)
    found, model = unpacked(values)
    assert np.array_equal(found, np.maximum(values.astype(np.float32), 0.0))
    stored = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert (stored < values.nbytes) == (count <= 16 or kind != "int8")


def test_signed_zeros_and_infinities_are_told_apart():
    table = np.array([0.0, -0.0, np.inf, 1e-40], np.float32)
    values = RANDOM.choice(table, (64, 64))
    graph = GraphBuilder()
    weights(graph, values)
    held = [np.frombuffer(tensor.raw_data, np.uint8) for tensor in graph.model((1,), []).graph.initializer]
    assert any(
        np.array_equal(np.sort(bits.view(np.uint32)), np.sort(table.view(np.uint32)))
        for bits in held
        if bits.size == 16
    )


def test_planes_lie_side_by_side():
    assert pack(np.array([1, 2, 3, 4], np.uint8), 4).tolist() == [0x31, 0x42]
    assert pack(np.array([1, 0, 1, 1, 0, 0, 0, 1], np.uint8), 1).tolist() == [0b10001101]
    assert pack(np.array([7, 200], np.uint8), 8).tolist() == [7, 200]


ROWS = {
    "many values": RANDOM.normal(size=(64, 64)).astype(np.float32),
    "tiny": np.zeros((2, 4), np.float32),
    "odd": RANDOM.integers(-7, 8, (5, 7, 3, 3)).astype(np.int8),
    "eight bits": RANDOM.integers(-127, 128, (64, 64)).astype(np.int8),
    "mostly zero": np.where(RANDOM.random((256, 512)) < 0.995, 0, RANDOM.integers(-7, 8, (256, 512))).astype(np.int8),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_would_not_get_smaller_is_written_plainly(name):
    graph = GraphBuilder()
    stored = weights(graph, ROWS[name])
    model = graph.model((1,), [])
    assert not model.graph.node
    assert next(tensor for tensor in model.graph.initializer if tensor.name == stored).raw_data == ROWS[name].tobytes()


def clustered(model: nn.Module, clusters: int, candidates):
    """A float candidate whose layers take `clusters` evenly spaced values each."""
    model, codebooks = copy.deepcopy(model), {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            low, high = layer.weight.data.aminmax()
            step = (high - low) / (clusters - 1)
            layer.weight.data = torch.round((layer.weight.data - low) / step) * step + low
            codebooks[name] = torch.unique(layer.weight.data)
    return dataclasses.replace(candidates.dense(model), codebooks=codebooks)


@pytest.mark.parametrize("clusters", [2, 16, 100])
def test_a_clustered_float_layer_is_a_codebook_in_the_file_and_float_when_it_runs(clusters, candidates, tmp_path):
    images, model = candidates.images(8), candidates.seeded(lambda: resnet20(10))
    candidate = clustered(model, clusters, candidates)
    plain = TARGET.export(dataclasses.replace(candidate, codebooks={}), tmp_path / "plain", images[:1])
    packed = TARGET.export(candidate, tmp_path / "packed", images[:1])
    onnx.checker.check_model(onnx.load(packed.path), full_check=True)
    assert packed.bytes < plain.bytes / {2: 15, 16: 6, 100: 3}[clusters]
    assert packed.zipped_bytes <= plain.zipped_bytes
    assert np.array_equal(TARGET.run(packed, images.numpy()), TARGET.run(plain, images.numpy()))
    kernels = [candidates.optimised(artefact.path, tmp_path) for artefact in (plain, packed)]
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize(("bits", "smaller"), [(4, 1.8), (2, 3.0), (1, 3.0)])
def test_few_bits_are_packed_and_still_run_as_integers(bits, smaller, candidates, tmp_path):
    images, model = candidates.images(8), candidates.seeded(lambda: resnet20(10))
    whole = TARGET.export(candidates.quantized(model, 8, 8, images), tmp_path / "8", images[:1])
    artefact = TARGET.export(candidates.quantized(model, bits, 8, images), tmp_path / "few", images[:1])
    assert whole.bytes > smaller * artefact.bytes
    operators = candidates.optimised(artefact.path, tmp_path)
    assert operators == candidates.optimised(whole.path, tmp_path)
    assert operators["QLinearConv"] == 19
