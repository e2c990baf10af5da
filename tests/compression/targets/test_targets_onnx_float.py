"""Float models in ONNX give what torch gives, for every architecture and operation that has a rule."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from forgefront.compression.targets.onnx_graph import emit
from forgefront.studies.errors import TargetError
from forgefront.version import __version__

MODELS = [
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "vgg11_bn",
    "densenet121",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "googlenet",
    "mnasnet0_5",
    "convnext_tiny",
]


def difference(model: nn.Module, images: torch.Tensor) -> float:
    """Largest relative difference between torch and the exported model, on more images than the example had."""
    exported = emit(model, {}, images[:1])
    onnx.checker.check_model(exported, full_check=True)
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        expected = model(images).numpy()
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_a_torchvision_classifier_is_exported_exactly(name, candidates):
    options = {"init_weights": False} if name == "googlenet" else {}
    if name == "vgg11_bn":  # its head alone holds 124 million weights
        model = candidates.seeded(lambda: torchvision.models.vgg11_bn(init_weights=False))
        model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)).eval()
    else:
        model = candidates.seeded(lambda: torchvision.models.get_model(name, weights=None, num_classes=10, **options))
    assert difference(model, candidates.images(3, 64)) < 1e-4


def shuffle(x):
    batch, channels, height, width = x.size()
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)


OPERATIONS = {
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.2, 0.3),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky-relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "mish": F.mish,
    "clamp": lambda x: x.clamp(min=-0.1),
    "softmax": lambda x: F.softmax(x, dim=1),
    "arithmetic": lambda x: (2 - x) * 3 / (x + 5) - x.mul(x),
    "chunk": lambda x: torch.cat(x.chunk(3, dim=1)[::-1], 1),
    "split": lambda x: torch.cat(x.split([1, 5], dim=1)[::-1], 1),
    "max-pool": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "max-pool-ceil": lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True),
    "avg-pool": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1),
    "avg-pool-inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive-1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive-divisible": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "adaptive-uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive-max": lambda x: F.adaptive_max_pool2d(x, 2),
    "mean-image": lambda x: x.mean([2, 3]),
    "mean-channel": lambda x: x.mean(dim=1, keepdim=True),
    "flatten": lambda x: torch.flatten(x, 1),
    "flatten-end": lambda x: x.flatten(2),
    "view": lambda x: x.view(x.size(0), -1),
    "view-first": lambda x: x.view(-1, x.shape[1] * x.shape[2] * x.shape[3]),
    "shuffle": shuffle,
    "channel-shuffle": nn.ChannelShuffle(2),
    "pixel-shuffle": lambda x: F.pixel_shuffle(torch.cat([x, x], 1), 2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice": lambda x: x[:, 1:, ::2, 1::3],
    "slice-rest": lambda x: x[..., :-1],
    "index": lambda x: x[:, 2],
    "new-axis": lambda x: x[:, :, None, 0],
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3, 1, 0)),
    "pad-value": lambda x: F.pad(x, (1, 1), value=0.5),
    "pad-reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "index-select": lambda x: x.index_select(1, torch.tensor([3, 0, 3])),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "layer-norm": lambda x: F.layer_norm(x, x.shape[1:]),
}


class Operation(nn.Module):
    def __init__(self, operation) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding="valid", bias=True)
        self.register_buffer("shift", torch.full((1, 6, 1, 1), 0.1))
        self.operation = operation

    def forward(self, x):
        return self.operation(self.conv(x) - self.shift)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_exported_exactly(name, candidates):
    if name == "index-select":
        index = torch.tensor([3, 0, 3])
        model = candidates.seeded(lambda: Indexed(index))
    else:
        model = candidates.seeded(lambda: Operation(OPERATIONS[name]))
    assert difference(model, candidates.images(3, 17)) < 1e-5


class Indexed(Operation):
    def __init__(self, index) -> None:
        super().__init__(nn.Identity())
        self.register_buffer("index", index)

    def forward(self, x):
        return self.conv(x).index_select(1, self.index)


def test_a_frozen_batch_norm_is_computed_from_its_buffers(candidates):
    norm = torchvision.ops.FrozenBatchNorm2d(6)
    norm.running_var.uniform_(0.5, 2.0)
    norm.bias.normal_()
    assert difference(candidates.seeded(lambda: Operation(norm)), candidates.images(3, 17)) < 1e-5


def test_float_weights_are_in_the_file_as_they_were_trained(candidates):
    model = candidates.seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    model[0].weight.data = torch.sign(model[0].weight.data)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in emit(model, {}, candidates.images(1)).graph.initializer]
    assert any(np.array_equal(array, model[0].weight.detach().numpy()) for array in stored)


def test_the_file_names_nothing_but_its_producer(candidates):
    exported = emit(candidates.seeded(lambda: Operation(nn.ReLU())), {}, candidates.images(1))
    assert (exported.producer_name, exported.producer_version) == ("forgefront", __version__)
    assert not exported.metadata_props
    assert not exported.doc_string
    assert not any(node.doc_string or node.metadata_props for node in exported.graph.node)
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


REFUSED = {
    "no rule": (lambda: Operation(lambda x: torch.cumsum(x, 1)), "cumsum"),
    "no module": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.LPPool2d(2, 2)), "LPPool2d|pow|lp_pool"),
    "control flow": (Branching, "traceable"),
    "batch moved": (lambda: Operation(lambda x: x.permute(1, 0, 2, 3)), "permute.*batch"),
    "batch sliced": (lambda: Operation(lambda x: x[0:1]), "getitem.*batch"),
    "padding mode": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode"),
    "training": (lambda: nn.Conv2d(3, 4, 3), "evaluation mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_named_in_one_line(name, candidates):
    build, expected = REFUSED[name]
    model = nn.Sequential(build()).train(name == "training")
    with pytest.raises(TargetError, match=expected) as error:
        emit(model, {}, candidates.images(1))
    assert "\n" not in str(error.value)
