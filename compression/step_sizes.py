"""Learned step sizes (LSQ, Esser et al. 2020, arXiv:1902.08153): a quantizer's scale trains with the weights.

v̂ = round(clamp(v / s, −Q_N, Q_P)) · s with equation 3's gradient of s, times g = 1 / √(N · Q_P) (section 2.2). Scales
begin at 2 · mean|v| / √Q_P (section 2.1), from the values at hand when bits begin to be simulated; a weight's mean is
over those that masks leave. One bit is the sign times a learned scale, which begins at mean|v|.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .quantizers import ActivationQuantizer, WeightQuantizer, fake_quantize, round_scale

__all__ = [
    "LearnedActivationQuantizer",
    "LearnedWeightQuantizer",
    "initial_step_size",
    "learned_quantize",
    "learned_sign",
]

FLOOR = 0.01


class _LearnedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, step_size: Tensor, scale: Tensor, low: Tensor, high: Tensor, gradient_scale: Tensor
    ) -> Tensor:
        ctx.save_for_backward(tensor, scale, low, high, gradient_scale)
        ctx.step_shape = step_size.shape
        # zero is added so that no code is a negative zero
        return torch.round(tensor / scale).clamp_(low, high).add_(0.0).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        tensor, scale, low, high, gradient_scale = ctx.saved_tensors
        ratio = tensor / scale
        below, above = ratio <= low, ratio >= high
        inside = ~(below | above)
        total = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, torch.round(ratio) - ratio, torch.where(below, low, high))
            total = (gradients[0] * slope).sum_to_size(ctx.step_shape) * gradient_scale
        return gradients[0] * inside, total, None, None, None, None


class _LearnedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, step_size: Tensor, scale: Tensor, gradient_scale: Tensor) -> Tensor:
        signs = torch.sign(tensor)
        ctx.save_for_backward(signs, gradient_scale)
        ctx.step_shape = step_size.shape
        return signs * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        signs, gradient_scale = ctx.saved_tensors
        return gradients[0], (gradients[0] * signs).sum_to_size(ctx.step_shape) * gradient_scale, None, None


def learned_quantize(
    tensor: Tensor,
    step_size: Tensor,
    low: Tensor | float,
    high: Tensor | float,
    gradient_scale: Tensor | float,
    *,
    scale: Tensor | None = None,
) -> Tensor:
    """`tensor` rounded to multiples of `step_size` within its codes, and LSQ's gradients to both.

    The tensor's gradient passes strictly inside the range (equation 5). The step's is, by equation 3 with x = v / s,
    round(x) − x inside, −Q_N where x ≤ −Q_N and Q_P where x ≥ Q_P, summed over the values it serves.

    Args:
        tensor: Floating, any shape.
        step_size: 0-d, or with dimensions that broadcast to the tensor's; positive.
        low: −Q_N, the least code, at most 0.
        high: Q_P, the largest code, at least 0.
        gradient_scale: g, which the step's gradient is multiplied by.
        scale: What to compute with instead of `step_size` (the same, rounded), in its shape.
    """
    values = (step_size if scale is None else scale).detach()
    rest = (_number(one, tensor) for one in (low, high, gradient_scale))
    return _LearnedQuantize.apply(tensor, step_size, values, *rest)


def learned_sign(tensor: Tensor, step_size: Tensor, gradient_scale: float, *, scale: Tensor | None = None) -> Tensor:
    """sign(v) · s for one bit: s gets its true gradient times g, v the identity, as a sign has no range to leave."""
    values = (step_size if scale is None else scale).detach()
    return _LearnedSign.apply(tensor, step_size, values, _number(gradient_scale, tensor))


def _number(value: Tensor | float, like: Tensor) -> Tensor:
    # filled in place, as a copy from the host would make the device wait
    return value.to(like.dtype) if isinstance(value, Tensor) else like.new_full((), value)


def initial_step_size(rows: Tensor, limit: Tensor | float) -> Tensor:
    """2 · mean|v| / √Q_P over the non-zeros of each row of (R, n), as (R,); 1 for a row without any."""
    magnitudes = rows.detach().abs()
    kept = (magnitudes > 0).sum(dim=1).clamp(min=1)
    steps = 2.0 * magnitudes.sum(dim=1) / kept / limit**0.5
    return torch.where(steps > 0, steps, torch.ones_like(steps))


class LearnedWeightQuantizer(WeightQuantizer):
    """Weight simulator with a trained scale for each output channel, or for the layer where it is clustered as one.

    Args:
        weight: The tensor that will be simulated, (out, …); its device and dtype are taken over.
        bits: 1–8; codes as in `quantize_weight`.
        per: ``"channel"`` or ``"layer"``.

    Attributes:
        step_size: (out,) or 0-d. It exists from the start, for the optimizer, and gets no gradient until `enabled`.
    """

    floor: Tensor

    def __init__(self, weight: Tensor, bits: int, *, per: Literal["channel", "layer"] = "channel") -> None:
        super().__init__(bits, per=per)
        self.started = False
        steps = weight.new_ones(weight.shape[:1] if per == "channel" else ()).detach()
        self.step_size = nn.Parameter(steps)
        self.register_buffer("floor", FLOOR * steps, persistent=False)

    @property
    def limit(self) -> int:
        """Q_P = Q_N, the largest code."""
        return max(1, 2 ** (self.bits - 1) - 1)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        self._start(weight)
        shape = (-1, *[1] * (weight.dim() - 1)) if self.per == "channel" else ()
        step, scale = self.step_size.reshape(shape), round_scale(self.step_size.detach()).reshape(shape)
        gradient_scale = 1.0 / math.sqrt(weight.numel() / self.step_size.numel() * self.limit)
        if self.bits == 1:
            return learned_sign(weight, step, gradient_scale, scale=scale)
        return learned_quantize(weight, step, -self.limit, self.limit, gradient_scale, scale=scale)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        self._start(weight)
        scale = round_scale(self.step_size.detach())
        if self.bits == 1:
            return torch.sign(weight).to(torch.int8), scale
        ratio = weight / scale.reshape(-1, *[1] * (weight.dim() - 1)) if self.per == "channel" else weight / scale
        return torch.round(ratio).clamp_(-self.limit, self.limit).to(torch.int8), scale

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        if self.started:
            return
        self.started = True
        rows = weight.flatten(1) if self.per == "channel" else weight.reshape(1, -1)
        steps = initial_step_size(rows, self.limit) * (0.5 if self.bits == 1 else 1.0)
        self.step_size.copy_(steps.reshape(self.step_size.shape))
        self.floor.copy_(FLOOR * self.step_size)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Put the scale back to a hundredth of where it began, where a step took it below."""
        self.step_size.clamp_(min=self.floor)


