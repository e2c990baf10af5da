"""Coupling through sums, products, concatenations and option-A shortcuts; removal by the graph equals masking."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning
from torch import nn

from forgefront.spaces.coupling import dependency_graph, output_groups
from forgefront.spaces.removal_check import prunable_convolutions
from forgefront.studies.errors import ModelError
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn
from forgefront.trainers.models.torchvision_models import build


def example(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_sums_couple_and_depthwise_follows_its_producer() -> None:
    groups = output_groups(digits_cnn(10), example())
    assert groups["stem.conv"] is None
    assert groups["stage1.residual.conv1"] is None
    assert {groups[name] for name in ("stage1.reduce.conv", "stage1.residual.conv2", "stage2.depthwise.conv")} == {
        "stage1.reduce.conv"
    }


def test_projection_shortcuts_couple_with_their_stage() -> None:
    groups = output_groups(build("resnet18", 10), example(64))
    assert groups["layer2.0.downsample.0"] == groups["layer2.0.conv2"] == groups["layer2.1.conv2"] is not None
    assert groups["layer2.0.conv2"] != groups["layer3.0.conv2"]


class Concatenated(nn.Module):
    """Two convolutions side by side, summed with a third: channels of both are tied to it."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__()
        self.left, self.right, self.whole = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.head, self.summed = nn.Conv2d(8, 2, 1), summed

    def forward(self, x):
        joined = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(joined + self.whole(x) if self.summed else joined)


def test_concatenation_alone_couples_nothing() -> None:
    groups, prunable = prunable_convolutions(Concatenated(summed=False), example(4))
    assert set(groups.values()) == {None}
    assert prunable == {"left", "right"}


def test_layers_of_different_width_are_never_pruned_together() -> None:
    groups, prunable = prunable_convolutions(Concatenated(summed=True), example(4))
    assert groups["left"] == groups["right"] == groups["whole"] == "left"
    assert prunable == frozenset()


def test_groups_do_not_depend_on_the_mode_or_on_frozen_parameters() -> None:
    model = resnet20(10)
    groups = output_groups(model.train(), example())
    assert model.training
    assert output_groups(model.eval(), example()) == groups
    assert output_groups(model.requires_grad_(False), example()) == groups
    with torch.no_grad():
        assert output_groups(model, example()) == groups
    assert "forward" not in vars(model.layer2[0].shortcut)


def test_what_cannot_be_traced_says_so() -> None:
    with pytest.raises(ModelError, match="ShuffleNetV2 cannot be traced"):
        dependency_graph(build("shufflenet_v2_x0_5", 10), example(64))


def mask(model: nn.Module, convolutions: list[str], norms: list[str], channels: list[int]) -> nn.Module:
    """Zero filters, norms, and what the option-A shortcut of their stage brings to the same channels."""
    masked = copy.deepcopy(model)
    stage = convolutions[0].split(".")[0]
    if len(convolutions) > 1 and stage != "conv1":
        shortcut = masked.get_submodule(f"{stage}.0.shortcut")
        shortcut.register_forward_hook(lambda module, inputs, output: output.index_fill(1, torch.tensor(channels), 0.0))
    with torch.no_grad():
        for name in convolutions:
            masked.get_submodule(name).weight[channels] = 0
        for name in norms:
            masked.get_submodule(name).weight[channels] = 0
            masked.get_submodule(name).bias[channels] = 0
    return masked


def lively(model: nn.Module) -> nn.Module:
    """Batch norms with statistics that are not those of a fresh model."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.double().eval()


@pytest.mark.parametrize(
    ("root", "channels"),
    [
        ("conv1", [0, 3, 9]),
        ("layer2.0.conv2", [8, 9, 10]),
        ("layer2.0.conv2", [0, 12, 31]),
        ("layer3.0.conv2", [0, 1, 2, 20, 63]),
        ("layer1.1.conv1", [5]),
    ],
)
def test_removing_option_a_channels_equals_masking_them(root: str, channels: list[int]) -> None:
    torch.manual_seed(1)  # a channel that a ReLU shuts for every image would prove nothing
    model = lively(resnet20(10))
    groups = output_groups(model, example().double())
    members = [name for name, group in groups.items() if group is not None and group == groups[root]] or [root]
    masked = mask(model, members, [name.replace("conv", "bn") for name in members], channels)
    removed = copy.deepcopy(model)
    graph = dependency_graph(removed, example().double())
    graph.get_pruning_group(removed.get_submodule(root), torch_pruning.prune_conv_out_channels, channels).prune()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        effect = (masked(images) - model(images)).abs().max()
        assert effect > 1e-6
        assert (removed(images) - masked(images)).abs().max() < 1e-6 * effect
    assert removed.get_submodule(root).out_channels == model.get_submodule(root).out_channels - len(channels)


def test_removal_in_every_stage_one_after_the_other() -> None:
    model = lively(resnet20(10))
    groups = output_groups(model, example().double())
    masked, removed = model, copy.deepcopy(model)
    for root, channels in {"conv1": [1, 14], "layer2.0.conv2": [9, 20], "layer3.0.conv2": [17, 40, 41]}.items():
        members = [name for name, group in groups.items() if group == groups[root]]
        masked = mask(masked, members, [name.replace("conv", "bn") for name in members], channels)
        graph = dependency_graph(removed, example().double())
        graph.get_pruning_group(removed.get_submodule(root), torch_pruning.prune_conv_out_channels, channels).prune()
    with torch.no_grad():
        torch.testing.assert_close(removed(example().double()), masked(example().double()))
    torch.fx.symbolic_trace(removed)
