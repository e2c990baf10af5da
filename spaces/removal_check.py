"""Which convolutions can lose filters exactly: taking channels out of a copy gives what zeroing them gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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

__all__ = ["prunable_convolutions"]

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
    exact = _exact([members[0] for members in candidates.values()], model, example)
    return groups, frozenset(name for members in candidates.values() if members[0] in exact for name in members)


def _removable(group: Any) -> bool:
    """No unknown operation, no output of the model, no grouped convolution, one width throughout."""
    if group is None:
        return False
    targets = [dependency.target.module for dependency, _ in group]
    if any(isinstance(t, nn.Parameter | torch_pruning.ops._OutputOp) for t in targets):
        return False
    if any(is_grouped(t) and not _is_depthwise(t) for t in targets):
        return False
    convolutions = [module for module in producers(group) if isinstance(module, nn.Conv2d)]
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
    """Removing channels of all `names` differs from masking them by nothing, measured by what masking changes."""
    whole = _with_lively_parameters(model)
    masked, removed = copy.deepcopy(whole), copy.deepcopy(whole)
    example = example.double()
    try:
        masked_graph, removed_graph = dependency_graph(masked, example), dependency_graph(removed, example)
        with torch.no_grad():
            for name in names:
                convolution, pruned = masked.get_submodule(name), removed.get_submodule(name)
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(pruned, nn.Conv2d)
                channels = [1, convolution.out_channels // 2] if convolution.out_channels >= 4 else [0]
                if convolution.out_channels == 1:
                    return False
                _mask(channel_group(masked_graph, convolution, channels))
                channel_group(removed_graph, pruned, channels).prune(record_history=False)
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


def _mask(group: Any) -> None:
    """Zero what `group` would remove: filters and biases, norms' scales and shifts, the outputs of shortcuts."""
    graph = group._DG
    for dependency, channels in group:
        module = dependency.target.module
        produces = graph.is_out_channel_pruning_fn(dependency.handler)
        if (isinstance(module, nn.Conv2d | nn.Linear) and produces) or isinstance(module, nn.BatchNorm2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter[channels] = 0.0
        elif produces and hasattr(module, "prune_output_channels"):
            module.register_forward_hook(_silencing(channels))


def _silencing(channels: Sequence[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def silence(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(1, torch.tensor(channels, device=output.device), 0.0)

    return silence
