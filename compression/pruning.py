"""Masks bound to a model's modules: one over a layer's weights, one over the channels that several modules share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..studies.errors import ModelError
from .clustering import ClusterWeight
from .masks import MaskWeight, WeightMask, filter_mask, filter_norms, magnitude_mask, pattern_mask
from .quantizers import WeightQuantizer
from .removal import ChannelGroup, Member

__all__ = [
    "GroupMask",
    "LayerMask",
    "MaskedTensor",
    "latent_weight",
    "made_by",
    "mask_input",
    "mask_output",
    "masked_weight",
]

OUTPUT_MASK, INPUT_MASK = "output_mask", "input_mask"


def latent_weight(module: nn.Module, tensor: str = "weight") -> nn.Parameter:
    """The trained tensor below a module's simulators, or its plain tensor."""
    if parametrize.is_parametrized(module, tensor):
        return module.parametrizations[tensor].original  # type: ignore[index, union-attr]
    return getattr(module, tensor)


def masked_weight(module: nn.Module, tensor: str = "weight", *, clustered: bool = False) -> Tensor:
    """A module's tensor after its masks and before clusters and bits; after clusters too, if `clustered`."""
    skipped = WeightQuantizer if clustered else ClusterWeight | WeightQuantizer
    weight: Tensor = latent_weight(module, tensor)
    if parametrize.is_parametrized(module, tensor):
        for simulator in module.parametrizations[tensor]:  # type: ignore[index]
            weight = weight if isinstance(simulator, skipped) else simulator(weight)
    return weight


def made_by(model: nn.Module, group: ChannelGroup) -> Iterator[tuple[Member, nn.Module, str]]:
    """The tensors that make a group's channels: weights and biases of its layers and batch norms, by member.

    Raises:
        ModelError: A batch norm of the group has no weights to mask.
    """
    for member in (*group.layers, *group.norms):
        module = model.get_submodule(member.name)
        if getattr(module, "weight", None) is None:
            raise ModelError(f"`structure` filter needs batch norms with weights; {member.name} has none.")
        for tensor in ("weight", "bias"):
            if getattr(module, tensor, None) is not None:
                yield member, module, tensor


class MaskedTensor:
    """One latent tensor under a mask.

    Args:
        module: Has the tensor.
        tensor: Its name, ``"weight"`` or ``"bias"``.
        simulator: The mask, one of the tensor's parametrizations.
    """

    def __init__(self, module: nn.Module, tensor: str, simulator: MaskWeight) -> None:
        self.module, self.tensor, self.simulator = module, tensor, simulator

    def latent(self) -> nn.Parameter:
        """The trained tensor below the mask."""
        return latent_weight(self.module, self.tensor)

    @torch.no_grad()
    def zero_latent(self) -> None:
        """Put what the mask takes to zero in the trained tensor, where momentum or decay moved it."""
        latent = self.latent()
        latent.copy_(self.simulator(latent))


