"""Which layers must lose the same channels: residual sums, seen through Torch-Pruning's dependency graph.

Removal is only offered where it is exact: a group counts as prunable when taking channels out of a copy of the model
gives what zeroing them gives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from ..studies.errors import ModelError
from ..studies.seeds import Seed

__all__ = ["dependency_graph", "output_groups", "prunable_convolutions"]


# what Torch-Pruning 1.6 raises on operations that it does not know
_UNTRACEABLE = (
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
                example_inputs=traced,
                customized_pruners={type(module): _IndexMapPruner() for module in own},
                verbose=False,
            )
    except _UNTRACEABLE as error:
        raise ModelError(f"the channels of {type(model).__name__} cannot be traced by Torch-Pruning: {error}") from error
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
    return _output_groups(model, _couplings(dependency_graph(model, example), model))


def prunable_convolutions(model: nn.Module, example: Tensor) -> tuple[dict[str, str | None], frozenset[str]]:
    """`output_groups`, and the names of the convolutions whose output channels can be removed exactly.

    Left out are depthwise and grouped convolutions, those that feed the output, those coupled with layers of another
    width, and whatever Torch-Pruning does not remove exactly (layer norms, channel shuffles). A model that it cannot
    follow at all has neither groups nor prunable convolutions.
    """
    try:
        couplings = _couplings(dependency_graph(model, example), model)
    except ModelError:
        return {name: None for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}, frozenset()
    groups = _output_groups(model, couplings)
    sets: dict[str, list[str]] = {}
    for name in couplings:
        if not _is_grouped(model.get_submodule(name)):
            sets.setdefault(groups[name] or name, []).append(name)
    candidates = {key: members for key, members in sets.items() if all(_removable(couplings[m]) for m in members)}
    exact = _exact([members[0] for members in candidates.values()], model, example)
    return groups, frozenset(name for members in candidates.values() if members[0] in exact for name in members)


def _prunes_itself(module: nn.Module) -> bool:
    return all(callable(getattr(module, name, None)) for name in ("prune_input_channels", "prune_output_channels"))


@contextmanager
def _as_one_operation(modules: Sequence[nn.Module]) -> Iterator[None]:
    def hidden(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: _OneOperation.apply(x, forward)

    for module in modules:
        module.forward = hidden(module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def _couplings(graph: torch_pruning.DependencyGraph, model: nn.Module) -> dict[str, Any]:
    """Torch-Pruning's group for all output channels of each convolution, None where it cannot make one."""
    couplings: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module in graph.module2node:
            couplings[name] = _group(graph, module, range(module.out_channels))
    return couplings


def _group(graph: torch_pruning.DependencyGraph, module: nn.Conv2d, channels: Sequence[int]) -> Any:
    try:
        return graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, list(channels))
    except _UNTRACEABLE:
        return None  # an operation that Torch-Pruning does not know; the layer keeps its channels


def _producers(group: Any) -> list[nn.Module]:
    """Layers that lose output channels in `group`, without the depthwise ones, which only pass channels on."""
    graph = group._DG
    found: list[nn.Module] = []
    for dependency, _ in group:
        module = dependency.target.module
        produces = isinstance(module, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(dependency.handler)
        if produces and not _is_grouped(module) and not any(module is other for other in found):
            found.append(module)
    return found


def _output_groups(model: nn.Module, couplings: Mapping[str, Any]) -> dict[str, str | None]:
    names = {module: name for name, module in model.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    leader = {name: name for name in names.values()}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    coupled = set()
    for group in couplings.values():
        members = [names[module] for module in _producers(group)] if group is not None else []
        if len(members) < 2:
            continue
        coupled.update(members)
        first = min((root(member) for member in members), key=order.__getitem__)
        for member in members:
            leader[root(member)] = first
    result: dict[str, str | None] = {}
    for name, group in couplings.items():
        members = [names[module] for module in _producers(group)] if group is not None else []
        result[name] = next((root(member) for member in members if member in coupled), None)
    return result


def _removable(group: Any) -> bool:
    """No unknown operation, no output of the model, no grouped convolution, one width throughout."""
    if group is None:
        return False
    targets = [dependency.target.module for dependency, _ in group]
    if any(isinstance(t, nn.Parameter | torch_pruning.ops._OutputOp) for t in targets):
        return False
    if any(_is_grouped(t) and not _is_depthwise(t) for t in targets):
        return False
    producers = _producers(group)
    convolutions = [module for module in producers if isinstance(module, nn.Conv2d)]
    return len({module.out_channels for module in convolutions}) == 1


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _exact(names: Sequence[str], model: nn.Module, example: Tensor) -> set[str]:
    """Those of `names` whose removal equals masking, found by halving where all at once fails."""
    if not names:
        return set()
    if _removal_is_exact(names, model, example):
        return set(names)
    if len(names) == 1:
        return set()
    half = len(names) // 2
    return _exact(names[:half], model, example) | _exact(names[half:], model, example)


def _removal_is_exact(names: Sequence[str], model: nn.Module, example: Tensor) -> bool:
    masked = _with_lively_parameters(model)
    removed = copy.deepcopy(masked)
    masked_graph, removed_graph = dependency_graph(masked, example), dependency_graph(removed, example)
    with torch.no_grad():
        for name in names:
            convolution = masked.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            channels = [1, convolution.out_channels // 2] if convolution.out_channels >= 4 else [0]
            if convolution.out_channels == 1:
                return False
            _zero(_group(masked_graph, convolution, channels))
            group = _group(removed_graph, removed.get_submodule(name), channels)  # type: ignore[arg-type]
            try:
                group.prune(record_history=False)
            except _UNTRACEABLE:
                return False
        try:
            expected, found = masked(example), removed(example)
        except (RuntimeError, ValueError):
            return False
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        return False
    return bool(torch.allclose(expected, found, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))


def _with_lively_parameters(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose vectors (norm scales, biases) are drawn anew, so that no channel is silent."""
    lively = copy.deepcopy(model).eval()
    generator = Seed(0).child("lively parameters").torch()
    with torch.no_grad():
        for parameter in lively.parameters():
            if parameter.ndim <= 1 or not parameter.any():
                drawn = torch.rand(parameter.shape, generator=generator) * 0.5 + 0.5
                parameter.copy_(drawn if parameter.ndim <= 1 else (drawn - 0.75) / parameter[0].numel() ** 0.5)
    return lively


def _zero(group: Any) -> None:
    graph = group._DG
    for dependency, channels in group:
        module = dependency.target.module
        produces = isinstance(module, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(dependency.handler)
        if produces or isinstance(module, nn.BatchNorm2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter[channels] = 0.0
