"""Inspection of real networks: counts known from the literature, kinds, places, coupling, and what is refused."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from forgefront.spaces.groups import group_layers
from forgefront.spaces.layers import inspect_layers
from forgefront.studies.errors import ModelError
from forgefront.trainers.models.base import with_normalization
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn
from forgefront.trainers.models.torchvision_models import build


def test_resnet20_counts_and_order() -> None:
    model = resnet20(10)
    layers = inspect_layers(model, (3, 32, 32))
    # He et al. give 0.27 M for option A; projection shortcuts (option B) would make it 272,474
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    assert sum(layer.macs for layer in layers) == 40_551_040
    assert [layer.name for layer in layers][:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert [layer.first for layer in layers] == [True] + [False] * 19
    assert [layer.last for layer in layers] == [False] * 19 + [True]
    assert layers[-1].kind == "linear"
    assert layers[-1].output_shape == (10,)
    assert layers[7].weight_shape == (32, 16, 3, 3)
    assert layers[7].output_shape == (32, 16, 16)


def test_resnet20_residual_coupling_is_per_stage() -> None:
    layers = {layer.name: layer for layer in inspect_layers(with_normalization(resnet20(10), None, None), (3, 32, 32))}
    for name, layer in layers.items():
        inner = name.removeprefix("network.")
        if inner == "conv1" or (inner.startswith("layer1") and inner.endswith("conv2")):
            expected = "network.conv1"
        elif inner.endswith("conv2"):
            expected = f"network.{inner.split('.')[0]}.0.conv2"
        else:
            expected = None
        assert layer.coupled == expected, name
        assert layer.prunable_filters == (layer.kind == "conv"), name


def test_stages_and_blocks_have_short_names() -> None:
    layers = inspect_layers(with_normalization(resnet20(10), None, None), (3, 32, 32))
    assert list(group_layers(layers, "stage")) == ["conv1", "layer1", "layer2", "layer3", "linear"]
    assert list(group_layers(layers, "block"))[:3] == ["conv1", "layer1.0", "layer1.1"]
    assert list(group_layers(layers, "layer")) == [layer.name for layer in layers]
    assert list(group_layers(layers, "network")) == ["network"]


@pytest.mark.parametrize("granularity", ["layer", "block", "stage", "network"])
def test_every_layer_is_in_one_group(granularity) -> None:
    layers = inspect_layers(digits_cnn(10), (3, 32, 32))
    grouped = [layer for members in group_layers(layers, granularity).values() for layer in members]
    assert sorted(grouped, key=layers.index) == list(layers)
    assert len(grouped) == len(layers)


def test_unknown_granularity() -> None:
    with pytest.raises(ValueError, match=r"`granularity` must be one of .*found 'channel'"):
        group_layers((), "channel")  # type: ignore[arg-type]


def test_digits_cnn_exercises_every_kind() -> None:
    layers = {layer.name: layer for layer in inspect_layers(digits_cnn(10), (3, 32, 32))}
    assert layers["stage2.depthwise.conv"].kind == "depthwise"
    assert not layers["stage2.depthwise.conv"].prunable_filters
    assert layers["stage1.residual.conv2"].coupled == layers["stage1.reduce.conv"].coupled == "stage1.reduce.conv"
    assert layers["stage2.dense.conv"].coupled is None
    assert sum(layer.macs for layer in layers.values()) < 1_500_000


# parameters of torchvision's documentation, with its 1000 classes
@pytest.mark.parametrize(
    ("name", "parameters", "count", "stages"),
    [
        ("resnet18", 11_689_512, 21, ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        (
            "mobilenet_v2",
            3_504_872,
            53,
            [f"features@{n}x{n}" for n in (32, 16, 8, 4, 2)] + ["classifier"],
        ),
        ("densenet121", 7_978_856, 121, [f"features@{n}x{n}" for n in (32, 16, 8, 4, 2)] + ["classifier"]),
    ],
)
def test_torchvision_networks(name: str, parameters: int, count: int, stages: list[str]) -> None:
    model = build(name, 1000)
    layers = inspect_layers(model, (3, 64, 64))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(layers) == count
    assert list(group_layers(layers, "stage")) == stages
    for layer in layers:
        module = model.get_submodule(layer.name)
        assert layer.parameters == sum(parameter.numel() for parameter in module.parameters())
        if layer.kind == "depthwise":
            assert module.groups == module.in_channels > 1
            assert not layer.prunable_filters
        if layer.coupled is not None:
            assert layer.coupled in {other.name for other in layers}
    prunable = {layer.name for layer in layers if layer.prunable_filters}
    assert prunable == {layer.name for layer in layers if layer.kind == "conv"}
    assert any(layer.kind == "depthwise" for layer in layers) == (name == "mobilenet_v2")
    assert (name == "densenet121") == all(layer.coupled is None for layer in layers)


def test_vgg_stages_follow_the_resolution() -> None:
    network = build("vgg11_bn", 10)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, 10)  # its own head of 120 million weights is slow to copy
    layers = inspect_layers(network, (3, 64, 64))
    stages = group_layers(layers, "stage")
    assert list(stages) == [f"features@{n}x{n}" for n in (64, 32, 16, 8, 4)] + ["classifier"]
    assert [len(members) for members in stages.values()] == [1, 1, 2, 2, 2, 1]
    assert len(group_layers(layers, "block")) == 9
    assert all(layer.prunable_filters for layer in layers if layer.kind == "conv")


def test_macs_of_one_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(8 * 16, 5))
    convolution, linear = inspect_layers(model, (4, 8, 8))
    assert convolution.kind == "grouped"
    assert convolution.macs == prod((8, 4, 4)) * 2 * 3 * 3
    assert convolution.parameters == 8 * 2 * 9 + 8
    assert linear.macs == 8 * 16 * 5


class TwiceApplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


def test_shared_layers_count_every_call_and_unused_ones_none() -> None:
    conv, _head = inspect_layers(TwiceApplied(), (3, 4, 4))
    assert conv.name == "conv"
    assert conv.macs == 2 * 16 * 9


class SelfGated(nn.Module):
    """A channel is sigmoid(0) = 0.5 where its filter is zero, so removal is not masking."""

    def __init__(self) -> None:
        super().__init__()
        self.gated = nn.Conv2d(3, 8, 3)
        self.plain = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.plain(torch.sigmoid(self.gated(x)))).mean((2, 3)))


def test_filters_are_only_prunable_where_removal_is_exact() -> None:
    gated, plain, head = inspect_layers(SelfGated(), (3, 16, 16))
    assert (gated.prunable_filters, plain.prunable_filters, head.prunable_filters) == (False, True, False)


def test_networks_that_cannot_be_traced_keep_their_filters() -> None:
    layers = inspect_layers(build("shufflenet_v2_x0_5", 10), (3, 64, 64))
    assert not any(layer.prunable_filters for layer in layers)


def test_layers_beside_a_grouped_convolution_keep_their_filters() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1), nn.Flatten()
    )
    layers = inspect_layers(model, (3, 8, 8))
    assert [layer.prunable_filters for layer in layers] == [False, False, True, False]


def test_the_model_is_left_as_it_was() -> None:
    model = digits_cnn(10)
    model.stage1.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    frozen = inspect_layers(model, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert frozen == inspect_layers(digits_cnn(10), (3, 32, 32))


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (3, 4, 4), "must be a CNN; found Sequential"),
        (nn.Identity(), (3, 4, 4), "must be a CNN; found Identity"),
        (digits_cnn(10), (1, 32, 32), "DigitsCNN cannot take images of shape 1x32x32"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)), (3, 8, 8), "cannot take images of shape"),
        (nn.Sequential(nn.Conv2d(3, 4, 9)), (3, 4, 4), "cannot take images of shape 3x4x4"),
    ],
)
def test_bad_models_are_named_in_one_line(model: nn.Module, shape: tuple[int, int, int], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        inspect_layers(model, shape)
    assert "\n" not in str(caught.value)
