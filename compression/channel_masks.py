"""From a plan's filter pruning to masks over channel groups: which groups there are, and what each of them deviates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..spaces.coupling import dependency_graph
from ..spaces.layers import LayerInfo
from ..spaces.plan import LayerPlan, Pruning, TrialPlan
from .masks import filter_mask
from .pruning import GroupMask
from .removal import ChannelGroup, Removed, channel_group

__all__ = ["channel_groups", "coupled_deviations", "group_mask", "lost_channels", "prunes_filters"]


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

    Raises:
        ModelError: The model's channels cannot be followed, or pass through a normalisation over several of them.
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


def coupled_deviations(model: nn.Module, plan: TrialPlan, group: ChannelGroup) -> list[str]:
    """One line for each layer of the group whose plan for its filters is not the leader's, which holds for them all.

    Depthwise layers have no channels of their own to plan, and are left out.
    """
    leading = _of_filters(plan.layer(group.leader))
    lines = []
    for member in group.layers:
        module = model.get_submodule(member.name)
        differences = _differences(leading, _of_filters(plan.layer(member.name)))
        if differences and not (isinstance(module, nn.Conv2d) and module.groups > 1):
            lines.append(f"{member.name}: {differences}, as its channels are those of {group.leader}")
    return lines


def _of_filters(plan: LayerPlan) -> Pruning:
    return plan.pruning if plan.pruning is not None and prunes_filters(plan) else Pruning(0.0, "filter")


def _differences(leading: Pruning, planned: Pruning) -> str:
    if leading.mask != planned.mask:
        return " instead of ".join(
            "a learned mask" if one.mask == "learned" else f"filter sparsity {one.sparsity:g}"
            for one in (leading, planned)
        )
    if leading.mask == "learned":
        parts = {"target": "target", "strength": "strength", "cost": "cost"}
    else:
        # a layer that plans no filters to go has no scope either
        parts = {"sparsity": "filter sparsity", **({"scope": "scope"} if planned.sparsity else {})}
    pairs = [(name, getattr(leading, part), getattr(planned, part)) for part, name in parts.items()]
    return ", ".join(
        f"{name} {_text(ours)} instead of {_text(theirs)}" for name, ours, theirs in pairs if ours != theirs
    )


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def lost_channels(groups: Sequence[ChannelGroup], removed: Removed) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Which channels go with `removed`.

    Args:
        groups: All channel groups that may lose some.
        removed: Each group's leader, and its output channels that go.

    Returns:
        By layer its output channels, and by layer its input channels, as indices into its weight's first and second
        dimension.
    """
    gone = {leader: set(indices) for leader, indices in removed}
    outputs: dict[str, set[int]] = {}
    inputs: dict[str, set[int]] = {}
    for group in groups:
        off = gone.get(group.leader, set())
        for found, members in ((outputs, group.layers), (inputs, group.consumers)):
            for member in members:
                pairs = zip(member.own, member.root, strict=True)
                found.setdefault(member.name, set()).update(own for own, root in pairs if root in off)
    return outputs, inputs


def group_mask(
    model: nn.Module, plan: TrialPlan, group: ChannelGroup, deviations: list[str], round_to: int
) -> GroupMask:
    """The magnitude mask of one group, put on `model`; it takes the leader's plan.

    Args:
        model: Plain or masked.
        plan: What is planned for each layer.
        group: Channels that go together, and whose leader loses filters by magnitude.
        deviations: Gets a line where rounding keeps another number than planned.
        round_to: Channels are kept in multiples of this, as far as there are.

    Raises:
        ModelError: A batch norm of the group has no weights to mask.
    """
    leading = plan.layer(group.leader).pruning
    assert leading is not None
    sparsity = leading.sparsity
    scored = {member.name for member in group.layers if prunes_filters(plan.layer(member.name))}
    planned_count, kept = (
        int(filter_mask(torch.ones(group.channels), sparsity, round_to=to).sum()) for to in (1, round_to)
    )
    if kept != planned_count and leading.scope == "layer":
        deviations.append(f"{group.leader}: {kept} filters kept instead of {planned_count}, a multiple of {round_to}")
    return GroupMask(model, group, scored, sparsity, round_to, scope=leading.scope)
