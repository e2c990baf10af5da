"""Multiply-accumulate operations of a model, counted in a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["count_macs"]


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass of `example` (1, C, H, W), counted module by module."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            # a transposed convolution spreads every input value over its kernel, a plain one gathers for every output
            values = inputs[0].numel() if module.transposed else output.numel()
            total += values * module.weight[0].numel()

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return total
