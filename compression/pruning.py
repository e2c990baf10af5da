"""Masks bound to a model's modules: one over a layer's weights, one over the channels that several modules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..studies.errors import ModelError
from .masks import MaskWeight, filter_mask, filter_norms, magnitude_mask
from .removal import ChannelGroup, Member

__all__ = ["GroupMask", "LayerMask", "MaskedTensor", "latent_weight", "masked_weight"]

OUTPUT_MASK = "output_mask"


def latent_weight(module: nn.Module, tensor: str = "weight") -> nn.Parameter:
    """The trained tensor below a module's simulators, or its plain tensor."""
    if parametrize.is_parametrized(module, tensor):
        return module.parametrizations[tensor].original  # type: ignore[index, union-attr]
    return getattr(module, tensor)


def masked_weight(module: nn.Module, tensor: str = "weight") -> Tensor:
    """A module's tensor after its mask and before clusters and bits."""
    weight: Tensor = latent_weight(module, tensor)
    if parametrize.is_parametrized(module, tensor):
        for simulator in module.parametrizations[tensor]:  # type: ignore[index]
            weight = simulator(weight) if isinstance(simulator, MaskWeight) else weight
    return weight


class MaskedTensor:
    """One latent tensor under a mask."""

    def __init__(self, module: nn.Module, tensor: str, simulator: MaskWeight) -> None:
        self.module, self.tensor, self.simulator = module, tensor, simulator

    def latent(self) -> nn.Parameter:
        return latent_weight(self.module, self.tensor)

    @torch.no_grad()
    def zero_latent(self) -> None:
        latent = self.latent()
        latent.copy_(self.simulator(latent))


class LayerMask:
    """Magnitude mask of one layer."""

    def __init__(self, module: nn.Module, sparsity: float) -> None:
        weight = latent_weight(module, "weight")
        self.sparsity = sparsity
        self.masked = [MaskedTensor(module, "weight", _mask(module, "weight", weight.shape))]

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        (masked,) = self.masked
        masked.simulator.keep.copy_(magnitude_mask(masked.simulator(masked.latent()), sparsity))


class GroupMask:
    """One mask over the channels of a group: its filters and their biases, its batch norms, its shortcuts' outputs."""

    def __init__(self, model: nn.Module, group: ChannelGroup, scored: set[str], sparsity: float, round_to: int) -> None:
        self.group, self.sparsity, self.round_to = group, sparsity, round_to
        self.masked: list[MaskedTensor] = []
        self.scored: list[MaskedTensor] = []
        self._targets: list[tuple[MaskWeight, Member]] = []
        device = next(model.parameters()).device
        self.keep = torch.ones(group.channels, dtype=torch.bool, device=device)
        for member in (*group.layers, *group.norms):
            module = model.get_submodule(member.name)
            for tensor in ("weight", "bias"):
                if getattr(module, tensor, None) is not None:
                    masked = MaskedTensor(module, tensor, _channel_mask(module, tensor))
                    self.masked.append(masked)
                    self._targets.append((masked.simulator, member))
                    if tensor == "weight" and member.name in scored:
                        self.scored.append(masked)
                elif tensor == "weight":
                    raise ModelError(f"`structure` filter needs batch norms with weights; {member.name} has none.")
        for member in group.shortcuts:
            module = model.get_submodule(member.name)
            self._targets.append((_output_mask(module, int(module.out_channels), device), member))  # type: ignore[arg-type]

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        norms = [filter_norms(masked.simulator(masked.latent())) for masked in self.scored]
        self.keep.copy_(filter_mask(norms, sparsity, round_to=self.round_to))
        for simulator, member in self._targets:
            simulator.keep.flatten()[list(member.own)] = self.keep[list(member.root)]

    def removed(self) -> list[int]:
        return torch.nonzero(~self.keep).flatten().tolist()


def _mask(module: nn.Module, tensor: str, shape: Sequence[int]) -> MaskWeight:
    simulator = MaskWeight(shape, device=latent_weight(module, tensor).device)
    parametrize.register_parametrization(module, tensor, simulator)
    return simulator


def _channel_mask(module: nn.Module, tensor: str) -> MaskWeight:
    latent = latent_weight(module, tensor)
    shape = (latent.shape[0], *[1] * (latent.dim() - 1))
    if parametrize.is_parametrized(module, tensor):
        # a batch norm behind a concatenation belongs to several groups, each with its own channels
        for simulator in module.parametrizations[tensor]:  # type: ignore[index]
            if isinstance(simulator, MaskWeight) and simulator.keep.shape == shape:
                return simulator
    return _mask(module, tensor, shape)


def _output_mask(module: nn.Module, channels: int, device: torch.device) -> MaskWeight:
    simulator = MaskWeight((1, channels, 1, 1), device=device)
    module.add_module(OUTPUT_MASK, simulator)
    module.register_forward_hook(_mask_output)
    return simulator


def _mask_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.get_submodule(OUTPUT_MASK)(output)
