"""Weight clustering: few distinct values in a layer or channel, trained with it (Han et al. 2016, arXiv:1510.00149).

Seeding is k-means++ (Arthur & Vassilvitskii 2007), then a stated number of Lloyd iterations (10 here; TensorFlow's
Model Optimization has none and leaves the rest to training, which 0 gives). Of more than 65,536 values k-means++ draws
from an even sample, as each draw passes over all it chooses from; Lloyd's iterations see every value. From then on
training moves the codebook, and each forward pass assigns every weight anew to its nearest value. In a pruned layer
zero belongs to the codebook and stays fixed, and the other values are shared out between the signs in proportion to
their weights.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..studies.seeds import Seed

__all__ = ["ClusterWeight", "assign", "distinct_values", "look_up", "seed_codebook"]

LLOYD_ITERATIONS = 10
SAMPLE = 2**16


def seed_codebook(
    values: np.ndarray,
    clusters: int,
    generator: np.random.Generator,
    *,
    zero: bool = False,
    lloyd_iterations: int = LLOYD_ITERATIONS,
) -> np.ndarray:
    """Starting codebook of `clusters` values for one layer or channel.

    Args:
        values: float64, (n,), in any order; k-means++ draws from every ⌈n / 65,536⌉th of them, sorted. Empty, or with
            fewer distinct values than clusters, they give repeated entries.
        clusters: K, at least 2.
        generator: Source of the k-means++ draws.
        zero: The first entry is 0; exact zeros in `values` are left out of the seeding. With K = 2 one value is left,
            of the sign whose magnitudes have the larger sum, and weights of the other sign become zero too.
        lloyd_iterations: Passes of Lloyd's algorithm after the seeding.

    Returns:
        float64, (K,): ascending, but for the leading 0 if `zero`.
    """
    if not zero:
        return _k_means(np.sort(values), clusters, generator, lloyd_iterations)
    negative, positive = np.sort(values[values < 0]), np.sort(values[values > 0])
    below, above = _split(negative.size, positive.size, clusters - 1)
    if clusters == 2:
        below = int(-negative.sum() > positive.sum())
        above = 1 - below
    sides = [
        _k_means(side, count, generator, lloyd_iterations) for side, count in ((negative, below), (positive, above))
    ]
    return np.concatenate([np.zeros(1), *sides])


def _split(negative: int, positive: int, count: int) -> tuple[int, int]:
    if not negative or not positive:
        return (count, 0) if negative else (0, count)
    below = round(count * negative / (negative + positive))
    # a sign that has weights keeps a value, where there are two to give
    below = min(max(below, 1), count - 1) if count >= 2 else below
    return below, count - below


def _k_means(values: np.ndarray, clusters: int, generator: np.random.Generator, lloyd_iterations: int) -> np.ndarray:
    if not clusters or not values.size:
        return np.zeros(clusters)
    stride = -(-values.size // SAMPLE)
    codebook = np.sort(_plus_plus(values[stride // 2 :: stride], clusters, generator))
    # values are sorted, so a cluster is a run of them and its mean a difference of prefix sums
    prefix = np.concatenate([np.zeros(1), np.cumsum(values)])
    for _ in range(lloyd_iterations):
        borders = np.searchsorted(values, (codebook[1:] + codebook[:-1]) / 2)
        edges = np.concatenate([[0], borders, [values.size]])
        sizes = np.diff(edges)
        means = np.diff(prefix[edges]) / np.maximum(sizes, 1)
        codebook = np.sort(np.where(sizes > 0, means, codebook))
    return codebook


def _plus_plus(values: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    chosen = np.empty(clusters)
    chosen[0] = values[generator.integers(values.size)]
    distance = np.square(values - chosen[0])
    for index in range(1, clusters):
        cumulative = np.cumsum(distance)
        draw = generator.random() * cumulative[-1]
        chosen[index] = values[min(int(np.searchsorted(cumulative, draw, side="right")), values.size - 1)]
        np.minimum(distance, np.square(values - chosen[index]), out=distance)
    return chosen


def assign(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codebook entry, through the sorted entries' midpoints: O(n log K).

    Args:
        rows: Floating, (R, n).
        codebook: Floating, (R, K), in any order.

    Returns:
        int64, (R, n), indices into the second dimension of `codebook`. A value halfway goes to the smaller entry.
    """
    ordered, order = torch.sort(codebook.detach(), dim=1, stable=True)
    midpoints = (ordered[:, 1:] + ordered[:, :-1]) / 2
    values = rows.detach().contiguous()
    if len(values) == 1:  # one row is half as slow without the batch dimension
        positions = torch.searchsorted(midpoints[0], values[0]).unsqueeze(0)
    else:
        positions = torch.searchsorted(midpoints.contiguous(), values)
    return torch.gather(order, 1, positions)


