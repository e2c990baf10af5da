"""How many channels every layer keeps under a plan: the counts of `compression.attach`, without weights or masks.

Which channels go depends on the weights, but how many does not: filters are chosen by rank, and what goes with each of
them (coupled layers, consumers' inputs) is the same for every channel of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..compression.channel_masks import prunes_filters
from ..compression.masks import removed_count
from ..compression.removal import ChannelGroup, Member, channel_group
from ..spaces.coupling import dependency_graph
from ..spaces.layers import LayerInfo
from ..spaces.plan import Pruning, TrialPlan

__all__ = ["ChannelCounts", "ChannelModel", "LeadingGroup", "kept_channels"]


def kept_channels(channels: int, sparsity: float, round_to: int) -> int:
    """How many of a group's channels `compression.masks.filter_mask` keeps, at least one."""
    kept = max(1, channels - removed_count(channels, sparsity))
    return min(channels, -(-kept // round_to) * round_to)


@dataclass(frozen=True)
class LeadingGroup:
    """What a layer loses with each channel of its group.

    Args:
        channels: Channels of the group.
        covered: Names of the layers that lose outputs.
        outputs: (L,) outputs that each layer loses with one channel.
        inputs: (L,) inputs, likewise.
        norms: Values of batch norms that go with one channel.
        uniform: Every channel takes as much with it as any other; else the figures are means.
    """

    channels: int
    covered: frozenset[str]
    outputs: NDArray[np.float64]
    inputs: NDArray[np.float64]
    norms: float
    uniform: bool


@dataclass(frozen=True)
class ChannelCounts:
    """What is left of every layer.

    Args:
        outputs: (L,) kept output channels.
        inputs: (L,) kept input channels of a filter, as in the weight's second dimension.
        kept_weights: (L,) share of the surviving weights that no mask takes.
        norms: Channels of batch norms that went.
        exact: Outputs and inputs are as they will be; else training decides, and they are an estimate.
    """

    outputs: NDArray[np.float64]
    inputs: NDArray[np.float64]
    kept_weights: NDArray[np.float64]
    norms: float
    exact: bool


class ChannelModel:
    """Channel groups of one model, and what plans leave of them.

    Args:
        model: Plain.
        layers: Its layers in forward order.
        example: (1, C, H, W).
        round_to: Filters are kept in multiples of this.
    """

    def __init__(self, model: nn.Module, layers: Sequence[LayerInfo], example: Tensor, round_to: int = 1) -> None:
        self.layers, self.round_to = tuple(layers), round_to
        self.rows = {layer.name: row for row, layer in enumerate(layers)}
        self.dense_outputs = np.array([layer.weight_shape[0] for layer in layers], dtype=np.float64)
        self.dense_inputs = np.array([layer.weight_shape[1] for layer in layers], dtype=np.float64)
        self.macs = np.array([layer.macs for layer in layers], dtype=np.float64)
        self.weights = np.array([float(np.prod(layer.weight_shape)) for layer in layers])
        # each weight serves every output position once, and removal leaves positions as they are
        self._positions = self.macs / (self.dense_outputs * self.dense_inputs)
        self._kernels = self.weights / (self.dense_outputs * self.dense_inputs)
        self._depthwise = np.array([layer.kind == "depthwise" for layer in layers])
        self._model, self._example = model, example
        self._groups: dict[str, LeadingGroup] = {}

    def counts(self, plan: TrialPlan) -> ChannelCounts:
        """What `plan` leaves of every layer."""
        groups = self._led(plan)
        if any(plan.layer(layer.name).learned for layer in self.layers):
            return self._learned(plan, groups)
        return self._at(plan, groups, 1.0)

    def macs_left(self, counts: ChannelCounts) -> NDArray[np.float64]:
        """(L,) multiply-accumulates of one image in each layer."""
        return self._positions * counts.outputs * counts.inputs

    def weights_left(self, counts: ChannelCounts) -> NDArray[np.float64]:
        """(L,) weights of the surviving channels, masked ones included."""
        return self._kernels * counts.outputs * counts.inputs

    def _led(self, plan: TrialPlan) -> list[tuple[LeadingGroup, Pruning]]:
        """The groups that lose channels, each with the plan of its first layer that is to lose some, which leads."""
        found, covered = [], set[str]()
        for layer in self.layers:
            own = plan.layer(layer.name)
            if layer.name not in covered and prunes_filters(own) and own.pruning is not None:
                group = self.group(layer.name)
                found.append((group, own.pruning))
                covered |= group.covered
        return found

    def _at(self, plan: TrialPlan, groups: Iterable[tuple[LeadingGroup, Pruning]], share: float) -> ChannelCounts:
        """What is left where learned masks keep `share` of their channels or weights."""
        outputs, inputs, norms, exact = self.dense_outputs.copy(), self.dense_inputs.copy(), 0.0, True
        for group, pruning in groups:
            if pruning.mask == "learned":
                gone, exact = group.channels * (1.0 - share), False
            else:
                gone = float(group.channels - kept_channels(group.channels, pruning.sparsity, self.round_to))
                exact = exact and pruning.scope == "layer"
            outputs -= group.outputs * gone
            inputs -= group.inputs * gone
            norms += group.norms * gone
            exact = exact and (group.uniform or not gone)
        inputs = np.where(self._depthwise, self.dense_inputs, inputs)
        kept = np.array([_kept_share(plan.layer(layer.name).pruning, layer, share) for layer in self.layers])
        return ChannelCounts(outputs, inputs, kept, norms, exact)

    def _learned(self, plan: TrialPlan, groups: Sequence[tuple[LeadingGroup, Pruning]]) -> ChannelCounts:
        """The plan at the share of channels and weights that meets its target, alike for all learned masks."""
        pruning = next(p for layer in self.layers if (p := plan.layer(layer.name).pruning) and p.mask == "learned")
        by_weights = pruning.cost == "parameters"
        left, total = (self.weights_left, self.weights.sum()) if by_weights else (self.macs_left, self.macs.sum())
        low, high = 0.0, 1.0
        for _ in range(20):
            share = (low + high) / 2
            counts = self._at(plan, groups, share)
            cost = float((left(counts) * counts.kept_weights).sum()) / total
            low, high = (low, share) if cost > (pruning.target or 1.0) else (share, high)
        return self._at(plan, groups, high)

    def group(self, leader: str) -> LeadingGroup:
        """The group that the convolution `leader` leads; found once."""
        if leader not in self._groups:
            self._groups[leader] = self._found(channel_group(self._graph, self._model, leader))
        return self._groups[leader]

    @cached_property
    def _graph(self) -> object:
        return dependency_graph(self._model.eval(), self._example)

    def _found(self, group: ChannelGroup) -> LeadingGroup:
        outputs, regular = self._losses(group.layers, group.channels)
        inputs, as_regular = self._losses(group.consumers, group.channels)
        norms = sum(len(set(member.own)) for member in group.norms) / group.channels
        covered = frozenset(member.name for member in group.layers)
        return LeadingGroup(group.channels, covered, outputs, inputs, norms, regular and as_regular)

    def _losses(self, members: Iterable[Member], channels: int) -> tuple[NDArray[np.float64], bool]:
        """(L,) channels that each layer loses with one of the group's, and whether it is as many with each."""
        pairs: dict[str, set[tuple[int, int]]] = {}
        for member in members:
            if member.name in self.rows:
                pairs.setdefault(member.name, set()).update(zip(member.own, member.root, strict=True))
        losses, regular = np.zeros(len(self.layers)), True
        for name, own in pairs.items():
            per_root = np.bincount([root for _, root in own], minlength=channels)
            losses[self.rows[name]] = len(own) / channels
            # a channel that goes with either of two others is not lost twice
            regular = regular and bool((per_root == per_root[0]).all()) and len({one for one, _ in own}) == len(own)
        return losses, regular


def _kept_share(pruning: Pruning | None, layer: LayerInfo, learned: float) -> float:
    """Share of a layer's surviving weights that its own mask keeps."""
    if pruning is None or pruning.structure == "filter":
        return 1.0
    if pruning.mask == "learned":
        return learned
    if pruning.pattern is not None and layer.weight_shape[1] < pruning.pattern[1]:
        return 1.0
    return 1.0 - pruning.sparsity
