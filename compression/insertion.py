"""Where activation quantizers sit: a torch.fx pass that puts one behind every fused chain, sum and concatenation.

A tensor is quantized once: behind convolution (→ batch norm) (→ clipping activation), behind sums (→ clipping
activation), products, concatenations and average pools, and before the first convolution (at 8 bits: images have no
more). Operations that only move values, or take their maximum, keep their input's grid and get none. The network's
outputs stay float.

No integer kernel fuses a convolution with an activation that does more than clip, so the convolution's own output is
quantized before one, at 8 bits: planned bits are those of what passes from layer to layer. SiLU and Hardswish are
written as x·σ(x), gate and product quantized each, which integer kernels exist for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ..spaces.plan import FLOAT_BITS, TrialPlan
from ..studies.errors import ModelError
from .quantizers import ActivationQuantizer

__all__ = ["PREFIX", "insert_activation_quantizers", "keeps_grid", "needs_activation_quantizers"]

PREFIX = "activation_quantizers"
# of images, and of what a kernel hands to the activation behind it
FULL_BITS = 8

LAYERS = (nn.Conv2d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATION_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus),
)
ACTIVATION_NAMES = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "elu", "celu", "gelu", "silu", "mish", "hardtanh"),
        *("hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus"),
    )
)
CLIPPING_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
CLIPPING_NAMES = frozenset(("relu", "relu6", "hardtanh"))
GATED: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((nn.SiLU, F.silu), torch.sigmoid),
    **dict.fromkeys((nn.Hardswish, F.hardswish), F.hardsigmoid),
}
MOVING_MODULES = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
    *(nn.ChannelShuffle, nn.PixelShuffle, nn.UpsamplingNearest2d),
)
MOVING_NAMES = frozenset(
    (
        *("flatten", "reshape", "view", "permute", "transpose", "contiguous", "getitem", "chunk", "split", "squeeze"),
        *("unsqueeze", "pad", "max_pool2d", "adaptive_max_pool2d", "dropout", "index_select", "expand", "clone"),
        *("channel_shuffle", "narrow", "size", "getattr", "detach", "to", "float", "stochastic_depth"),
    )
)


class _Tracer(fx.Tracer):
    """Leaves whole what chooses by mode, and shortcuts that know their own channels."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = hasattr(m, "prune_output_channels") or type(m).__name__ == "StochasticDepth"
        return whole or super().is_leaf_module(m, module_qualified_name)


def needs_activation_quantizers(plan: TrialPlan) -> bool:
    """Whether any layer's output is planned below float."""
    return any(layer.activation_bits < FLOAT_BITS for layer in plan.layers.values())


def insert_activation_quantizers(model: nn.Module, plan: TrialPlan, example: Tensor) -> nn.Module:
    """`model` as a GraphModule over the same modules, with an `ActivationQuantizer` wherever the plan asks for one.

    Bits are those planned for the layer before: for a chain its own layer, for a sum or pool the nearest layer
    upstream. Names are ``activation_quantizers.<node>``, a function of the architecture alone, so a second model of it
    gets the same ones. The graph is traced in eval mode. A plan without activation bits gives `model` back.

    Args:
        model: FX-traceable; its modes are left as they were.
        plan: Planned activation bits; 32 leaves a layer's output float.
        example: (1, C, H, W) on the model's device.

    Raises:
        ModelError: torch.fx cannot trace the model.
    """
    if not needs_activation_quantizers(plan):
        return model
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        graph_module = _trace(model, example)
        _insert(graph_module, plan)
    finally:
        for module, training in modes.items():
            module.training = training
    graph_module.training = model.training
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(PREFIX):
            graph_module.get_submodule(str(node.target)).to(example.device).train(model.training)
    return graph_module


def _trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    try:
        graph_module = fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
        _restore_dropout(graph_module)
        with torch.no_grad():
            ShapeProp(graph_module).propagate(example)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"`model` must be traceable by torch.fx to quantize activations; found: {reason}") from error
    return graph_module


def _restore_dropout(graph_module: fx.GraphModule) -> None:
    # tracing in eval mode turned functional dropout off for good; a module follows the mode again
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is F.dropout:
            probability = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            graph_module.add_submodule(f"dropout.{node.name}", nn.Dropout(probability))
            with graph_module.graph.inserting_before(node):
                module = graph_module.graph.call_module(
                    f"dropout.{node.name}", (node.args[0] if node.args else node.kwargs["input"],)
                )
            node.replace_all_uses_with(module)
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def _insert(graph_module: fx.GraphModule, plan: TrialPlan) -> None:
    _split_gates(graph_module, plan)
    nodes = list(graph_module.graph.nodes)
    sources = _sources(graph_module, nodes)
    outputs = _output_chain(graph_module, nodes)
    for node in nodes:
        if not _is_float_tensor(node):
            continue
        source = sources[node]
        if source is None:
            consumers = [user for user in node.users if _is_layer(graph_module, user)]
            bits = [plan.layer(str(user.target)).activation_bits for user in consumers]
            if bits and min(bits) < FLOAT_BITS:
                _insert_after(graph_module, node, FULL_BITS, str(consumers[0].target))
        elif node not in outputs and _changes_values(graph_module, node) and not _is_absorbed(graph_module, node):
            bits_after = plan.layer(source).activation_bits
            if bits_after < FLOAT_BITS:
                inner = node.meta.get("gate", False) or _feeds_activation(graph_module, node)
                _insert_after(graph_module, node, FULL_BITS if inner else bits_after, source)
    graph_module.graph.lint()
    graph_module.recompile()


