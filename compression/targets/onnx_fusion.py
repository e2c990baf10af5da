"""What may be written as one: batch norms behind convolutions, activations that a quantizer repeats, integer layers.

ONNX Runtime takes a convolution as integer only where its output is quantized at once. Elsewhere it would dequantize
the weights in every run, so such a layer is written with float weights computed on loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..insertion import ACTIVATION_MODULES, ACTIVATION_NAMES
from ..quantizers import ActivationQuantizer

__all__ = ["NORMS", "Fusions", "find_fusions"]

NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)
INFINITE = float("inf")
# A range of 6/255·255 may come out one rounding above 6.
TOLERANCE = 1e-5

_RELU: set[Any] = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
_CLAMP = ("min", "max", -INFINITE, INFINITE)
_CLIP: dict[Any, tuple[str, str, float, float]] = {
    F.hardtanh: ("min_val", "max_val", -1.0, 1.0),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), _CLAMP),
}


@dataclass(frozen=True)
class Fusions:
    """Nodes of a graph that are written together.

    Args:
        norms: Convolution → the batch norm that alone reads it.
        absorbed: Batch norms above, and activations whose clipping the quantizer behind them repeats.
        lines: Hardsigmoids whose clipping the quantizer behind them repeats.
        quantized: Convolutions whose output is quantized at once.
        layers: Convolutions, linear layers and what the runtime computes with them (norm, activation, rounding) → the
            layer's name.
    """

    norms: dict[fx.Node, fx.Node] = field(default_factory=dict)
    absorbed: set[fx.Node] = field(default_factory=set)
    lines: set[fx.Node] = field(default_factory=set)
    quantized: set[fx.Node] = field(default_factory=set)
    layers: dict[fx.Node, str] = field(default_factory=dict)


def find_fusions(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> Fusions:
    """The fusions of `graph`, whose modules are called by the names in `modules`."""

    def module_at(node: fx.Node) -> nn.Module | None:
        return modules[str(node.target)] if node.op == "call_module" else None

    fusions = Fusions()
    for node in graph.nodes:
        user = _only_user(node)
        bounds = _bounds(node, module_at(node))
        quantizer = module_at(user) if user is not None else None
        if bounds and isinstance(quantizer, ActivationQuantizer) and _repeats(quantizer, bounds):
            (fusions.lines if _is_hardsigmoid(node, module_at(node)) else fusions.absorbed).add(node)
    for node in graph.nodes:
        _join_layer(fusions.layers, node, module_at(node))
        if not isinstance(module_at(node), nn.Conv2d):
            continue
        user = _only_user(node)
        if user is not None and isinstance(module_at(user), NORMS):
            fusions.norms[node] = user
            fusions.absorbed.add(user)
            user = _only_user(user)
        if user is not None and user in fusions.absorbed:
            user = _only_user(user)
        quantizer = module_at(user) if user is not None else None
        if isinstance(quantizer, ActivationQuantizer) and quantizer.enabled:
            fusions.quantized.add(node)
    return fusions


def _join_layer(layers: dict[fx.Node, str], node: fx.Node, module: nn.Module | None) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        layers[node] = str(node.target)
        return
    name = getattr(node.target, "__name__", str(node.target)).rstrip("_")
    activation = module is None and (name in ACTIVATION_NAMES or name == "mul")
    if activation or isinstance(module, (*NORMS, *ACTIVATION_MODULES, ActivationQuantizer)):
        sources = {layers.get(source, "") for source in node.all_input_nodes}
        if len(sources) == 1 and "" not in sources:
            layers[node] = sources.pop()


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _bounds(node: fx.Node, module: nn.Module | None) -> tuple[float, float] | None:
    """Lowest and highest value that a clipping activation gives, None for any other node."""
    if isinstance(module, nn.ReLU) or (module is None and node.target in _RELU):
        return 0.0, INFINITE
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    if _is_hardsigmoid(node, module):
        return 0.0, 1.0
    if module is None and node.target is F.relu6:
        return 0.0, 6.0
    if module is not None or node.target not in _CLIP:
        return None
    low_name, high_name, low, high = _CLIP[node.target]
    stated = dict(zip((low_name, high_name), node.args[1:3], strict=False)) | dict(node.kwargs)
    found: list[Any] = [stated.get(low_name), stated.get(high_name)]
    if any(isinstance(bound, fx.Node) for bound in found):
        return None
    return (low if found[0] is None else float(found[0])), (high if found[1] is None else float(found[1]))


def _is_hardsigmoid(node: fx.Node, module: nn.Module | None) -> bool:
    return isinstance(module, nn.Hardsigmoid) or (module is None and node.target is F.hardsigmoid)


def _repeats(quantizer: ActivationQuantizer, bounds: tuple[float, float]) -> bool:
    """Whether all that the quantizer can give lies within `bounds`."""
    scale, zero_point, levels = float(quantizer.scale), int(quantizer.zero_point), 2**quantizer.bits - 1
    low, high = -zero_point * scale, (levels - zero_point) * scale
    slack = TOLERANCE * (high - low)
    return quantizer.enabled and bounds[0] - slack <= low and high <= bounds[1] + slack
