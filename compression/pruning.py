"""Masks bound to a model's modules: one over a layer's weights, one over the channels that several modules share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..studies.errors import ModelError
from .masks import MaskWeight, filter_mask, filter_norms, magnitude_mask
from .removal import ChannelGroup

__all__ = ["GroupMask", "LayerMask", "MaskedTensor", "latent_weight", "masked_weight"]


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
    """One mask over the channels of a group: the filters that produce them, their biases and their batch norms."""

    def __init__(self, model: nn.Module, group: ChannelGroup, scored: set[str], sparsity: float, round_to: int) -> None:
        self.group, self.sparsity, self.round_to = group, sparsity, round_to
        self.masked: list[MaskedTensor] = []
        self.scored: list[MaskedTensor] = []
        self._targets: list[tuple[Tensor, list[int], list[int]]] = []
        device = next(model.parameters()).device
        self.keep = torch.ones(group.channels, dtype=torch.bool, device=device)
        for member in (*group.layers, *group.norms):
            module = model.get_submodule(member.name)
            for tensor in ("weight", "bias"):
                latent = getattr(module, tensor, None)
                if latent is None:
                    if tensor == "weight":
                        raise ModelError(
                            f"`structure` filter needs batch norms with weights; found none in {member.name}."
                        )
                    continue
                simulator = _mask(module, tensor, (latent.shape[0], *[1] * (latent.dim() - 1)))
                masked = MaskedTensor(module, tensor, simulator)
                self.masked.append(masked)
                self._targets.append((simulator.keep, list(member.own), list(member.root)))
                if tensor == "weight" and member.name in scored:
                    self.scored.append(masked)

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        norms = [filter_norms(masked.simulator(masked.latent())) for masked in self.scored]
        self.keep.copy_(filter_mask(norms, sparsity, round_to=self.round_to))
        for keep, own, root in self._targets:
            keep.flatten()[own] = self.keep[root]

    def removed(self) -> list[int]:
        return torch.nonzero(~self.keep).flatten().tolist()


def _mask(module: nn.Module, tensor: str, shape: Sequence[int]) -> MaskWeight:
    simulator = MaskWeight(shape, device=latent_weight(module, tensor).device)
    parametrize.register_parametrization(module, tensor, simulator)
    return simulator
