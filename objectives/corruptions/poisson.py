"""Poisson counts for grey levels, by table: 256 rates, so every count follows from a level and one normal number.

The normal number z stands for the probability Phi(z); the count is the smallest whose CDF reaches it (inversion). As a
function of z it is a staircase with steps wider than the table's bins, so a bin holds at most one step: the count below
it and where the step is.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["poisson_counts"]

# draws of the normal distribution are at most 5.8 in size
LIMIT = 5.8125
LEVELS = 256


def poisson_counts(levels: Tensor, normal: Tensor, photons: float) -> Tensor:
    """The Poisson quantile of rate ``level / 255 * photons`` at the probability Phi(z).

    Args:
        levels: int64 in 0–255, any shape.
        normal: z, float32 of the same shape, between -5.8 and 5.8.
        photons: The rate of level 255, at most 600.

    Returns:
        float32 whole numbers of the same shape.
    """
    table, bins = _table(photons, levels.device)
    width = 2.0 * LIMIT / bins
    place = ((normal + LIMIT) / width).to(torch.int64).clamp_(0, bins - 1).add_(levels, alpha=bins).flatten()
    counts, steps = table[0].index_select(0, place), table[1].index_select(0, place)
    return counts.add_(normal.flatten() > steps).view(levels.shape)


@lru_cache(maxsize=16)
def _table(photons: float, device: torch.device) -> tuple[Tensor, int]:
    """(2, 256 * bins) float32, the count at each bin's left end and the z of the step in it, and the number of bins."""
    rates = np.arange(LEVELS) / 255.0 * photons
    counts = np.arange(math.ceil(photons + 7.0 * math.sqrt(photons) + 20.0))
    factorials = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.exp(counts * np.log(rates)[:, None] - rates[:, None] - factorials)
    mass[0] = counts == 0
    # summed from both ends: in the upper tail 1 - CDF keeps its digits where the CDF is almost 1
    below = torch.from_numpy(np.cumsum(mass, axis=1).clip(1e-300, 1.0))
    above = torch.from_numpy((np.cumsum(mass[:, ::-1], axis=1)[:, ::-1] - mass).clip(1e-300, 1.0))
    steps = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above))
    # the steps of the largest rate are the closest together
    inside = steps[-1][(steps[-1] > -LIMIT) & (steps[-1] < LIMIT)]
    bins = math.ceil(2.0 * LIMIT / float(inside.diff().min())) + 1
    edges = torch.linspace(-LIMIT, LIMIT, bins + 1, dtype=torch.float64)[:-1].expand(LEVELS, bins).contiguous()
    first = torch.searchsorted(steps, edges)
    following = steps.gather(1, first.clamp(max=len(counts) - 1))
    return torch.stack([first.flatten(), following.flatten()]).to(device, torch.float32), bins
