"""What an attack may do to an image: a ball in L∞ or L2 around it within [0, 1], and its steps (Madry et al. 2018).

Everything is computed in float32, whatever autocast does: eight bits of mantissa move a perturbation of 8/255 by 1/255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ...studies.errors import InputError
from ...studies.faults import nearest
from .base import uniform_noise

__all__ = ["Norm", "Threat"]

Norm = Literal["linf", "l2"]

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Threat:
    """A ball around each image, cut off at 0 and 1.

    Args:
        norm: ``"linf"``, the largest change of a value, or ``"l2"``, the length of the image's change.
        epsilon: Radius on images in [0, 1], at least 0.

    Raises:
        InputError: There is no such norm, or the radius is negative or not finite.
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        norms = get_args(Norm)
        if self.norm not in norms:
            close = nearest(str(self.norm), norms)
            hint = f' Did you mean "{close}"?' if close else ""
            raise InputError(f'`norm` must be "linf" or "l2"; found {self.norm!r}.{hint}')
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0.0):
            raise InputError(f"`epsilon` must be a finite number of at least 0; found {self.epsilon!r}.")

    def random_start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Points drawn uniformly from each image's ball, cut off at 0 and 1.

        Args:
            images: In [0, 1], (N, ...).
            generator: On the device of `images`.

        Returns:
            float32, in the shape of `images`.
        """
        images = images.float()
        if self.norm == "linf":
            return (images + uniform_noise(images, self.epsilon, generator)).clamp_(0.0, 1.0)
        direction = torch.randn(images.shape, generator=generator, device=images.device)
        dimensions = max(images[0].numel(), 1) if len(images) else 1
        radius = torch.rand(len(images), generator=generator, device=images.device) ** (1.0 / dimensions)
        return (images + _unit(direction) * _wide(self.epsilon * radius, images)).clamp_(0.0, 1.0)

    def step(self, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The change of length `size` along which a function of this gradient rises most; none where it is zero.

        Args:
            gradient: Finite, (N, ...).
            size: On images in [0, 1]; one for all, or one an image as a tensor that broadcasts.

        Returns:
            float32, in the shape of `gradient`.
        """
        gradient = gradient.float()
        return size * (gradient.sign() if self.norm == "linf" else _unit(gradient))

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """The points moved back into each image's ball, then into [0, 1], which leaves the ball to no image in [0, 1].

        Args:
            adversarial: (N, ...).
            images: In [0, 1], in the same shape.

        Returns:
            float32, in the same shape.
        """
        images = images.float()
        change = adversarial.float() - images
        if self.norm == "linf":
            return (images + change.clamp_(-self.epsilon, self.epsilon)).clamp_(0.0, 1.0)
        length = change.flatten(1).square().sum(dim=1).sqrt()
        return (images + change * _wide((self.epsilon / length.clamp_min(TINY)).clamp_max(1.0), images)).clamp_(
            0.0, 1.0
        )


def _unit(vectors: Tensor) -> Tensor:
    """Each of (N, ...) divided by its Euclidean length, zero where it is zero."""
    # by the largest value first: squares of a gradient of 1e-25 are zero
    largest = vectors.flatten(1).abs().amax(dim=1) if vectors.numel() else vectors.flatten(1).sum(dim=1)
    scaled = vectors / _wide(largest.clamp_min(TINY), vectors)
    return scaled / _wide(scaled.flatten(1).square().sum(dim=1).sqrt().clamp_min(TINY), vectors)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