def _insert_after(graph_module: fx.GraphModule, node: fx.Node, bits: int, source: str) -> None:
    target = f"{PREFIX}.{node.name}"
    graph_module.add_submodule(target, ActivationQuantizer(bits, source=source))
    with graph_module.graph.inserting_after(node):
        quantized = graph_module.graph.call_module(target, (node,))
    node.replace_all_uses_with(quantized, delete_user_cb=lambda user: user is not quantized)


def _split_gates(graph_module: fx.GraphModule, plan: TrialPlan) -> None:
    """SiLU and Hardswish as a product, where the layer before is quantized."""
    sources = _sources(graph_module, list(graph_module.graph.nodes))
    for node, source in sources.items():
        kind = type(_module(graph_module, node)) if node.op == "call_module" else node.target
        if kind not in GATED or source is None or plan.layer(source).activation_bits == FLOAT_BITS:
            continue
        graph, outputs = graph_module.graph, node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_before(node):
            # names of their own, so that no other node's name depends on the plan
            gate = graph.create_node("call_function", GATED[kind], (outputs,), name=f"{node.name}_gate")
            product = graph.create_node("call_function", operator.mul, (outputs, gate), name=f"{node.name}_product")
        gate.meta, product.meta = {**node.meta, "gate": True}, dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def _sources(graph_module: fx.GraphModule, nodes: list[fx.Node]) -> dict[fx.Node, str | None]:
    """For each node the nearest layer upstream, the latest of them where several meet."""
    position: dict[fx.Node, int] = {}
    layer_at: dict[int, str] = {}
    for index, node in enumerate(nodes):
        if _is_layer(graph_module, node):
            position[node] = index
            layer_at[index] = str(node.target)
        else:
            position[node] = max((position[parent] for parent in node.all_input_nodes), default=-1)
    return {node: layer_at.get(index) for node, index in position.items()}


def _output_chain(graph_module: fx.GraphModule, nodes: list[fx.Node]) -> set[fx.Node]:
    """Nodes whose values reach the output without another layer, sum or activation: they stay float."""
    chain: set[fx.Node] = set()
    for node in reversed(nodes):
        users = list(node.users)
        if users and all(
            user.op == "output" or (user in chain and _keeps_logits(graph_module, user)) for user in users
        ):
            chain.add(node)
    return chain


def _keeps_logits(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return not _is_layer(graph_module, node) and not _is_activation(graph_module, node) and _kind(node) not in _SUMS


_SUMS = frozenset({"add", "iadd", "add_", "mul", "imul", "cat", "concat", "sub", "truediv"})


def _is_absorbed(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """The node's only user completes its chain, so the quantizer belongs behind that one."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    if _is_batch_norm(graph_module, user):
        return _is_layer(graph_module, node)
    return _is_clipping(graph_module, user) and not _is_activation(graph_module, node)


def _feeds_activation(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Nothing but an activation (and the product that it gates) reads the node, so its values go no further."""
    if _is_activation(graph_module, node):
        return False
    gated = {product for user in node.users if user.meta.get("gate") for product in user.users}
    return bool(node.users) and all(_is_activation(graph_module, user) or user in gated for user in node.users)


def _changes_values(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    computes = node.op in ("call_module", "call_function", "call_method")
    return computes and not keeps_grid(graph_module, node)


def keeps_grid(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` only moves its input's values or takes their maximum, so that they stay on a quantizer's grid."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        moves = isinstance(module, MOVING_MODULES) or hasattr(module, "prune_output_channels")
        return moves or type(module).__name__ == "StochasticDepth"
    return node.op in ("call_function", "call_method") and _kind(node) in MOVING_NAMES


def _kind(node: fx.Node) -> str:
    target: str | Callable[..., Any] = node.target
    if isinstance(target, str):
        return target.rstrip("_") if node.op == "call_method" else target
    return getattr(target, "__name__", str(target))


def _module(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_layer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_module(graph_module, node), LAYERS)


def _is_batch_norm(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_module(graph_module, node), BATCH_NORMS)


def _is_activation(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_module(graph_module, node), ACTIVATION_MODULES)
    return node.op in ("call_function", "call_method") and _kind(node).rstrip("_") in ACTIVATION_NAMES


def _is_clipping(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_module(graph_module, node), CLIPPING_MODULES)
    return node.op in ("call_function", "call_method") and _kind(node).rstrip("_") in CLIPPING_NAMES


def _is_float_tensor(node: fx.Node) -> bool:
    meta = node.meta.get("tensor_meta")
    dtype = getattr(meta, "dtype", None)
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point
