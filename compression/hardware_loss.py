"""What trained masks leave of a network's cost, ψ, and the loss that holds it to a target (Vemparala et al. 2021).

Ours follows the method of "Adversarial Robust Model Compression Using In-train Pruning": M_norm = ½·tanh(M) + ½,
M_b = round(M_norm), L_hw = max(Σ_t ψ_t − ψ*, 0), with ψ_t normalised so that the dense network has Σ_t ψ_t = 1. A
convolution's ψ_t is proportional to kept inputs times kept outputs, so that either side's masks feel both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ..spaces.layers import LayerInfo

__all__ = ["LayerCosts", "Operations", "Parameters", "binarize", "dense_channels", "hardware_loss"]


class _Binarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        tanh = torch.tanh(scores)
        ctx.save_for_backward(tanh)
        # ½ goes to 1, where torch.round would take it to the even 0 and a fresh score of 0 would prune
        return (tanh >= 0.0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (tanh,) = ctx.saved_tensors
        return gradients[0] * 0.5 * (1.0 - tanh.square())


def binarize(scores: Tensor) -> Tensor:
    """M_b = round(½·tanh(M) + ½) in {0, 1}; backwards ∂M_b/∂M ≈ ½·(1 − tanh²M), straight through the rounding.

    Args:
        scores: M, floating, any shape; a mask is on where its score is 0 or more.
    """
    return _Binarize.apply(scores)


def hardware_loss(share: Tensor, target: float) -> Tensor:
    """L_hw = max(ψ − ψ*, 0), 0-d.

    Args:
        share: ψ, 0-d, 1 for the dense network.
        target: ψ*.
    """
    return (share - target).clamp(min=0.0)


class LayerCosts(Protocol):
    """What one layer costs when it keeps so many channels; any unit, the sum over layers is normalised."""

    @property
    def overhead(self) -> float:
        """Cost of the network that no mask changes."""

    def costs(self, layers: Sequence[str], in_channels: Tensor, out_channels: Tensor) -> Tensor:
        """Costs, (L,), differentiable in the kept numbers of channels, each (L,) and floating."""

    def dense_cost(self, layer: str) -> float:
        """Cost of the whole layer."""


class _Proportional:
    """Cost in proportion to kept inputs times kept outputs (to kept outputs where each channel has its own filter)."""

    overhead = 0.0

    def __init__(self, layers: Sequence[LayerInfo], dense: Mapping[str, float]) -> None:
        self._dense = dict(dense)
        # inputs of a depthwise layer go with its outputs
        self._channels = {
            layer.name: (1 if layer.kind == "depthwise" else dense_channels(layer)[0], dense_channels(layer)[1])
            for layer in layers
        }
        self._depthwise = {layer.name: layer.kind == "depthwise" for layer in layers}
        self._ready: dict[tuple[tuple[str, ...], torch.device], tuple[Tensor, Tensor]] = {}

    def costs(self, layers: Sequence[str], in_channels: Tensor, out_channels: Tensor) -> Tensor:
        """Costs, (L,); see `LayerCosts`."""
        key = (tuple(layers), out_channels.device)
        if key not in self._ready:  # copied to the device once, and not in every step
            units = [self._dense[name] / prod(self._channels[name]) for name in layers]
            depthwise = [self._depthwise[name] for name in layers]
            device = out_channels.device
            self._ready[key] = (torch.tensor(units, device=device), torch.tensor(depthwise, device=device))
        unit, own = self._ready[key]
        return unit * out_channels * torch.where(own, torch.ones_like(in_channels), in_channels)

    def dense_cost(self, layer: str) -> float:
        """Cost of the whole layer."""
        return self._dense[layer]


class Operations(_Proportional):
    """Multiply-accumulates of one image: k²·H·W·C_in·C_out for a convolution."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        super().__init__(layers, {layer.name: float(layer.macs) for layer in layers})


class Parameters(_Proportional):
    """Numbers in the weights of convolutions and linear layers."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        super().__init__(layers, {layer.name: float(prod(layer.weight_shape)) for layer in layers})


def dense_channels(layer: LayerInfo) -> tuple[int, int]:
    """(inputs, outputs) of a whole layer; a depthwise one has as many inputs as outputs."""
    outputs = layer.weight_shape[0]
    return (outputs if layer.kind == "depthwise" else layer.weight_shape[1]), outputs
