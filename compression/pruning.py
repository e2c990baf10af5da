"""Masks bound to a model's modules: one over a layer's weights, one over the channels that several modules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..studies.errors import ModelError
from .clustering import ClusterWeight
from .masks import MaskWeight, filter_mask, filter_norms, magnitude_mask, pattern_mask
from .quantizers import WeightQuantizer
from .removal import ChannelGroup, Member

__all__ = ["GroupMask", "LayerMask", "MaskedTensor", "latent_weight", "mask_input", "mask_output", "masked_weight"]

OUTPUT_MASK, INPUT_MASK = "output_mask", "input_mask"


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
            weight = weight if isinstance(simulator, ClusterWeight | WeightQuantizer) else simulator(weight)
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
    """Magnitude mask of one layer: single weights, or the (n, m) `pattern` in its inputs."""

    def __init__(
        self,
        module: nn.Module,
        sparsity: float,
        *,
        pattern: tuple[int, int] | None = None,
        scope: Literal["layer", "global"] = "layer",
    ) -> None:
        weight = latent_weight(module, "weight")
        self.sparsity, self.pattern, self.scope = sparsity, pattern, scope
        self.masked = [MaskedTensor(module, "weight", _mask(module, "weight", weight.shape))]

    def values(self) -> Tensor:
        """The weight under the mask as it is."""
        (masked,) = self.masked
        return masked.simulator(masked.latent().detach())

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        if self.pattern is None:
            self.set(magnitude_mask(self.values(), sparsity))
        else:
            self.set(pattern_mask(self.values(), *self.pattern, share=sparsity / self.sparsity))

    def set(self, keep: Tensor) -> None:
        """Mask with `keep`, bool in the weight's shape, and put what it takes to zero."""
        (masked,) = self.masked
        masked.simulator.keep.copy_(keep)
        masked.zero_latent()


class GroupMask:
    """One mask over the channels of a group: its filters and their biases, its batch norms, its shortcuts' outputs."""

    def __init__(
        self,
        model: nn.Module,
        group: ChannelGroup,
        scored: set[str],
        sparsity: float,
        round_to: int,
        *,
        scope: Literal["layer", "global"] = "layer",
    ) -> None:
        self.group, self.sparsity, self.round_to, self.scope = group, sparsity, round_to, scope
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
        self.set(filter_mask(self._norms(), sparsity, round_to=self.round_to))

    def magnitudes(self) -> Tensor:
        """Mean magnitude of the weights in each channel's filters, (channels,)."""
        weights = sum(masked.latent()[0].numel() for masked in self.scored)
        return torch.stack([norm.double() for norm in self._norms()]).sum(dim=0) / weights

    def _norms(self) -> list[Tensor]:
        return [filter_norms(masked.simulator(masked.latent())) for masked in self.scored]

    @torch.no_grad()
    def set(self, keep: Tensor) -> None:
        """Mask with `keep`, bool (channels,), and put what it takes to zero."""
        self.keep.copy_(keep)
        for simulator, member in self._targets:
            simulator.keep.flatten()[list(member.own)] = self.keep[list(member.root)]
        for masked in self.masked:
            masked.zero_latent()

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
    mask_output(module, simulator)
    return simulator


def mask_output(module: nn.Module, simulator: MaskWeight) -> None:
    """Put `simulator` on what a module without weights gives."""
    module.add_module(OUTPUT_MASK, simulator)
    module.register_forward_hook(_mask_output)


def mask_input(module: nn.Module, simulator: MaskWeight) -> None:
    """Put `simulator` on what a module without weights reads."""
    module.add_module(INPUT_MASK, simulator)
    module.register_forward_pre_hook(_mask_input)


def _mask_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return module.get_submodule(INPUT_MASK)(inputs[0]), *inputs[1:]


def _mask_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.get_submodule(OUTPUT_MASK)(output)
