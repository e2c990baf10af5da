"""Which published constants a severity stands for, and the bytes that a corrupted image is stored as.

CIFAR-10-C's constants (hendrycks/robustness, make_cifar_c.py) serve images of up to 64 pixels on the shorter side,
ImageNet-C's larger ones: the two sets differ by much, and "severity 1" means nothing without saying which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

__all__ = ["SMALL_SIDE", "checked", "constant", "is_small", "to_bytes"]

SMALL_SIDE = 64
# far below a grey level, far above float32 noise: keeps a value that should be whole from falling to the one below,
# so that the bytes do not depend on batch size or device
WHOLE = 1e-3

Constant = TypeVar("Constant")


def is_small(images: Tensor) -> bool:
    """Whether `images` (N, 3, H, W) take CIFAR-10-C's constants."""
    return min(images.shape[-2:]) <= SMALL_SIDE


def checked(severity: int) -> int:
    """`severity`, which must be 1–5.

    Raises:
        ValueError: It is not.
    """
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"`severity` must be one of 1–5; found {severity!r}.")
    return severity


def constant(images: Tensor, severity: int, small: Sequence[Constant], large: Sequence[Constant]) -> Constant:
    """The constant of `severity` (1–5) for images of this size.

    Raises:
        ValueError: `severity` is not 1–5.
    """
    return (small if is_small(images) else large)[checked(severity) - 1]


def to_bytes(images: Tensor) -> Tensor:
    """Clip to [0, 1] and truncate to eight bits, as ``np.uint8(255 * x)`` does; values stay in [0, 1], float32."""
    return images.clamp(0.0, 1.0).mul_(255.0).add_(WHOLE).floor_().div_(255.0)
