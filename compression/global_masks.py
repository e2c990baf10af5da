"""Masks with one sparsity over many layers: the smallest go wherever they lie (Han et al. 2015; Zhu & Gupta 2017).

Weights compare by magnitude, channels by the mean magnitude of their filters' weights, as filters differ in size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .masks import removed_count, without_smallest
from .pruning import GroupMask, LayerMask, MaskedTensor

__all__ = ["GlobalFilterMask", "GlobalWeightMask", "global_channel_masks", "global_magnitude_masks"]


def global_magnitude_masks(weights: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """True where a weight stays: all but the floor(sparsity · N) of least magnitude among all N.

    Args:
        weights: Floating, any shapes. Each keeps its largest element, at least.
        sparsity: In [0, 1).

    Returns:
        One bool mask for each weight. Fewer go only where every weight is down to one element.
    """
    magnitudes = []
    for weight in weights:
        flat = weight.detach().abs().flatten()
        # among equals the last stays, as the first in memory goes first
        largest = flat.numel() - 1 - flat.flip(0).argmax()
        magnitudes.append(flat.index_fill(0, largest, torch.inf))
    joined = torch.cat(magnitudes)
    count = min(removed_count(joined.numel(), sparsity), joined.numel() - len(weights))
    parts = without_smallest(joined, count).split([weight.numel() for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def global_channel_masks(
    magnitudes: Sequence[Tensor],
    filters: Sequence[int],
    sparsity: float,
    *,
    round_to: int = 1,
    fill: bool = True,
) -> list[Tensor]:
    """True where a channel stays: those of least magnitude go, as long as no more filters go than planned.

    Args:
        magnitudes: For each group of coupled layers, its channels' mean magnitudes, (channels,).
        filters: For each group, how many filters go with a channel: one in each coupled layer.
        sparsity: Share of all filters to remove, in [0, 1).
        round_to: Each group keeps a multiple of this, at least one, or all its channels where there are fewer.
        fill: Once the next channels in order no longer fit, go on with other groups' that do.

    Returns:
        One bool mask, (channels,), for each group.
    """
    blocks = [
        (float(block.mean()), index, block.numel())
        for index, values in enumerate(magnitudes)
        for block in _blocks(values.detach().cpu().sort().values, round_to)
    ]
    total = sum(values.numel() * width for values, width in zip(magnitudes, filters, strict=True))
    room = removed_count(total, sparsity)
    removed, closed = [0] * len(magnitudes), set()
    for _, index, size in sorted(blocks, key=lambda block: block[:2]):
        if index in closed:
            continue
        if size * filters[index] <= room:
            room -= size * filters[index]
            removed[index] += size
        elif fill:
            closed.add(index)
        else:
            break
    return [without_smallest(values.detach(), count) for values, count in zip(magnitudes, removed, strict=True)]


def _blocks(ascending: Tensor, round_to: int) -> list[Tensor]:
    """What may go of a group, in order: first what is above a multiple, then `round_to` channels at a time."""
    count = ascending.numel()
    first = count % round_to or round_to
    starts = [0, *range(first, count - round_to + 1, round_to)]
    ends = [*starts[1:], count]
    blocks = [ascending[start:end] for start, end in zip(starts, ends, strict=True)]
    return blocks[:-1]


class GlobalWeightMask:
    """One magnitude mask over the weights of several layers, as far as their channels survive.

    Args:
        parts: The layers' masks.
        sparsity: Final share of all their weights to remove, in [0, 1).
    """

    def __init__(self, parts: Sequence[LayerMask], sparsity: float) -> None:
        self.parts, self.sparsity = list(parts), sparsity

    @property
    def masked(self) -> list[MaskedTensor]:
        return [masked for part in self.parts for masked in part.masked]

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        """Choose anew; `sparsity` is the share to remove at this moment."""
        for part, keep in zip(
            self.parts, global_magnitude_masks([part.values() for part in self.parts], sparsity), strict=True
        ):
            part.set(keep)

    def deviation(self) -> str | None:
        """What the masks reached, where it is not the planned count."""
        total = sum(part.simulator.surviving for part in self.parts)
        removed = total - sum(int(part.simulator.keep.sum()) for part in self.parts)
        return _deviation("weight", removed, total, self.sparsity, len(self.parts))


class GlobalFilterMask:
    """One mask over the channels of several groups.

    Args:
        parts: The groups' masks, with the same `round_to`.
        sparsity: Final share of all their scored filters to remove, in [0, 1).
    """

    def __init__(self, parts: Sequence[GroupMask], sparsity: float) -> None:
        self.parts, self.sparsity = list(parts), sparsity
        self._filters = [len(part.scored) for part in parts]

    @property
    def masked(self) -> list[MaskedTensor]:
        return [masked for part in self.parts for masked in part.masked]

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        """Choose anew; `sparsity` is the share to remove at this moment."""
        keeps = global_channel_masks(
            [part.magnitudes() for part in self.parts],
            self._filters,
            sparsity,
            round_to=self.parts[0].round_to,
            # on the way up a channel that does not fit yet waits, or wide groups would always come last
            fill=sparsity == self.sparsity,
        )
        for part, keep in zip(self.parts, keeps, strict=True):
            part.set(keep)

    def deviation(self) -> str | None:
        """What the masks reached, where it is not the planned count."""
        total = sum(part.group.channels * width for part, width in zip(self.parts, self._filters, strict=True))
        removed = sum(len(part.removed()) * width for part, width in zip(self.parts, self._filters, strict=True))
        return _deviation("filter", removed, total, self.sparsity, sum(self._filters))


def _deviation(kind: str, removed: int, total: int, sparsity: float, layers: int) -> str | None:
    if removed == removed_count(total, sparsity):
        return None
    return f"global {kind} sparsity {removed / total:.4g} instead of {sparsity:g} over {layers} layers"
