"""Which convolutions can lose filters exactly: taking channels out of a copy gives what zeroing them gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
            _zero(channel_group(masked_graph, convolution, channels))
            group = channel_group(removed_graph, removed.get_submodule(name), channels)  # type: ignore[arg-type]
            try:
                group.prune(record_history=False)
            except UNTRACEABLE:
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
