"""Which convolutions can lose filters exactly: taking channels out of a copy gives what zeroing them gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from ..studies.errors import ModelError
from ..studies.seeds import Seed
from .coupling import (
    UNTRACEABLE,
    channel_group,
    convolution_groups,
    dependency_graph,
    is_grouped,
    names_of_groups,
    producers,
)

__all__ = ["BATCH_NORMS", "OTHER_NORMS", "prunable_convolutions"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)

# in double precision; relative to what masking itself changes in the output
_TOLERANCE = 1e-6


def prunable_convolutions(model: nn.Module, example: Tensor) -> tuple[dict[str, str | None], frozenset[str]]:
    """`output_groups`, and the names of the convolutions whose output channels can be removed exactly.

    Left out are depthwise and grouped convolutions, those that feed the output, those coupled with layers of another
    width, and whatever Torch-Pruning does not remove exactly (layer norms, channel shuffles). A model that it cannot
    follow at all has neither groups nor prunable convolutions.
    """
    try:
        couplings = convolution_groups(dependency_graph(model, example), model)
    except ModelError:
        return {name: None for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}, frozenset()
    groups = names_of_groups(model, couplings)
    sets: dict[str, list[str]] = {}
    for name in couplings:
        if not is_grouped(model.get_submodule(name)):
            sets.setdefault(groups[name] or name, []).append(name)
    candidates = {key: members for key, members in sets.items() if all(_removable(couplings[m]) for m in members)}
    exact = _exact({members[0]: couplings[members[0]] for members in candidates.values()}, model, example)
    return groups, frozenset(name for members in candidates.values() if members[0] in exact for name in members)


def _removable(group: Any) -> bool:
    """No unknown operation, no output of the model, no grouped convolution, one width throughout."""
    if group is None:
        return False
    targets = [dependency.target.module for dependency, _ in group]
    if any(isinstance(t, nn.Parameter | torch_pruning.ops._OutputOp) for t in targets):
        return False
    if any(isinstance(t, OTHER_NORMS) or (isinstance(t, BATCH_NORMS) and not t.affine) for t in targets):
        return False  # what such a norm makes of a channel of zeros cannot be masked
    if any(is_grouped(t) and not _is_depthwise(t) for t in targets):
        return False
    convolutions = [module for module in producers(group) if isinstance(module, nn.Conv2d)]
    return len({module.out_channels for module in convolutions}) == 1


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _exact(groups: Mapping[str, Any], model: nn.Module, example: Tensor) -> set[str]:
    """Names of the convolutions whose removal equals masking, found by halving where all at once fails."""
    if not groups:
        return set()
    if _removal_is_exact(groups, model, example):
        return set(groups)
    if len(groups) == 1:
        return set()
    items, half = list(groups.items()), len(groups) // 2
    return _exact(dict(items[:half]), model, example) | _exact(dict(items[half:]), model, example)


def _removal_is_exact(groups: Mapping[str, Any], model: nn.Module, example: Tensor) -> bool:
    """Removing channels of all `groups` differs from masking them by nothing, measured by what masking changes."""
    whole = _with_lively_parameters(model)
    masked, removed = copy.deepcopy(whole), copy.deepcopy(whole)
    masked_modules = dict(zip(model.modules(), masked.modules(), strict=True))
    example = example.double()
    try:
        graph = dependency_graph(removed, example)
        with torch.no_grad():
            for name, group in groups.items():
                convolution = removed.get_submodule(name)
                assert isinstance(convolution, nn.Conv2d)
                if convolution.out_channels == 1:
                    return False
                channels = [1, convolution.out_channels // 2] if convolution.out_channels >= 4 else [0]
                _mask(group, channels, masked_modules)
                channel_group(graph, convolution, channels).prune(record_history=False)
            before, expected, found = whole(example), masked(example), removed(example)
    except (ModelError, *UNTRACEABLE):
        return False
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * (before - expected).abs().max())


def _with_lively_parameters(model: nn.Module) -> nn.Module:
    """A copy in double precision and evaluation mode whose vectors (norm scales, biases) let every channel speak."""
    lively = copy.deepcopy(model).eval().double()
    generator = Seed(0).child("lively parameters").torch()
    with torch.no_grad():
        for parameter in lively.parameters():
            if parameter.ndim <= 1 or not parameter.any():
                drawn = torch.rand(parameter.shape, generator=generator) * 0.5 + 0.5
                parameter.copy_(drawn if parameter.ndim <= 1 else (drawn - 0.75) / parameter[0].numel() ** 0.5)
    return lively


def _mask(group: Any, channels: Sequence[int], modules: Mapping[nn.Module, nn.Module]) -> None:
    """Zero what the loss of `channels` takes with it: filters and biases, norms, the outputs of shortcuts.

    Args:
        group: Torch-Pruning's group for all channels of a convolution.
        channels: Channels of that convolution.
        modules: Where each of the group's modules is in the model to mask.
    """
    graph = group._DG
    for item in group:
        own = [index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in channels]
        if item.dep.target.module not in modules or not own:
            continue
        module = modules[item.dep.target.module]
        produces = graph.is_out_channel_pruning_fn(item.dep.handler)
        if (isinstance(module, nn.Conv2d | nn.Linear) and produces) or isinstance(module, nn.BatchNorm2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter[own] = 0.0
        elif produces and hasattr(module, "prune_output_channels"):
            module.register_forward_hook(_silencing(own))


def _silencing(channels: Sequence[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def silence(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(1, torch.tensor(channels, device=output.device), 0.0)

    return silence
