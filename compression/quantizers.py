"""Uniform quantization: weights symmetric by output channel or by layer, activations asymmetric by tensor.

Weights follow Jacob et al. 2018 (arXiv:1712.05877) in the narrow range [−(2^(b−1) − 1), 2^(b−1) − 1]; below 8 bits the
clip that loses least squared error is taken; one bit is the scaled sign of Rastegari et al. 2016 (arXiv:1603.05279).
Scales keep 16 bits of mantissa, so that code × scale is exact in float32 and quantizing twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "ActivationQuantizer",
    "WeightQuantizer",
    "activation_quantizers",
    "dequantize",
    "fake_quantize",
    "quantize_weight",
    "range_parameters",
    "round_scale",
    "straight_through",
]

SCALE_BITS = 16
CLIP_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
MOMENTUM = 0.95


class _StraightThrough(torch.autograd.Function):
    """`simulated` in the forward pass, the identity on `tensor` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, simulated: Tensor) -> Tensor:
        return simulated.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(tensor: Tensor, simulated: Tensor) -> Tensor:
    """Exactly `simulated`, with its gradient passed to `tensor` unchanged (Bengio et al. 2013, arXiv:1308.3432)."""
    return _StraightThrough.apply(tensor, simulated)


def quantize_weight(
    weight: Tensor, bits: int, *, per: Literal["channel", "layer"] = "channel"
) -> tuple[Tensor, Tensor]:
    """Signed integer codes of `weight` and their scale.

    Args:
        weight: Floating, (out, …).
        bits: 1–8; codes lie in [−(2^(bits−1) − 1), 2^(bits−1) − 1], for one bit in {−1, 0, 1} where 0 is an exact zero.
        per: One scale for each output channel, or one for the layer.

    Returns:
        Codes, int8 in the weight's shape, and scale, (out,) or 0-d in the weight's dtype. Zeros have code 0; the
        scale of nothing but zeros is 1.

    Raises:
        ValueError: `bits` is not in 1–8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"`bits` must be in 1–8; found {bits}.")
    values = weight.detach()
    rows = values.reshape(1, -1) if per == "layer" else values.flatten(1)
    codes, scale = _sign_codes(rows) if bits == 1 else _uniform_codes(rows, 2 ** (bits - 1) - 1)
    return codes.to(torch.int8).reshape(weight.shape), scale.reshape(()) if per == "layer" else scale.flatten()


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """The weights that `codes` (out, …) and `scale` ((out,) or 0-d) stand for, in the scale's dtype."""
    return codes.to(scale.dtype) * scale.reshape(-1, *[1] * (codes.dim() - 1)) if scale.dim() else codes * scale


