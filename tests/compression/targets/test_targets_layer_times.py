"""Every layer has a time, whatever the runtime fused it with, and together they make up the inference."""

from __future__ import annotations

import math
import time

import onnx
import pytest
import torch
from torch import nn

from forgefront.compression.targets.layer_times import layer_times
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU, open_session
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

TARGET = OnnxRuntimeCPU()
MODELS = {
    "digits-cnn": lambda: digits_cnn(10),
    "resnet20": lambda: resnet20(10),
}


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_takes_time_and_the_sum_is_the_inference(name, kind, candidates, tmp_path):
    model, images = candidates.seeded(MODELS[name]), candidates.images(2)
    candidate = candidates.dense(model) if kind == "float" else candidates.quantized(model, 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    times = layer_times(artefact, seconds=0.02)
    assert set(times) == {*layers(model), ""}
    assert all(seconds > 0.0 for seconds in times.values())
    assert layer_times(artefact.path, seconds=0.0).keys() == times.keys()
    session, feeds = open_session(artefact.path, threads=1), {"images": images[:1].numpy()}
    whole = math.inf
    for _ in range(50):
        start = time.perf_counter()
        session.run(None, feeds)
        whole = min(whole, time.perf_counter() - start)
    # the profiler has its cost, and the machine its other work
    assert 0.5 * whole < sum(times.values()) < 10.0 * whole


def test_names_of_layers_cost_next_to_nothing(candidates, tmp_path):
    from forgefront.compression.targets.size import zipped_bytes

    images = candidates.images(2)
    candidate = candidates.quantized(candidates.seeded(lambda: resnet20(10)), 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    model = onnx.load(artefact.path)
    names = [node.name for node in model.graph.node if node.name]
    assert len(names) == len(set(names))
    assert "layer1.0.conv1/Conv" in names
    for node in model.graph.node:
        node.ClearField("name")
    nameless = tmp_path / "nameless.onnx"
    nameless.write_bytes(model.SerializeToString(deterministic=True))
    assert artefact.zipped_bytes < 1.01 * zipped_bytes(nameless)


def test_a_layer_called_twice_has_one_entry_and_two_names(candidates, tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(self.stem(x)))).mean([2, 3])

    artefact = TARGET.export(candidates.dense(candidates.seeded(Twice)), tmp_path, candidates.images(1, 8))
    names = {node.name for node in onnx.load(artefact.path).graph.node}
    assert {"conv/Conv", "conv/Conv_2"} <= names
    assert set(layer_times(artefact, seconds=0.0)) == {"stem", "conv", ""}