class LayerMask:
    """Magnitude mask of one layer, over the weights of those channels that survive.

    Args:
        name: The layer's.
        module: The layer; the mask is put on its weight (out, in, …).
        sparsity: Final share of surviving weights to remove, in [0, 1).
        pattern: (n, m): n of every m neighbouring surviving inputs stay; single weights where None.
        scope: ``"global"`` where a `GlobalWeightMask` decides.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        sparsity: float,
        *,
        pattern: tuple[int, int] | None = None,
        scope: Literal["layer", "global"] = "layer",
    ) -> None:
        weight = latent_weight(module, "weight")
        self.name, self.sparsity, self.pattern, self.scope = name, sparsity, pattern, scope
        self.simulator = WeightMask(weight.shape, device=weight.device)
        parametrize.register_parametrization(module, "weight", self.simulator)
        self.masked = [MaskedTensor(module, "weight", self.simulator)]
        self._rows, self._columns = (torch.arange(weight.shape[side], device=weight.device) for side in (0, 1))

    def lose(self, outputs: Iterable[int], inputs: Iterable[int]) -> None:
        """Leave what other masks remove out of what counts, from the next `update` or `set` on.

        Args:
            outputs: All filters that are gone, indices into the weight's first dimension.
            inputs: All inputs that are gone, indices into its second.
        """
        for side, gone in ((0, set(outputs)), (1, set(inputs))):
            left = [index for index in range(self.simulator.keep.shape[side]) if index not in gone]
            indices = torch.tensor(left, dtype=torch.int64, device=self.simulator.keep.device)
            if side:
                self._columns = indices
            else:
                self._rows = indices
        self.simulator.surviving = self._surviving(self.simulator.keep).numel()

    def values(self) -> Tensor:
        """The surviving weights under the mask as it is, (surviving outputs, surviving inputs, …)."""
        (masked,) = self.masked
        return self._surviving(masked.simulator(masked.latent().detach()))

    def state(self) -> dict[str, Any]:
        """What it holds besides the simulator's buffers, for a checkpoint."""
        return {"rows": self._rows, "columns": self._columns}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; the simulator's buffers are restored with the model's."""
        self._rows, self._columns = (state[key].to(self.simulator.keep.device) for key in ("rows", "columns"))

    def _surviving(self, weight: Tensor) -> Tensor:
        return weight.index_select(0, self._rows).index_select(1, self._columns)

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        """Choose anew by magnitude, what is at zero first.

        Args:
            sparsity: Share of surviving weights to remove at this moment, at most the final one.
        """
        if self.pattern is None:
            self.set(magnitude_mask(self.values(), sparsity))
        else:
            self.set(pattern_mask(self.values(), *self.pattern, share=sparsity / self.sparsity))

    def set(self, keep: Tensor) -> None:
        """Mask with `keep`, bool in the shape of `values`, and all that is lost; put what they take to zero."""
        (masked,) = self.masked
        masked.simulator.keep.fill_(False)
        masked.simulator.keep[self._rows.unsqueeze(1), self._columns] = keep
        masked.zero_latent()


class GroupMask:
    """One mask over the channels of a group: its filters and their biases, its batch norms, its shortcuts' outputs.

    Once the mask is final, `mask_readers` extends it to the weights that read the channels: they would go with them in
    the end, and until then shape their layers' scales and codebooks.

    Args:
        model: Plain or masked; the masks are put on it.
        group: What goes together.
        scored: Names of the layers whose filters are compared.
        sparsity: Final share of channels to remove, in [0, 1).
        round_to: Channels are kept in multiples of this, as far as there are.
        scope: ``"global"`` where a `GlobalFilterMask` decides.

    Raises:
        ModelError: A batch norm of the group has no weights to mask.
    """

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
        self._readers: list[tuple[MaskedTensor, Member]] = []
        self._reads = False
        device = next(model.parameters()).device
        self.keep = torch.ones(group.channels, dtype=torch.bool, device=device)
        for member, module, tensor in made_by(model, group):
            masked = MaskedTensor(module, tensor, _channel_mask(module, tensor, 0))
            self.masked.append(masked)
            self._targets.append((masked.simulator, member))
            if tensor == "weight" and member.name in scored:
                self.scored.append(masked)
        for member in group.shortcuts:
            module = model.get_submodule(member.name)
            self._targets.append((_output_mask(module, int(module.out_channels), device), member))  # type: ignore[arg-type]
        for member in group.consumers:
            module = model.get_submodule(member.name)
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._readers.append((MaskedTensor(module, "weight", _channel_mask(module, "weight", 1)), member))

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        """Choose anew by the sum of the scored filters' L1 norms, what is at zero first.

        Args:
            sparsity: Share of channels to remove at this moment.
        """
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

    @torch.no_grad()
    def mask_readers(self) -> None:
        """Put the weights that read masked channels to zero too; call it once, when the mask is final."""
        self._reads = True
        for masked, member in self._readers:
            masked.simulator.keep.flatten()[list(member.own)] = self.keep[list(member.root)]
            masked.zero_latent()
            self.masked.append(masked)

    def state(self) -> dict[str, Any]:
        """What it holds besides the simulators' buffers, for a checkpoint."""
        return {"keep": self.keep, "readers": self._reads}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, in a mask that was never final; the simulators' buffers come with the model's."""
        self.keep.copy_(state["keep"])
        if state["readers"]:
            self.mask_readers()

    def removed(self) -> list[int]:
        """The channels that are masked, as the leader counts them, ascending."""
        return torch.nonzero(~self.keep).flatten().tolist()


def _channel_mask(module: nn.Module, tensor: str, side: int) -> MaskWeight:
    """The tensor's mask over its dimension `side`: 0 for outputs, 1 for inputs."""
    latent = latent_weight(module, tensor)
    shape = tuple(size if dimension == side else 1 for dimension, size in enumerate(latent.shape))
    if parametrize.is_parametrized(module, tensor):
        # a batch norm behind a concatenation, or a layer, belongs to several groups, each with its own channels
        for simulator in module.parametrizations[tensor]:  # type: ignore[index]
            if type(simulator) is MaskWeight and simulator.keep.shape == shape:
                return simulator
    simulator = MaskWeight(shape, device=latent.device)
    parametrize.register_parametrization(module, tensor, simulator)
    return simulator


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
