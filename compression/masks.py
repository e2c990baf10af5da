"""Magnitude masks over weights, n:m patterns and, by L1 norm, filters (Han et al. 2015; Li et al. 2017, 1608.08710).

Counts are exact: floor(sparsity · n) elements go, whatever ties or zeros there are, so that the achieved sparsity lies
within one element below the planned one. Among equals the first in memory goes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "MaskWeight",
    "WeightMask",
    "broken_groups",
    "filter_mask",
    "filter_norms",
    "magnitude_mask",
    "pattern_mask",
    "removed_count",
    "without_smallest",
]

# 0.29 · 100 is 28.999999999999996 in binary, and 29 is meant
TOLERANCE = 1e-9


def removed_count(count: int, sparsity: float) -> int:
    """floor(sparsity · count), the number of elements that go."""
    return min(count, math.floor(sparsity * count + TOLERANCE))


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """True where a weight stays: all but the floor(sparsity · n) of least magnitude.

    Args:
        weight: Floating, any shape, n elements.
        sparsity: In [0, 1).

    Returns:
        Bool, in the weight's shape, with exactly n − floor(sparsity · n) True.
    """
    return without_smallest(weight.detach().abs(), removed_count(weight.numel(), sparsity))


def pattern_mask(weight: Tensor, kept: int, of: int, *, share: float = 1.0) -> Tensor:
    """True where a weight stays: the `kept` largest of every `of` neighbours (Mishra et al. 2021, arXiv:2104.08378).

    Neighbours are consecutive inputs of one output (and kernel position), as sparse matrix units read them. What is
    left over behind the last whole group, r inputs, keeps the ⌈kept · r / of⌉ largest.

    Args:
        weight: Floating, (out, in, …).
        kept: n of n:m.
        of: m of n:m.
        share: How much of what the pattern removes is removed, in [0, 1]: the smallest first, rounded down.

    Returns:
        Bool, in the weight's shape.
    """
    inputs = weight.detach().abs().movedim(1, -1)
    whole = inputs.shape[-1] // of * of
    keep = torch.ones_like(inputs, dtype=torch.bool)
    for part, target, size in (
        (inputs[..., :whole], keep[..., :whole], of),
        (inputs[..., whole:], keep[..., whole:], 0),
    ):
        if part.shape[-1]:
            size = size or part.shape[-1]
            groups = part.reshape(*part.shape[:-1], -1, size)
            removed = groups.sort(dim=-1, stable=True).indices[..., : size - -(-kept * size // of)]
            target.copy_(torch.ones_like(groups, dtype=torch.bool).scatter_(-1, removed, False).reshape(part.shape))
    keep = keep.movedim(-1, 1).contiguous()
    if share >= 1.0:
        return keep
    magnitudes = weight.detach().abs().masked_fill(keep, torch.inf)
    return without_smallest(magnitudes, removed_count(int((~keep).sum()), share))


def broken_groups(weight: Tensor, kept: int, of: int) -> tuple[int, int]:
    """How many groups of `of` neighbouring inputs have more than `kept` non-zeros, and how many groups there are.

    What is left over behind the last whole group counts as a group, and as one that is not of the pattern.

    Args:
        weight: Floating, (out, in, …).
        kept: n of n:m.
        of: m of n:m.
    """
    inputs = (weight.detach() != 0).movedim(1, -1)
    whole = inputs.shape[-1] // of * of
    counts = (
        inputs[..., :whole].unflatten(-1, (-1, of)).sum(dim=-1) if whole else inputs.new_zeros(0, dtype=torch.int64)
    )
    left_over = inputs[..., 0].numel() if inputs.shape[-1] % of else 0
    return int((counts > kept).sum()) + left_over, counts.numel() + left_over


def filter_norms(weight: Tensor) -> Tensor:
    """L1 norm of each filter: (out, …) to (out,)."""
    return weight.detach().abs().flatten(1).sum(dim=1)


def filter_mask(norms: Tensor | Sequence[Tensor], sparsity: float, *, round_to: int = 1) -> Tensor:
    """True where a filter stays; norms of layers that share their channels are summed first.

    Args:
        norms: (out,), or one such tensor for each coupled layer.
        sparsity: Share of filters to remove, in [0, 1).
        round_to: The number kept is rounded up to a multiple of this, as far as there are filters.

    Returns:
        Bool, (out,). At least one filter stays.
    """
    total = norms if isinstance(norms, Tensor) else torch.stack([norm.double() for norm in norms]).sum(dim=0)
    count = total.numel()
    kept = max(1, count - removed_count(count, sparsity))
    kept = min(count, -(-kept // round_to) * round_to)
    return without_smallest(total, count - kept)


def without_smallest(values: Tensor, count: int) -> Tensor:
    """False for the `count` smallest of `values`, True for the rest: bool in their shape."""
    if count <= 0:
        return torch.ones_like(values, dtype=torch.bool)
    flat = values.flatten()
    # selection is linear in n where a sort is not, and its value (unlike its index) does not depend on the device
    threshold = torch.kthvalue(flat, count).values
    smaller, equal = flat < threshold, flat == threshold
    room = count - smaller.sum()
    removed = smaller | (equal & (equal.cumsum(0) <= room))
    return ~removed.reshape(values.shape)


class MaskWeight(nn.Module):
    """Weight simulator: exact zeros where `keep` is False, and no gradient there.

    Args:
        shape: Shape of the mask, broadcast against the tensor: (out, 1, …) for filters.
        device: Where the mask lives.
    """

    keep: Tensor

    def __init__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones(tuple(shape), dtype=torch.bool, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        # a product would leave negative zeros and pass on infinities
        return torch.where(self.keep, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


class WeightMask(MaskWeight):
    """A mask with an element for each weight, of which only those of surviving channels count.

    Args:
        shape: The weight's.
        device: Where the mask lives.

    Attributes:
        surviving: How many weights lie in channels that nothing removes; `keep` is False for all others.
    """

    def __init__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(shape, device)
        self.surviving = self.keep.numel()

    @property
    def share(self) -> Tensor:
        """What the mask keeps of the surviving weights, float32, 0-d, in [0, 1]."""
        return self.keep.sum().to(torch.float32) / self.surviving
