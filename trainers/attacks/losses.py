"""What an attack on a classifier raises: cross entropy, the margin, and cross entropy that no scale of logits hides.

Logits of large scale make the cross entropy's gradient vanish in float32 (Carlini & Wagner 2017), and compressed
networks pass for robust by it (Gupta & Ajanthan 2020).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cross_entropy", "margin", "scale_free", "scaled_cross_entropy"]

SCALE_FREE = ("scaled-cross-entropy", "margin")
RANGE = 10.0
"""Distance from the lowest to the highest logit in `scaled_cross_entropy`: no probability is below e⁻¹⁰ / C."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(z)_y of each image.

    Args:
        logits: z, floating, (N, C).
        targets: y, int64, (N,).

    Returns:
        float32, (N,).
    """
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y of each image, above 0 where it is misclassified (Carlini & Wagner 2017, arXiv 1608.04644).

    Arguments and result as in `cross_entropy`; with a single class −∞.
    """
    logits = logits.float()
    own = functional.one_hot(targets, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return others - logits.gather(1, targets[:, None]).squeeze(1)


def scaled_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of 10 z / (max z − min z), the same for z and any positive multiple of it.

    A temperature chosen for each image (after Gupta & Ajanthan 2020, arXiv 2003.13511), so that the softmax is neither
    saturated nor flat. The divisor counts as a constant in the gradient, which therefore is that of a cross entropy at
    this temperature, and never rewards shrinking the logits. What it comes to compares iterates well only where there
    are more than two classes: of two it knows the sign alone. Arguments and result as in `cross_entropy`.
    """
    logits = logits.float()
    detached = logits.detach()
    spread = detached.amax(dim=1, keepdim=True) - detached.amin(dim=1, keepdim=True)
    # logits that are all the same have nothing to scale
    spread = torch.where(spread > 0.0, spread, torch.ones_like(spread))
    return functional.cross_entropy(logits * (RANGE / spread), targets, reduction="none")


def scale_free(losses: Iterable[str]) -> str:
    """The name among a task's attack losses that the scale of a model's outputs hides least; the first if none does."""
    names = list(losses)
    return next((name for name in SCALE_FREE if name in names), names[0])