def distinct_values(weight: Tensor, per: Literal["layer", "channel"]) -> Tensor:
    """The codebook that a weight's values are, ascending, with positive zeros.

    Args:
        weight: float16, float32 or float64, (out, …), on the CPU.
        per: Over the layer, or for each output channel.

    Returns:
        (values,), or (out, values) where short rows repeat their last; in the weight's dtype.
    """
    # numpy's order and choice among equals are the same everywhere
    rows = [np.unique(row) for row in (weight.detach() + 0.0).reshape(1 if per == "layer" else len(weight), -1).numpy()]
    if per == "layer":
        return torch.from_numpy(rows[0])
    width = max(row.size for row in rows)
    return torch.from_numpy(np.stack([np.pad(row, (0, width - row.size), mode="edge") for row in rows]))


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, codebook: Tensor, indices: Tensor, mean: bool, counted: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(indices, counted)
        ctx.clusters, ctx.mean = codebook.shape[1], mean
        return torch.gather(codebook, 1, indices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,), (indices, counted) = gradients, ctx.saved_tensors
        total = gradient.new_zeros(gradient.shape[0], ctx.clusters)
        total.scatter_add_(1, indices, gradient)
        if ctx.mean:
            weights = torch.ones_like(gradient) if counted is None else counted.to(gradient.dtype)
            members = torch.zeros_like(total).scatter_add_(1, indices, weights)
            total = total / members.clamp(min=1)
        return gradient, total, None, None, None


def look_up(
    rows: Tensor, codebook: Tensor, *, gradient: Literal["sum", "mean"] = "sum", counted: Tensor | None = None
) -> Tensor:
    """Each weight's nearest codebook entry.

    The dense weight gets the output's gradient as it is (straight-through), so that assignments can change; an entry
    gets the sum, or the mean, of its members' gradients.

    Args:
        rows: Floating, (R, n).
        codebook: Floating, (R, K).
        gradient: How members' gradients reach their entry.
        counted: Bool, (R, n): which weights a mean is over, all when None.
    """
    return _LookUp.apply(rows, codebook, assign(rows, codebook), gradient == "mean", counted)


class ClusterWeight(nn.Module):
    """Weight simulator: every weight is its nearest codebook entry once `seed` was called, itself until then.

    Args:
        weight: The tensor that will be simulated, (out, …); its device and dtype are taken over.
        clusters: K, distinct values (zero among them where it is pinned: K > 2 lets both signs keep one).
        per: One codebook for the layer, or one for each output channel.
        zeros: ``"pinned"`` keeps exact zeros and counts zero among the K (weights are pruned); ``"kept"`` keeps them
            besides the K (whole channels are pruned, and go); ``"free"`` treats zero as any value.
        gradient: ``"mean"`` gives a codebook entry the step that its members would take together, at any learning rate
            that suits the weights; ``"sum"`` is TensorFlow's, and wants one smaller by the size of a cluster.
        lloyd_iterations: Passes of Lloyd's algorithm after k-means++ seeding.
    """

    def __init__(
        self,
        weight: Tensor,
        clusters: int,
        *,
        per: Literal["layer", "channel"] = "layer",
        zeros: Literal["pinned", "kept", "free"] = "free",
        gradient: Literal["sum", "mean"] = "mean",
        lloyd_iterations: int = LLOYD_ITERATIONS,
    ) -> None:
        super().__init__()
        self.clusters, self.per, self.zeros = clusters, per, zeros
        self.gradient: Literal["sum", "mean"] = gradient
        self.lloyd_iterations = lloyd_iterations
        self.enabled = False
        rows = weight.shape[0] if per == "channel" else 1
        self.centroids = nn.Parameter(weight.new_zeros(rows, clusters - (zeros == "pinned")).detach())

    @torch.no_grad()
    def seed(self, weight: Tensor, seed: Seed) -> None:
        """Choose the codebook from `weight` (out, …), pruned already, and use it from now on."""
        rows = self._rows(weight).double().cpu().numpy()
        pinned = self.zeros == "pinned"
        for index, row in enumerate(rows):
            values = row if self.zeros == "free" else row[row != 0]
            generator = seed.child(index).numpy()
            entries = seed_codebook(
                values, self.clusters, generator, zero=pinned, lloyd_iterations=self.lloyd_iterations
            )
            self.centroids[index] = torch.from_numpy(entries[1:] if pinned else entries)
        self.enabled = True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        rows = self._rows(weight)
        # channels that a mask holds at zero are no members, and their count would slow the codebook down
        counted = rows != 0 if self.zeros == "kept" else None
        values = look_up(rows, self.codebook(), gradient=self.gradient, counted=counted)
        if self.zeros != "free":
            values = torch.where(rows == 0, torch.zeros((), dtype=values.dtype, device=values.device), values)
        return values.reshape(weight.shape)

    def codebook(self) -> Tensor:
        """(1, K), or (out, K) by channel; a pinned zero comes first."""
        if self.zeros != "pinned":
            return self.centroids
        return torch.cat([self.centroids.new_zeros(self.centroids.shape[0], 1), self.centroids], dim=1)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.flatten(1) if self.per == "channel" else weight.reshape(1, -1)

    def extra_repr(self) -> str:
        return f"clusters={self.clusters}, per={self.per!r}, zeros={self.zeros!r}, enabled={self.enabled}"
