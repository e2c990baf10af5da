"""Batch-norm statistics measured again once weights stand still (Wu & Johnson 2021, arXiv 2105.07576, section 3).

While training, statistics are a moving average over weights that still change; weights that jump between clusters or
quantization levels change most at the end. The average over a few batches with the final weights takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["reestimate_statistics"]


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace each batch norm's running mean and variance by their plain averages over `batches`.

    Args:
        model: On its device; in evaluation mode afterwards. Nothing else in it changes.
        batches: Images as in training, (N, 3, H, W); without any the statistics stay.
    """
    model.eval()
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for number, images in enumerate(batches):
        for layer in layers:
            if number == 0:
                layer.reset_running_stats()
            # without momentum a batch norm keeps the average of all batches since the reset
            layer.momentum = None
            layer.train()
        model(images)
        # between batches the model is one to attack, not to train
        model.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
