"""Output ranges from calibration images: extremes at 8 bits, below them the clip that loses least squared error.

At few bits an extreme that few values reach costs every other value its resolution (Banner et al. 2019,
arXiv:1810.05723). A first pass observes the range, a second one sums the squared error at each clip ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .quantizers import CLIP_RATIOS, ActivationQuantizer, fake_quantize, range_parameters

__all__ = ["calibrate", "clip_errors"]

UNCLIPPED_BITS = 8


@torch.no_grad()
def clip_errors(
    tensor: Tensor, minimum: Tensor, maximum: Tensor, bits: int, ratios: Sequence[float] = CLIP_RATIOS
) -> Tensor:
    """Squared error of `tensor` in the range times each of `ratios`, summed: float64, (ratios,).

    Args:
        tensor: Floating, any shape.
        minimum: 0-d, at most 0.
        maximum: 0-d, at least 0.
        bits: 1–8.
        ratios: Positive.
    """
    errors = []
    for ratio in ratios:
        scale, zero_point = range_parameters(minimum * ratio, maximum * ratio, bits)
        errors.append((fake_quantize(tensor, scale, zero_point, bits) - tensor).square_().sum(dtype=torch.float64))
    return torch.stack(errors)


@torch.no_grad()
def calibrate(model: nn.Module, quantizers: Sequence[ActivationQuantizer], images: Iterable[Tensor]) -> None:
    """Give `quantizers` of `model` the ranges of what passes through them, unquantized, for all `images`.

    Args:
        model: In eval mode.
        quantizers: Those to calibrate; they are left disabled, to be frozen.
        images: Batches (N, C, H, W).

    Raises:
        ValueError: There are no batches.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in images]
    if not batches:
        raise ValueError("`calibration` must hold at least one batch to find output ranges; found none.")
    for quantizer in quantizers:
        quantizer.reset()
        quantizer.enabled, quantizer.observe = False, "always"
    _run(model, batches)
    for quantizer in quantizers:
        quantizer.observe = "never"
    clipped = [quantizer for quantizer in quantizers if quantizer.bits < UNCLIPPED_BITS]
    if not clipped:
        return
    # of a quantizer that nothing passes through the first ratio wins, which is 1
    errors = {quantizer: torch.zeros(len(CLIP_RATIOS), dtype=torch.float64, device=device) for quantizer in clipped}

    def add(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, ActivationQuantizer)
        errors[quantizer] += clip_errors(inputs[0], quantizer.minimum, quantizer.maximum, quantizer.bits)

    hooks = [quantizer.register_forward_pre_hook(add) for quantizer in clipped]
    try:
        _run(model, batches)
    finally:
        for hook in hooks:
            hook.remove()
    for quantizer, found in errors.items():
        quantizer.clip(CLIP_RATIOS[int(found.argmin())])


def _run(model: nn.Module, batches: Iterable[Tensor]) -> None:
    for batch in batches:
        model(batch)