def _uniform_codes(rows: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    largest = rows.abs().amax(dim=1, keepdim=True)
    best_codes, best_scale = _codes_at(rows, largest / limit, limit)
    if limit == 127:
        return best_codes, best_scale
    best_error = _squared_error(rows, best_codes, best_scale)
    for ratio in CLIP_RATIOS[1:]:
        codes, scale = _codes_at(rows, largest * (ratio / limit), limit)
        error = _squared_error(rows, codes, scale)
        better = error < best_error
        best_codes = torch.where(better, codes, best_codes)
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    return best_codes, best_scale


def _codes_at(rows: Tensor, scale: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    scale = round_scale(scale)
    return torch.round(rows / scale).clamp_(-limit, limit), scale


def _squared_error(rows: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    return (rows - codes * scale).square_().sum(dim=1, keepdim=True)


def _sign_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    # masked weights stay zero, so the mean that minimises the error is the mean over the others
    kept = (rows != 0).sum(dim=1, keepdim=True)
    mean = rows.abs().sum(dim=1, keepdim=True, dtype=torch.float64) / kept.clamp(min=1)
    return torch.sign(rows), round_scale(mean.to(rows.dtype))


def round_scale(scale: Tensor) -> Tensor:
    """Positive scales to 16 bits of mantissa, so that products with 8-bit codes are exact; 1 in place of any other."""
    # a denormal scale would lose bits again in the product
    smallest = torch.finfo(torch.float32).tiny * 2.0**SCALE_BITS
    mantissa, exponent = torch.frexp(scale.clamp(min=smallest))
    rounded = torch.ldexp(torch.round(mantissa * 2.0**SCALE_BITS) / 2.0**SCALE_BITS, exponent)
    return torch.where(scale > 0, rounded, torch.ones_like(scale))


class WeightQuantizer(nn.Module):
    """Weight simulator: what `quantize_weight` keeps of a weight, with the identity as its gradient.

    Args:
        bits: 1–8.
        per: ``"channel"``, or ``"layer"`` where the weights are clustered, so that codes are no more than clusters.
    """

    def __init__(self, bits: int, *, per: Literal["channel", "layer"] = "channel") -> None:
        super().__init__()
        self.bits = bits
        self.per: Literal["channel", "layer"] = per
        self.enabled = False

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        return straight_through(weight, dequantize(*self.codes(weight)))

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scale of what `forward` gives for `weight`, as `quantize_weight` returns them."""
        return quantize_weight(weight, self.bits, per=self.per)


class _FakeQuantize(torch.autograd.Function):
    """Rounded and clamped as an integer runtime does it; the gradient passes inside the range (Jacob et al., §3)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
        low = -zero_point.to(tensor.dtype)
        codes = torch.round(tensor / scale)
        ctx.save_for_backward((codes >= low) & (codes <= low + levels))
        return codes.clamp_(low, low + levels).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def fake_quantize(tensor: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """`tensor` after unsigned `bits`-bit quantization and back: (clamp(round(x / s) + z, 0, 2^b − 1) − z) · s.

    Args:
        tensor: Floating, any shape.
        scale: 0-d, positive.
        zero_point: 0-d integer in [0, 2^bits − 1].
        bits: 1–8.
    """
    return _FakeQuantize.apply(tensor, scale, zero_point, 2**bits - 1)


def range_parameters(minimum: Tensor, maximum: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point (an integer, in the scale's dtype) of the range from `minimum` ≤ 0 to `maximum` ≥ 0, 0-d."""
    levels = 2**bits - 1
    scale = (maximum - minimum) / levels
    # a range that no float32 code can resolve counts as empty
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    return scale, torch.round(-minimum / scale).clamp_(0, levels)


class ActivationQuantizer(nn.Module):
    """Activation simulator: one unsigned, asymmetric range for the tensor, with an exact zero.

    The range is the mean of the first batches' minimum and maximum, later their moving average (momentum 0.95: trials
    are short). ReLU outputs come out with zero point 0. A tensor that was zero throughout keeps scale 1.

    Args:
        bits: 1–8; codes lie in [0, 2^bits − 1].
        source: Name of the layer whose planned bits these are.

    Attributes:
        scale: float32, 0-d. zero_point: int32, 0-d. Meaningful once a batch was observed.
        enabled: False passes tensors through.
        observe: ``"training"`` updates the range in training mode only, ``"always"`` and ``"never"`` as they say.
    """

    scale: Tensor
    zero_point: Tensor
    minimum: Tensor
    maximum: Tensor
    batches: Tensor

    def __init__(self, bits: int, *, source: str = "") -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"`bits` must be in 1–8; found {bits}.")
        self.bits = bits
        self.source = source
        self.enabled = False
        self.observe: Literal["training", "always", "never"] = "training"
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_buffer("minimum", torch.zeros((), dtype=torch.float32))
        self.register_buffer("maximum", torch.zeros((), dtype=torch.float32))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float32))

    def forward(self, tensor: Tensor) -> Tensor:
        if self.observe == "always" or (self.observe == "training" and self.training):
            self.update(tensor.detach())
        return fake_quantize(tensor, self.scale, self.zero_point, self.bits) if self.enabled else tensor

    @torch.no_grad()
    def update(self, tensor: Tensor) -> None:
        """Take the minimum and maximum of one batch into the range."""
        if tensor.numel() == 0:
            return
        momentum = (self.batches / (self.batches + 1)).clamp(max=MOMENTUM)
        low, high = torch.aminmax(tensor.float())
        self.minimum.lerp_(low.clamp(max=0.0), 1 - momentum)
        self.maximum.lerp_(high.clamp(min=0.0), 1 - momentum)
        self.batches += 1
        self._set_scale()

    def _set_scale(self) -> None:
        scale, zero_point = range_parameters(self.minimum, self.maximum, self.bits)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    @torch.no_grad()
    def clip(self, ratio: float) -> None:
        """Shrink the range to `ratio` of itself, positive."""
        self.minimum.mul_(ratio)
        self.maximum.mul_(ratio)
        self._set_scale()

    def reset(self) -> None:
        """Forget what was observed."""
        for buffer in (self.minimum, self.maximum, self.batches, self.zero_point):
            buffer.zero_()
        self.scale.fill_(1.0)

    def freeze(self) -> None:
        """Quantize from now on with the range as it stands."""
        self.enabled, self.observe = True, "never"

    def extra_repr(self) -> str:
        return f"bits={self.bits}, source={self.source!r}, enabled={self.enabled}"


def activation_quantizers(modules: Iterable[nn.Module]) -> list[ActivationQuantizer]:
    """The activation quantizers among `modules`, for example ``model.modules()``."""
    return [module for module in modules if isinstance(module, ActivationQuantizer)]
