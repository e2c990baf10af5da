"""Which layers must lose the same channels: residual sums, seen through Torch-Pruning's dependency graph.

A parameter-free module that moves channels (an option-A shortcut) joins the graph by pruning itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from ..studies.errors import ModelError

__all__ = [
    "UNTRACEABLE",
    "channel_group",
    "convolution_groups",
    "dependency_graph",
    "is_grouped",
    "names_of_groups",
    "output_groups",
    "producers",
]

# what Torch-Pruning 1.6 raises on operations that it does not know
UNTRACEABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _OneOperation(torch.autograd.Function):
    """A module's forward as a single node of the autograd graph, which is what Torch-Pruning traces."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        return forward(x).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("this graph is only walked, never differentiated")


class _IndexMapPruner(torch_pruning.BasePruningFunc):
    """Hands channel removal to the module itself; its two sides are independent."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        layer.prune_output_channels(list(idxs))  # type: ignore[operator]
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        layer.prune_input_channels(list(idxs))  # type: ignore[operator]
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return int(layer.out_channels)  # type: ignore[arg-type]

    def get_in_channels(self, layer: nn.Module) -> int:
        return int(layer.in_channels)  # type: ignore[arg-type]


def dependency_graph(model: nn.Module, example: Tensor) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's graph of `model`, for `get_pruning_group(conv, prune_conv_out_channels, indices)`.

    A module with the methods ``prune_input_channels(indices)`` and ``prune_output_channels(indices)`` and the
    attributes ``in_channels`` and ``out_channels`` prunes itself. The model's mode (training or not) is left as it was.

    Args:
        model: The model; it must not be parametrized.
        example: An input (1, C, H, W) on the model's device.

    Raises:
        ModelError: Torch-Pruning cannot follow the channels of this model.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    own = [module for module in modules if _prunes_itself(module)]
    traced = example.detach().clone().requires_grad_(not any(p.requires_grad for p in model.parameters()))
    try:
        with torch.enable_grad(), _as_one_operation(own), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its remarks on plain ops are not for our users
            return torch_pruning.DependencyGraph().build_dependency(
                model,
                example_inputs=[traced],  # a bare tensor would be unpacked along the batch
                customized_pruners={type(module): _IndexMapPruner() for module in own},
                verbose=False,
            )
    except UNTRACEABLE as error:
        raise ModelError(
            f"the channels of {type(model).__name__} cannot be traced by Torch-Pruning: {error}"
        ) from error
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def output_groups(model: nn.Module, example: Tensor) -> dict[str, str | None]:
    """The coupling group of each convolution's output channels.

    Convolutions whose outputs meet in a sum (or a channel-wise product) share a group, named after its first member in
    module order; a depthwise convolution carries its producer's group. None: free of any other layer.

    Args:
        model: The model.
        example: An input (1, C, H, W) on the model's device.
    """
    return names_of_groups(model, convolution_groups(dependency_graph(model, example), model))


def _prunes_itself(module: nn.Module) -> bool:
    return all(callable(getattr(module, name, None)) for name in ("prune_input_channels", "prune_output_channels"))


@contextmanager
def _as_one_operation(modules: Sequence[nn.Module]) -> Iterator[None]:
    def hidden(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: _OneOperation.apply(x, forward)

    for module in modules:
        module.forward = hidden(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def is_grouped(module: nn.Module) -> bool:
    """It is a grouped convolution, depthwise ones included."""
    return isinstance(module, nn.Conv2d) and module.groups > 1


def convolution_groups(graph: torch_pruning.DependencyGraph, model: nn.Module) -> dict[str, Any]:
    """Torch-Pruning's group for all output channels of each convolution, None where it cannot make one."""
    couplings: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module in graph.module2node:
            couplings[name] = channel_group(graph, module, range(module.out_channels))
    return couplings


def channel_group(graph: torch_pruning.DependencyGraph, module: nn.Conv2d, channels: Sequence[int]) -> Any:
    """Everything that loses channels when `module` loses the output `channels`; None where that is unknown."""
    try:
        return graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, list(channels))
    except UNTRACEABLE:
        return None  # an operation that Torch-Pruning does not know; the layer keeps its channels


def producers(group: Any) -> list[nn.Module]:
    """Layers that lose output channels in `group`, without the depthwise ones, which only pass channels on."""
    graph = group._DG
    found: list[nn.Module] = []
    for dependency, _ in group:
        module = dependency.target.module
        produces = isinstance(module, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(dependency.handler)
        if produces and not is_grouped(module) and not any(module is other for other in found):
            found.append(module)
    return found


def names_of_groups(model: nn.Module, couplings: Mapping[str, Any]) -> dict[str, str | None]:
    """The result of `output_groups`, from what `convolution_groups` gave: groups that share a producer are one."""
    names = {module: name for name, module in model.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    leader = {name: name for name in names.values()}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    coupled = set()
    for group in couplings.values():
        members = [names[module] for module in producers(group)] if group is not None else []
        if len(members) < 2:
            continue
        coupled.update(members)
        first = min((root(member) for member in members), key=order.__getitem__)
        for member in members:
            leader[root(member)] = first
    result: dict[str, str | None] = {}
    for name, group in couplings.items():
        members = [names[module] for module in producers(group)] if group is not None else []
        result[name] = next((root(member) for member in members if member in coupled), None)
    return result
