"""How far predictions lie apart: Kullback-Leibler (TRADES) and Jensen-Shannon (AugMix's consistency), in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["jensen_shannon", "kullback_leibler"]

SMALLEST = 1e-7


def kullback_leibler(reference: Tensor, other: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p·(log p − log q) of each image, at least 0.

    Args:
        reference: log p, (N, ..., C), C classes; whatever lies between is averaged over.
        other: log q, in the shape of `reference`.

    Returns:
        (N,), with a gradient to both.
    """
    # where p is 0 there is nothing to tell apart; masked before the arithmetic, whose gradient would be NaN there
    nothing = reference == -torch.inf
    reference, other = reference.masked_fill(nothing, 0.0), other.masked_fill(nothing, 0.0)
    terms = reference.exp() * (reference - other)
    return terms.sum(dim=-1).flatten(1).mean(dim=1) if terms.dim() > 2 else terms.sum(dim=-1)


def jensen_shannon(predictions: Sequence[Tensor]) -> Tensor:
    """(1/K)·Σ KL(p_k ‖ m), m the mean of the K predictions (Hendrycks et al. 2020, section 3), in [0, log K].

    Args:
        predictions: log p_k, each (N, ..., C), C classes; whatever lies between is averaged over.

    Returns:
        (N,), with a gradient to every prediction.
    """
    mean = torch.stack([one.exp() for one in predictions]).mean(dim=0).clamp(min=SMALLEST).log()
    return torch.stack([kullback_leibler(one, mean) for one in predictions]).mean(dim=0)
