"""One layer alone as a candidate of its own, at any number of channels, so that a target can export and time it.

What enters and leaves such a network is converted there (to integers and back, to the runtime's own layout and back),
which happens once in a whole network. Chains of one and of two pointwise layers show what that takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...spaces.layers import LayerKind, layer_kind
from ...spaces.plan import TrialPlan
from ...studies.seeds import Seed
from ..candidate import Candidate, LayerCodes
from ..quantizers import ActivationQuantizer, quantize_weight

__all__ = ["Geometry", "geometry", "pointwise_chain", "single_layer"]

BITS = 8


@dataclass(frozen=True)
class Geometry:
    """What a layer's time depends on besides its channels; equal ones are measured once.

    Args:
        kind: ``conv``, ``depthwise``, ``grouped`` or ``linear``.
        in_channels: Inputs of the whole layer (features of a linear one).
        out_channels: Outputs of the whole layer.
        kernel: (height, width), (1, 1) for a linear layer.
        stride: The same.
        padding: Left and top; ``"same"`` as torch has it.
        dilation: (height, width).
        groups: Groups of the whole layer.
        size: (height, width) of its input, () for a linear layer.
    """

    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def geometry(module: nn.Module, shape: tuple[int, ...]) -> Geometry:
    """The geometry of a convolution or linear layer whose input is (N, C, H, W) or (N, …, F).

    Args:
        module: `Conv2d` or `Linear`.
        shape: Shape of its input.
    """
    if isinstance(module, nn.Linear):
        return Geometry("linear", module.in_features, module.out_features)
    assert isinstance(module, nn.Conv2d)
    return Geometry(
        layer_kind(module),
        module.in_channels,
        module.out_channels,
        (module.kernel_size[0], module.kernel_size[1]),
        (module.stride[0], module.stride[1]),
        module.padding if isinstance(module.padding, str) else (module.padding[0], module.padding[1]),
        (module.dilation[0], module.dilation[1]),
        module.groups,
        tuple(shape[-2:]),
    )


def single_layer(
    layer: Geometry, in_channels: int, out_channels: int, *, integer: bool, seed: Seed
) -> tuple[Candidate, Tensor]:
    """A candidate that is this layer, with a bias, then ReLU where it is a convolution, and one input for it.

    Args:
        layer: The layer.
        in_channels: Inputs that it keeps; those of a depthwise layer follow from its outputs instead.
        out_channels: Outputs that it keeps.
        integer: Weights, input and output of 8 bits instead of float.
        seed: Draws the weights.

    Returns:
        The candidate in eval mode, and one image (1, C, H, W); (1, F, 1, 1) for a linear layer.
    """
    if layer.kind == "depthwise":
        filters = layer.out_channels // layer.in_channels
        in_channels = max(1, out_channels // filters)
        out_channels = in_channels * filters
    module = _module(layer, in_channels, out_channels)
    return _chain([module], integer=integer, seed=seed), torch.zeros(1, in_channels, *(layer.size or (1, 1)))


def pointwise_chain(
    channels: int, size: tuple[int, ...], length: int, *, integer: bool, seed: Seed
) -> tuple[Candidate, Tensor]:
    """`length` convolutions 1x1 from `channels` to as many at `size`, with ReLUs; returns what `single_layer` does."""
    modules: list[nn.Module] = [nn.Conv2d(channels, channels, 1) for _ in range(length)]
    return _chain(modules, integer=integer, seed=seed), torch.zeros(1, channels, *size)


def _chain(modules: list[nn.Module], *, integer: bool, seed: Seed) -> Candidate:
    generator = seed.torch()
    codes: dict[str, LayerCodes] = {}
    model = nn.Sequential()
    if integer:
        model.add_module("input", _quantizer(1.0))
    if isinstance(modules[0], nn.Linear):
        # every target takes images
        model.add_module("flatten", nn.Flatten())
    for index, module in enumerate(modules):
        name = f"layer{index}"
        model.add_module(name, module)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, nn.Parameter)
        assert isinstance(bias, nn.Parameter)
        weight.data.uniform_(-0.1, 0.1, generator=generator)
        # on the grid of any accumulator
        bias.data.zero_()
        if isinstance(module, nn.Conv2d):
            model.add_module(f"relu{index}", nn.ReLU())
        if integer:
            codes[name] = LayerCodes(*quantize_weight(weight.detach(), BITS), BITS)
            weight.data = codes[name].weight()
            model.add_module(f"output{index}", _quantizer(4.0))
    model.eval()
    return Candidate(model, model, TrialPlan(), codes)


def _module(layer: Geometry, in_channels: int, out_channels: int) -> nn.Module:
    if layer.kind == "linear":
        return nn.Linear(in_channels, out_channels)
    groups = {"conv": 1, "depthwise": in_channels, "grouped": layer.groups}[layer.kind]
    shape = (layer.kernel, layer.stride, layer.padding, layer.dilation, groups)
    return nn.Conv2d(in_channels, out_channels, *shape)


def _quantizer(highest: float) -> ActivationQuantizer:
    """Frozen, for outputs in [0, `highest`]."""
    quantizer = ActivationQuantizer(BITS)
    quantizer.update(torch.tensor([0.0, highest]))
    quantizer.freeze()
    return quantizer
