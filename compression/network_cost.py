"""ψ of a network whose channels and weights are masked: kept inputs and outputs of every layer, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spaces.layers import LayerInfo
from .hardware_loss import LayerCosts, dense_channels
from .mask_units import MaskUnit
from .masks import WeightMask
from .pruning import GroupMask
from .removal import ChannelGroup

__all__ = ["NetworkCost"]


class NetworkCost:
    """The share of the dense network's cost that masks leave.

    Args:
        model: Holds the layers; masks by magnitude over their weights count too, unless the costs are of time.
        layers: All compressible layers.
        costs: What one layer costs.
        units: Trained masks.
        beside: Magnitude masks over other channel groups, as they are at each moment.
        count_weights: Whether single zeros save anything.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LayerInfo],
        costs: LayerCosts,
        units: Sequence[MaskUnit],
        beside: Sequence[GroupMask],
        *,
        count_weights: bool,
    ) -> None:
        self._costs, self._units, self._beside = costs, units, beside
        self._names = tuple(layer.name for layer in layers)
        self._modules = {layer.name: model.get_submodule(layer.name) for layer in layers} if count_weights else {}
        self._total = costs.overhead + sum(costs.dense_cost(layer.name) for layer in layers)
        rows = {layer.name: row for row, layer in enumerate(layers)}
        device = next(model.parameters()).device
        # by layer and channel: how many of its outputs, or inputs, go with the channel
        self._outputs, self._inputs = (
            [_counts(unit.group, rows, side, device) for unit in units] for side in ("layers", "consumers")
        )
        self._fixed = [
            tuple(_counts(mask.group, rows, side, device) for side in ("layers", "consumers")) for mask in beside
        ]
        dense = [dense_channels(layer) for layer in layers]
        self._dense_in, self._dense_out = (
            torch.tensor([pair[side] for pair in dense], dtype=torch.float32, device=device) for side in (0, 1)
        )
        self._depthwise = torch.tensor([layer.kind == "depthwise" for layer in layers], device=device)

    def share(self, masks: Sequence[Tensor]) -> Tensor:
        """ψ, 0-d, differentiable in the masks.

        Args:
            masks: For each unit 0 or 1, floating, in the shape of its scores.
        """
        outputs, inputs = self._dense_out, self._dense_in
        kept = dict(self._kept_weights())
        for unit, mask, out, into in zip(self._units, masks, self._outputs, self._inputs, strict=True):
            if unit.group is None:
                kept[unit.layer] = mask.mean()
            elif out is not None and into is not None:
                outputs, inputs = outputs - out @ (1.0 - mask), inputs - into @ (1.0 - mask)
        for magnitude, (out, into) in zip(self._beside, self._fixed, strict=True):
            gone = (~magnitude.keep).to(outputs.dtype)
            if out is not None and into is not None:
                outputs, inputs = outputs - out @ gone, inputs - into @ gone
        inputs = torch.where(self._depthwise, outputs, inputs)
        costs = self._costs.costs(self._names, inputs, outputs)
        if kept:
            whole = outputs.new_ones(())
            costs = costs * torch.stack([kept.get(name, whole) for name in self._names])
        return (costs.sum() + self._costs.overhead) / self._total

    def threshold(self, target: float, round_to: int) -> float:
        """The lowest threshold at which ψ does not exceed `target`, or else the one at which it is least.

        Costs that are counted fall as the threshold rises; measured latency need not, and then the least may lie
        anywhere.
        """
        scores = torch.unique(torch.cat([unit.scores.detach().flatten() for unit in self._units]))
        low, high = 0, len(scores)
        while low < high:
            middle = (low + high) // 2
            if self.at(float(scores[middle]), round_to) <= target:
                high = middle
            else:
                low = middle + 1
        if low < len(scores):
            return float(scores[low])
        above = float(scores[-1]) + 1.0
        if self._modules:
            return above
        return min([*scores.tolist(), above], key=lambda threshold: self.at(threshold, round_to))

    @torch.no_grad()
    def at(self, threshold: float, round_to: int) -> float:
        """ψ when each unit keeps its scores from `threshold` on."""
        return float(self.share([unit.keep(threshold, round_to).to(torch.float32) for unit in self._units]))

    def _kept_weights(self) -> Iterable[tuple[str, Tensor]]:
        """Of each layer with a magnitude mask over its weights the share that it keeps."""
        for name, module in self._modules.items():
            if not parametrize.is_parametrized(module, "weight"):
                continue
            for simulator in module.parametrizations["weight"]:  # type: ignore[index]
                if isinstance(simulator, WeightMask):
                    yield name, simulator.share


def _counts(group: ChannelGroup | None, rows: dict[str, int], side: str, device: torch.device) -> Tensor | None:
    if group is None:
        return None
    counts = torch.zeros(len(rows), group.channels)
    for member in getattr(group, side):
        if member.name in rows:
            counts[rows[member.name]].index_add_(0, torch.tensor(member.root), torch.ones(len(member.root)))
    return counts.to(device)
