"""From a plan's filter pruning to masks over channel groups: which groups there are, and what each of them deviates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..spaces.coupling import dependency_graph
from ..spaces.layers import LayerInfo
from ..spaces.plan import LayerPlan, TrialPlan
from .masks import filter_mask
from .pruning import GroupMask
from .removal import ChannelGroup, channel_group

__all__ = ["channel_groups", "group_mask", "prunes_filters"]


def prunes_filters(plan: LayerPlan) -> bool:
    """Whether the layer is to lose whole filters."""
    pruning = plan.pruning
    return pruning is not None and pruning.structure == "filter" and (pruning.sparsity > 0.0 or plan.learned)


def channel_groups(
    model: nn.Module, plan: TrialPlan, layers: Sequence[LayerInfo], example: Tensor
) -> list[ChannelGroup]:
    """The groups of all layers that are to lose filters, each once, led by its first such layer.

    Args:
        model: Plain; its modes are left as they are.
        plan: What is planned for each layer.
        layers: In forward order.
        example: (1, C, H, W) on the model's device.
    """
    planned = [layer.name for layer in layers if prunes_filters(plan.layer(layer.name))]
    if not planned:
        return []
    modes = {module: module.training for module in model.modules()}
    graph = dependency_graph(model.eval(), example)
    groups: list[ChannelGroup] = []
    covered: set[str] = set()
    for name in planned:
        if name not in covered:
            groups.append(channel_group(graph, model, name))
            covered |= {member.name for member in groups[-1].layers}
    for module, training in modes.items():
        module.training = training
    return groups


def group_mask(
    model: nn.Module, plan: TrialPlan, group: ChannelGroup, deviations: list[str], round_to: int
) -> GroupMask:
    """The magnitude mask of one group, put on `model`; it takes the leader's plan, and notes who planned otherwise."""
    leading = plan.layer(group.leader).pruning
    assert leading is not None
    sparsity = leading.sparsity
    scored = {member.name for member in group.layers if prunes_filters(plan.layer(member.name))}
    for member in group.layers:
        module = model.get_submodule(member.name)
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        pruning = plan.layer(member.name).pruning
        planned = pruning.sparsity if pruning is not None and member.name in scored else 0.0
        why = f"as its channels are those of {group.leader}"
        if not depthwise and planned != sparsity:
            deviations.append(f"{member.name}: filter sparsity {sparsity:g} instead of {planned:g}, {why}")
        elif pruning is not None and member.name in scored and pruning.scope != leading.scope:
            deviations.append(f"{member.name}: scope {leading.scope} instead of {pruning.scope}, {why}")
    planned_count, kept = (
        int(filter_mask(torch.ones(group.channels), sparsity, round_to=to).sum()) for to in (1, round_to)
    )
    if kept != planned_count and leading.scope == "layer":
        deviations.append(f"{group.leader}: {kept} filters kept instead of {planned_count}, a multiple of {round_to}")
    return GroupMask(model, group, scored, sparsity, round_to, scope=leading.scope)
