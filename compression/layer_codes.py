"""`LayerCodes`: the integer weights of one layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .quantizers import dequantize

__all__ = ["LayerCodes"]


@dataclass(frozen=True)
class LayerCodes:
    """Integer weights of one layer; codes × scale is the candidate's weight, bit for bit.

    Args:
        codes: int8 in the weight's shape.
        scale: Floating, 0-d (one for the layer) or (out,).
        bits: 1–8; codes lie in [−(2^(bits−1) − 1), 2^(bits−1) − 1], for one bit in {−1, 0, 1}.
    """

    codes: Tensor
    scale: Tensor
    bits: int

    def weight(self) -> Tensor:
        """The weight that the codes stand for."""
        return dequantize(self.codes, self.scale)
