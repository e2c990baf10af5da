"""Counter-based random draws: a number depends on (study seed, stream, image, position) and on nothing else.

A corrupted image is therefore the same whether it is made alone, in a batch of 500 or on another device (up to the last
bit of `log` and `cos`). The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"), written with wrapping int64 arithmetic because torch has no 64-bit unsigned products.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

__all__ = ["Draws"]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def _mix_(words: Tensor) -> Tensor:
    """SplitMix64's output function, in place on int64 words."""
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        # an arithmetic shift drags the sign along, a logical one does not: mask what was dragged in
        words.bitwise_xor_((words >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return words.bitwise_xor_((words >> 31).bitwise_and_((1 << 33) - 1))


class Draws:
    """Random numbers for a batch of images; every call draws from a stream of its own.

    Args:
        study_seed: The study's seed, so that every trial of a study sees the same corrupted images.
        indices: (N,) int64, which image each row is (its position in the official split).
        stream: What the numbers are for, such as ``"snow/3"``.
    """

    def __init__(self, study_seed: int, indices: Tensor, stream: str) -> None:
        if indices.ndim != 1 or indices.is_floating_point():
            raise ValueError(f"`indices` must be integers of shape (N,); found {indices.dtype}{list(indices.shape)}.")
        self.device = indices.device
        self._count = len(indices)
        self._calls = 0
        digest = hashlib.sha256(f"{study_seed}/{stream}".encode()).digest()
        base = int.from_bytes(digest[:8], "little", signed=True)
        self._keys = _mix_(indices.to(torch.int64, copy=True).add_(1).mul_(GOLDEN).add_(base))

    def __len__(self) -> int:
        return self._count

    def _words(self, count: int) -> Tensor:
        """(N, count) int64 with 64 random bits each."""
        self._calls += 1
        keys = _mix_(self._keys + _signed((self._calls * 0xD1B54A32D192ED03) % (1 << 64)))
        steps = torch.arange(1, count + 1, device=self.device, dtype=torch.int64).mul_(GOLDEN)
        return _mix_(keys[:, None] + steps)

    def _halves(self, count: int) -> tuple[Tensor, Tensor]:
        """Two (N, ceil(count / 2)) float32 in (0, 1), from the upper and the lower bits of each word."""
        words = self._words((count + 1) // 2)
        # 23 bits and a half fill a float32 exactly; one bit more would round the largest draw up to 1
        upper = (words >> 41).bitwise_and_(0x7FFFFF).to(torch.float32)
        lower = words.bitwise_and_(0x7FFFFF).to(torch.float32)
        return upper.add_(0.5).mul_(2.0**-23), lower.add_(0.5).mul_(2.0**-23)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32, uniform in [low, high]."""
        count = math.prod(shape)
        flat = torch.cat(self._halves(count), dim=1)[:, :count]
        if (low, high) != (0.0, 1.0):
            flat = flat.mul(high - low).add_(low)
        return flat.reshape(self._count, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float32, standard normal (Box–Muller), at most 5.8 in size."""
        count = math.prod(shape)
        radius, angle = self._halves(count)
        radius.log_().mul_(-2.0).sqrt_()
        angle.mul_(2.0 * math.pi)
        flat = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)[:, :count]
        return flat.reshape(self._count, *shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(N, *shape) int64, uniform in [low, high)."""
        words = self._words(math.prod(shape))
        # 31 bits against a range of at most thousands: the bias of the remainder is below 1e-5
        spread = (words >> 33).bitwise_and_(0x7FFFFFFF).remainder_(high - low)
        return spread.add_(low).reshape(self._count, *shape)