class LearnedActivationQuantizer(ActivationQuantizer):
    """Activation simulator with a trained scale; its zero point stays as the range observed before gives it.

    The scale begins at the first batch that is quantized, takes gradients in training mode only, with N the features
    of one image, and is a plain number again from `freeze` on.

    Attributes:
        step_size: 0-d; None once frozen.
    """

    floor: Tensor

    def __init__(self, bits: int, *, source: str = "") -> None:
        super().__init__(bits, source=source)
        self.started = False
        self.step_size: nn.Parameter | None = nn.Parameter(torch.ones((), dtype=torch.float32))
        self.register_buffer("floor", torch.full((), FLOOR), persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        if self.step_size is None or not self.enabled or not tensor.numel():
            return super().forward(tensor)
        self._start(tensor)
        if not self.training:
            return fake_quantize(tensor, self.step_size.detach(), self.zero_point, self.bits)
        low, high, limit = self._limits(tensor.dtype)
        return learned_quantize(tensor, self.step_size, low, high, torch.rsqrt(tensor[0].numel() * limit))

    def _limits(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        low = -self.zero_point.to(dtype)
        high = low + (2**self.bits - 1)
        return low, high, torch.maximum(-low, high)

    @torch.no_grad()
    def _start(self, tensor: Tensor) -> None:
        if self.started or self.step_size is None:
            return
        self.started, self.observe = True, "never"
        if not float(self.batches):
            self.update(tensor.detach())
        limit = self._limits(torch.float32)[2]
        mean = tensor.detach().float().abs().mean()
        step = 2.0 * mean / limit**0.5
        self.step_size.copy_(torch.where(step > torch.finfo(torch.float32).tiny, step, self.scale))
        self.floor.copy_(FLOOR * self.step_size)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Put the scale back to a hundredth of where it began, where a step took it below."""
        if self.step_size is not None:
            self.step_size.clamp_(min=self.floor)

    def freeze(self) -> None:
        """Quantize from now on with the scale as it stands; without one, with the range."""
        super().freeze()
        if self.started and self.step_size is not None:
            self.scale.copy_(self.step_size.detach())
        self.step_size = None
