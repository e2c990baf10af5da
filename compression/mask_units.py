"""Trained masks on a model: scores, and the simulators that they drive, for one layer or one channel group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .hardware_loss import binarize
from .masks import MaskWeight
from .pruning import MaskedTensor, latent_weight, made_by, mask_input, mask_output
from .removal import ChannelGroup, Member

__all__ = ["FIRST_SCORE", "LearnedMask", "MaskUnit", "channel_unit", "weight_unit"]

FIRST_SCORE = 0.5
"""The scores' mean at the start: all masks on, the least important next to the threshold."""


class LearnedMask(MaskWeight):
    """Weight simulator: times the binary mask of trained scores, and exact zeros once `freeze` was called.

    Args:
        shape: Shape of the mask, broadcast against the tensor.
        scores: M, shared by all tensors of a group.
        own: The tensor's channels that the group masks, None for one score a weight.
        root: The score of each of them.
        when: ``"always"``, or ``"frozen"`` to leave the tensor alone until `freeze`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        scores: nn.Parameter,
        *,
        own: Sequence[int] | None = None,
        root: Sequence[int] = (),
        when: Literal["always", "frozen"] = "always",
    ) -> None:
        super().__init__(shape, device=scores.device)
        self.scores = scores
        self.when, self.frozen = when, False
        self._own = None if own is None else torch.tensor(own, dtype=torch.int64, device=scores.device)
        self._root = torch.tensor(list(root), dtype=torch.int64, device=scores.device)

    def forward(self, weight: Tensor) -> Tensor:
        if self.frozen:
            return super().forward(weight)
        if self.when == "frozen":
            return weight
        return weight * self._placed(binarize(self.scores)).to(weight.dtype)

    @torch.no_grad()
    def freeze(self, keep: Tensor) -> None:
        """Stay at `keep`, bool in the shape of the scores, from now on."""
        self.keep.copy_(self._placed(keep.to(torch.float32)) > 0.5)
        self.frozen = True

    def _placed(self, mask: Tensor) -> Tensor:
        if self._own is None:
            return mask.reshape(self.keep.shape)
        full = mask.new_ones(self.keep.numel())
        return full.index_put((self._own,), mask[self._root]).reshape(self.keep.shape)


class MaskUnit:
    """Scores of one layer's weights or of one group's channels, and every mask that they drive.

    Attributes:
        scores: M, in the weight's shape or (channels,).
        group: The channel group, None for weights.
        layer: The masked layer, or the group's leader.
        masks: (module, its tensor or None for what it reads or gives, mask).
        importance: What gradients say of each score, summed; in the scores' shape.
    """

    def __init__(self, scores: nn.Parameter, group: ChannelGroup | None, layer: str) -> None:
        self.scores, self.group, self.layer = scores, group, layer
        self.masks: list[tuple[nn.Module, str | None, LearnedMask]] = []
        self.importance = torch.zeros_like(scores)

    def keep(self, threshold: float, round_to: int) -> Tensor:
        """Which scores lie at `threshold` or above, bool; for channels at least one, in multiples of `round_to`."""
        scores = self.scores.detach()
        keep = scores >= threshold
        if self.group is None:
            return keep
        kept = max(1, int(keep.sum()))
        kept = min(scores.numel(), -(-kept // round_to) * round_to)
        chosen = torch.zeros_like(keep)
        chosen[torch.topk(scores, kept).indices] = True
        return chosen

    def zero_latents(self) -> None:
        """Put what frozen masks hold at zero there in the latent tensors too."""
        for module, tensor, mask in self.masks:
            if tensor is not None:
                MaskedTensor(module, tensor, mask).zero_latent()


@torch.no_grad()
def weight_unit(module: nn.Module, name: str) -> MaskUnit:
    """One score for each weight of a layer."""
    weight = latent_weight(module)
    unit = MaskUnit(_first_scores(weight.detach().abs()), None, name)
    _put(unit, module, "weight", LearnedMask(weight.shape, unit.scores))
    return unit


@torch.no_grad()
def channel_unit(model: nn.Module, group: ChannelGroup) -> MaskUnit:
    """One score for each channel of a group.

    Masks sit where the channels are read, and from `freeze` on also where they are made: filters, biases, batch norms,
    what shortcuts give.

    Raises:
        ModelError: A batch norm of the group has no weights.
    """
    magnitudes = torch.zeros(group.channels, device=next(model.parameters()).device)
    for member in group.layers:
        norms = latent_weight(model.get_submodule(member.name)).detach().abs().flatten(1).mean(dim=1)
        magnitudes.index_add_(0, torch.tensor(member.root, device=magnitudes.device), norms[list(member.own)].float())
    unit = MaskUnit(_first_scores(magnitudes), group, group.leader)
    for member, module, tensor in made_by(model, group):
        latent = latent_weight(module, tensor)
        shape: tuple[int, ...] = (latent.shape[0], *[1] * (latent.dim() - 1))
        _put(unit, module, tensor, _masking(unit.scores, member, shape, when="frozen"))
    for member in group.shortcuts:
        module = model.get_submodule(member.name)
        mask = _masking(unit.scores, member, (1, int(module.out_channels), 1, 1), when="frozen")  # type: ignore[arg-type]
        mask_output(module, mask)
        unit.masks.append((module, None, mask))
    for member in group.consumers:
        module = model.get_submodule(member.name)
        if isinstance(module, nn.Conv2d | nn.Linear):
            latent = latent_weight(module)
            shape = (1, latent.shape[1], *[1] * (latent.dim() - 2))
            _put(unit, module, "weight", _masking(unit.scores, member, shape, when="always"))
        else:
            mask = _masking(unit.scores, member, (1, int(module.in_channels), 1, 1), when="always")  # type: ignore[arg-type]
            mask_input(module, mask)
            unit.masks.append((module, None, mask))
    return unit


def _put(unit: MaskUnit, module: nn.Module, tensor: str, mask: LearnedMask) -> None:
    parametrize.register_parametrization(module, tensor, mask)
    unit.masks.append((module, tensor, mask))


def _masking(
    scores: nn.Parameter, member: Member, shape: Sequence[int], *, when: Literal["always", "frozen"]
) -> LearnedMask:
    return LearnedMask(shape, scores, own=member.own, root=member.root, when=when)


def _first_scores(magnitudes: Tensor) -> nn.Parameter:
    """Scores in proportion to magnitudes, their mean `FIRST_SCORE`; layers are so made comparable."""
    mean = magnitudes.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return nn.Parameter((FIRST_SCORE * magnitudes / mean).float())
