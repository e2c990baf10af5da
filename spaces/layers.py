"""A model's compressible layers: shapes, parameters, MACs, the stage and block they lie in, and their coupling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from ..studies.errors import ModelError
from ..studies.seeds import Seed
from .places import Place, places
from .removal_check import prunable_convolutions

__all__ = ["LayerInfo", "LayerKind", "inspect_layers", "layer_kind"]

LayerKind = Literal["conv", "depthwise", "grouped", "linear"]


@dataclass(frozen=True)
class LayerInfo:
    """One convolution or linear layer.

    Args:
        name: Module path within the inspected model.
        kind: ``conv``, ``depthwise`` (one input channel a filter), ``grouped`` (several, not all) or ``linear``.
        weight_shape: Shape of the weight, output channels first.
        parameters: Numbers in weight and bias.
        macs: Multiply-accumulate operations for one image, over all calls of the layer.
        output_shape: (C, H, W) or (C,) for one image.
        stage: Name of the stage: a top-level module, or the layers at one resolution of a flat container.
        block: Name of the block: the outermost module of the user's own class around the layer.
        first: It is the first layer to run.
        last: It is the last layer to run.
        coupled: Name of the first layer whose output channels must be kept with this layer's, because their outputs
            meet in a sum; None when its channels are its own.
        prunable_filters: Its output channels can be removed exactly.
    """

    name: str
    kind: LayerKind
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int
    output_shape: tuple[int, ...]
    stage: str
    block: str
    first: bool
    last: bool
    coupled: str | None
    prunable_filters: bool


@dataclass
class _Call:
    output_shape: tuple[int, ...]
    macs: int


def inspect_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[LayerInfo, ...]:
    """The compressible layers of `model`, in the order in which they run.

    Args:
        model: Any CNN; its mode and its parameters are left as they are.
        input_shape: (C, H, W) of one image.

    Raises:
        ModelError: The model holds no convolution, or it cannot take images of this shape.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    example = torch.rand(1, *input_shape, generator=Seed(0).child("inspection").torch()).to(device)
    calls = _calls(model, example)
    if not any(isinstance(model.get_submodule(name), nn.Conv2d) for name in calls):
        raise ModelError(
            f"the model must be a CNN; found {type(model).__name__} without a Conv2d among the layers that run."
        )
    groups, prunable = prunable_convolutions(model, example)
    leaders = _leaders(groups, calls)
    found = places(model, {name: call.output_shape for name, call in calls.items()})
    order = list(calls)
    return tuple(
        _layer(name, model.get_submodule(name), call, found[name], order, leaders.get(name), name in prunable)
        for name, call in calls.items()
    )


def _layer(
    name: str, module: nn.Module, call: _Call, place: Place, order: list[str], coupled: str | None, prunable: bool
) -> LayerInfo:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return LayerInfo(
        name=name,
        kind=layer_kind(module),
        weight_shape=tuple(weight.shape),
        parameters=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
        macs=call.macs,
        output_shape=call.output_shape,
        stage=place.stage,
        block=place.block,
        first=name == order[0],
        last=name == order[-1],
        coupled=coupled,
        prunable_filters=prunable and name != order[-1],
    )


def layer_kind(module: nn.Module) -> LayerKind:
    """The kind of a `Conv2d` or `Linear`; see `LayerInfo`."""
    if isinstance(module, nn.Linear):
        return "linear"
    assert isinstance(module, nn.Conv2d)
    if module.groups == 1:
        return "conv"
    return "depthwise" if module.groups == module.in_channels else "grouped"


def _calls(model: nn.Module, example: Tensor) -> dict[str, _Call]:
    """What one image does in each layer, by name, in the order of first calls."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    calls: dict[str, _Call] = {}

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs = output[0].numel() * prod(weight.shape[1:])
        earlier = calls.get(names[module])
        if earlier is None:
            calls[names[module]] = _Call(tuple(output.shape[1:]), macs)
        else:
            earlier.macs += macs

    modes = [(module, module.training) for module in model.modules()]
    hooks = [module.register_forward_hook(record) for module in names]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shape = "x".join(map(str, example.shape[1:]))
        raise ModelError(f"{type(model).__name__} cannot take images of shape {shape}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return calls


def _leaders(groups: Mapping[str, str | None], calls: Mapping[str, _Call]) -> dict[str, str]:
    """Each coupled layer's group under the name of its first member to run."""
    leaders: dict[str, str] = {}
    result = {}
    for name in calls:
        group = groups.get(name)
        if group is not None:
            result[name] = leaders.setdefault(group, name)
    return result
