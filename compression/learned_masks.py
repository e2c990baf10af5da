"""Masks that are trained with the weights (Vemparala et al., "…Using In-train Pruning"), over weights or channels.

Each score M stands for one weight, or for one channel that several modules share: its filters in every coupled layer,
their batch norms, the inputs of the layers behind. While training moves the scores (between `prune_start` and
`prune_end`), the target falls along the cubic schedule from 1 to ψ*, so that the hinge never asks for much at once; at
`prune_end` one threshold over all scores puts ψ just below ψ*, and the masks stay as they are.

While scores move, a channel is masked where it is read (in the weights of the layers behind): the network's outputs
are those of masked filters, but a channel that is off still has values, and so its gradient says what it would bring.
Masked where it is made it would be an exact zero, through which a ReLU passes no gradient, and could never come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spaces.layers import LayerInfo
from ..spaces.plan import Stages, TrialPlan
from ..studies.errors import ModelError
from .hardware_loss import LayerCosts, Operations, Parameters, binarize, dense_channels, hardware_loss
from .masks import MaskWeight
from .pruning import latent_weight, mask_input, mask_output
from .removal import ChannelGroup, Member, Removed
from .schedule import cubic_sparsity

if TYPE_CHECKING:
    from .targets.cost_table import CostTable

__all__ = ["LearnedMask", "LearnedMasks"]

TOLERANCE = 0.02
# the scores' mean at the start: all masks on, the least important next to the threshold
FIRST_SCORE = 0.5
# shares of the pruning stage: importance is measured up to the first, the target has its final value from the second on
MEASURED, ON_SCHEDULE = 0.1, 0.75
# by this the strength grows with every step that finds ψ at twice its target (less where it is nearer), and falls back
GROWTH = 1.1
SAMPLED = 500
LARGEST_RATE = 16.0


class LearnedMask(MaskWeight):
    """Weight simulator: times the binary mask of trained scores, and exact zeros once `freeze` was called.

    Args:
        shape: Shape of the mask, broadcast against the tensor.
        scores: M, shared by all tensors of a group.
        own: The tensor's channels that the group masks, None for one score a weight.
        root: The score of each of them.
        when: ``"moving"`` masks until `freeze` only (where channels are read), ``"frozen"`` from then on (where they
            are made), ``"always"`` both.
    """

    def __init__(
        self,
        shape: Sequence[int],
        scores: nn.Parameter,
        *,
        own: Sequence[int] | None = None,
        root: Sequence[int] = (),
        when: Literal["moving", "frozen", "always"] = "always",
    ) -> None:
        super().__init__(shape, device=scores.device)
        self.scores = scores
        self.when, self.frozen = when, False
        self._own = None if own is None else torch.tensor(own, device=scores.device)
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
        if self.when != "moving":
            self.keep.copy_(self._placed(keep.to(torch.float32)) > 0.5)
        self.frozen = True

    def _placed(self, mask: Tensor) -> Tensor:
        if self._own is None:
            return mask.reshape(self.keep.shape)
        full = mask.new_ones(self.keep.numel())
        return full.index_put((self._own,), mask[self._root]).reshape(self.keep.shape)


class _Unit:
    """Scores, every mask that they drive, and the layers whose cost they change."""

    def __init__(self, scores: nn.Parameter, group: ChannelGroup | None, layer: str) -> None:
        self.scores, self.group, self.layer = scores, group, layer
        self.masks: list[tuple[nn.Module, str | None, LearnedMask]] = []
        self.importance = torch.zeros_like(scores)
        # (layer, score of each of its channels that the group masks)
        self.outputs = _roots(group.layers if group else (), scores)
        self.inputs = _roots(group.consumers if group else (), scores)

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


class LearnedMasks:
    """All trained masks of one model, and what they leave of its cost.

    Args:
        model: Plain; the masks are put on it, in place.
        plan: Layers whose pruning has the mask ``"learned"``; target, strength and cost are the same in all of them.
        layers: The model's layers.
        groups: Channel groups of the layers whose filters are masked.
        stages: When scores move, and when they are frozen.
        round_to: Channels are kept in multiples of this, as far as there are.
        cost_table: Measured costs, for the cost ``"latency"``.
        deviations: Where to note what differs from the plan.

    Raises:
        ValueError: Layers differ in target, strength or cost, or the cost table is missing.
        ModelError: A group's batch norm has no weights to mask.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TrialPlan,
        layers: Sequence[LayerInfo],
        groups: Sequence[ChannelGroup],
        *,
        stages: Stages,
        round_to: int = 1,
        cost_table: CostTable | None = None,
        deviations: list[str],
    ) -> None:
        planned = {name: layer.pruning for name, layer in plan.layers.items() if layer.learned and layer.pruning}
        agreed = {(pruning.target, pruning.strength, pruning.cost) for pruning in planned.values()}
        if len(agreed) != 1:
            raise ValueError(f"`target`, `strength` and `cost` of learned masks must agree; found {sorted(agreed)}.")
        ((target, strength, cost),) = agreed
        assert target is not None
        assert strength is not None
        self.target, self.strength, self.round_to, self.deviations = target, strength, round_to, deviations
        self.stages, self.frozen = stages, False
        self._now, self._phase, self._growth = 1.0, "waiting", 1.0
        self._layers = {layer.name: layer for layer in layers}
        self._costs = _costs(cost, layers, cost_table)
        self._total = self._costs.overhead + sum(self._costs.dense_cost(layer.name) for layer in layers)
        self._units = [_channel_unit(model, group) for group in groups]
        self._units += [
            _weight_unit(model.get_submodule(name), name)
            for name, pruning in planned.items()
            if pruning.structure == "weight"
        ]

    def parameters(self) -> list[nn.Parameter]:
        """The scores M, one tensor a group or layer."""
        return [unit.scores for unit in self._units]

    def rates(self) -> list[float]:
        """For each tensor of scores the factor on its gradients that makes ψ pull on all scores alike.

        A score is then worth what its channel or weight brings to the task for each unit of cost, so that one
        threshold is right for all layers, cheap and expensive ones.
        """
        masks = [torch.ones_like(unit.scores, requires_grad=True) for unit in self._units]
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._share(masks), masks)
        means = [float(gradient.mean()) for gradient in gradients]
        counts = [unit.scores.numel() for unit in self._units]
        overall = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
        return [min(LARGEST_RATE, overall / mean) if mean > overall / LARGEST_RATE else LARGEST_RATE for mean in means]

    def share(self) -> Tensor:
        """ψ, 0-d: the cost under the masks as they are, with gradients to the scores; 1 for the dense network."""
        return self._share([binarize(unit.scores) for unit in self._units])

    def loss(self) -> Tensor:
        """b·L_hw against the target of this moment, 0-d.

        b is the planned strength as long as it suffices; it grows while ψ stays above the target, as it must where
        operations are worth more to the task than b.
        """
        excess = hardware_loss(self.share(), self._now)
        above = min(1.0, float(excess.detach()) / self._now)
        self._growth = max(1.0, self._growth * (GROWTH**above if above > 0.0 else 1.0 / GROWTH))
        return self.strength * self._growth * excess

    @property
    def moving(self) -> bool:
        """Whether the scores are being trained at this moment."""
        return self._phase == "moving" and not self.frozen

    def set_progress(self, fraction: float) -> None:
        """Move the target of this moment to where it is after `fraction` of training, in [0, 1].

        It begins to fall from 1 when a tenth of the pruning stage is over and has its final value after three quarters.
        """
        start, end = self.stages.prune_start, self.stages.prune_end
        moved, reached = start + MEASURED * (end - start), start + ON_SCHEDULE * (end - start)
        if fraction >= moved and self._phase != "moving":
            self._phase = "moving"
            self._start_from_importance()
        elif start <= fraction < moved:
            self._phase = "measuring"
        self._now = 1.0 - cubic_sparsity(fraction, final=1.0 - self.target, start=moved, end=reached)

    @torch.no_grad()
    def observe(self) -> None:
        """Take the scores' present gradients into their importance, while that is being measured."""
        if self._phase == "measuring" and not self.frozen:
            for unit in self._units:
                if unit.scores.grad is not None:
                    unit.importance += unit.scores.grad.abs()

    @torch.no_grad()
    def _start_from_importance(self) -> None:
        # squared gradients estimate what removal costs the task (Theis et al. 2018); their mean is taken over
        # absolute values, which a few batches with large gradients do not decide
        worth = [rate * unit.importance.square() for unit, rate in zip(self._units, self.rates(), strict=True)]
        flat = torch.cat([one.flatten() for one in worth])
        if float(flat.sum()) > 0.0:
            # their order alone: a few outliers would leave all others next to the threshold, to fall at once
            order = torch.argsort(torch.argsort(flat, stable=True), stable=True)
            parts = ((order + 1) * (2.0 * FIRST_SCORE / len(flat))).split([unit.scores.numel() for unit in self._units])
            for unit, part in zip(self._units, parts, strict=True):
                unit.scores.copy_(part.reshape(unit.scores.shape))

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix every mask at the threshold that puts ψ just below its target; a second call does nothing."""
        if self.frozen:
            return
        reached = float(self.share())
        threshold = self._threshold()
        for unit in self._units:
            keep = unit.keep(threshold, self.round_to)
            for _, _, mask in unit.masks:
                mask.freeze(keep)
            unit.scores.requires_grad_(False)
            unit.scores.copy_(torch.where(keep, unit.scores.abs(), -unit.scores.abs() - 1e-6))
        self.frozen = True
        self.after_step()
        final = float(self.share())
        if abs(final - self.target) > TOLERANCE:
            self.deviations.append(f"learned masks keep {final:.3f} of the cost, their target is {self.target:.3f}")
        if abs(reached - self.target) > TOLERANCE:
            self.deviations.append(f"training left learned masks at {reached:.3f} of the cost, moved to {final:.3f}")

    @torch.no_grad()
    def after_step(self) -> None:
        """Put frozen masks' latent tensors back to zero."""
        if not self.frozen:
            return
        for unit in self._units:
            for module, tensor, mask in unit.masks:
                if tensor is not None:
                    latent = latent_weight(module, tensor)
                    latent.copy_(mask(latent))

    def removed(self) -> Removed:
        """Channels that frozen masks hold at zero, for real removal."""
        found = []
        for unit in self._units:
            off = torch.nonzero(unit.scores.detach() < 0.0).flatten().tolist()
            if unit.group is not None and off:
                found.append((unit.group.leader, off))
        return found

    def report(self) -> dict[str, float]:
        """Target and what was reached, JSON values."""
        with torch.no_grad():
            return {"target": self.target, "reached": float(self.share())}

    def _share(self, masks: Sequence[Tensor]) -> Tensor:
        device = masks[0].device
        lost_in: dict[str, Tensor] = {}
        lost_out: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for unit, mask in zip(self._units, masks, strict=True):
            if unit.group is None:
                kept[unit.layer] = mask.mean()
                continue
            off = 1.0 - mask
            for lost, sides in ((lost_out, unit.outputs), (lost_in, unit.inputs)):
                for name, roots in sides:
                    gone = off[roots].sum()
                    lost[name] = lost[name] + gone if name in lost else gone
        total = torch.full((), self._costs.overhead, device=device)
        for name, layer in self._layers.items():
            inputs, outputs = dense_channels(layer)
            if name not in lost_in and name not in lost_out and name not in kept:
                total = total + self._costs.dense_cost(name)
                continue
            zero = torch.zeros((), device=device)
            out_channels = outputs - lost_out.get(name, zero)
            in_channels = out_channels if layer.kind == "depthwise" else inputs - lost_in.get(name, zero)
            total = total + self._costs.cost(name, in_channels, out_channels) * kept.get(name, 1.0)
        return total / self._total

    def _threshold(self) -> float:
        """The lowest threshold at which ψ does not exceed its target, or else the one at which it is least."""

        def cost(threshold: float) -> float:
            keeps = [unit.keep(threshold, self.round_to).to(torch.float32) for unit in self._units]
            return float(self._share(keeps))

        scores = torch.unique(torch.cat([unit.scores.detach().flatten() for unit in self._units]))
        low, high = 0, len(scores)
        while low < high:
            middle = (low + high) // 2
            if cost(float(scores[middle])) <= self.target:
                high = middle
            else:
                low = middle + 1
        if low < len(scores):
            return float(scores[low])
        # out of reach: measured latency need not fall with channels, so the least that there is may lie anywhere
        sampled = scores[:: max(1, len(scores) // SAMPLED)].tolist()
        return min([*sampled, float(scores[-1]) + 1.0], key=cost)


def _costs(cost: str, layers: Sequence[LayerInfo], cost_table: CostTable | None) -> LayerCosts:
    if cost == "operations":
        return Operations(layers)
    if cost == "parameters":
        return Parameters(layers)
    if cost_table is None:
        raise ValueError("`cost_table` must be given for learned masks whose cost is latency; found None.")
    return cost_table


def _roots(members: Sequence[Member], scores: Tensor) -> list[tuple[str, Tensor]]:
    return [(member.name, torch.tensor(member.root, dtype=torch.int64, device=scores.device)) for member in members]


def _first_scores(magnitudes: Tensor) -> nn.Parameter:
    """Scores in proportion to magnitudes, their mean `FIRST_SCORE`; layers are so made comparable."""
    mean = magnitudes.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return nn.Parameter((FIRST_SCORE * magnitudes / mean).float())


@torch.no_grad()
def _weight_unit(module: nn.Module, name: str) -> _Unit:
    weight = latent_weight(module)
    unit = _Unit(_first_scores(weight.detach().abs()), None, name)
    mask = LearnedMask(weight.shape, unit.scores)
    parametrize.register_parametrization(module, "weight", mask)
    unit.masks.append((module, "weight", mask))
    return unit


@torch.no_grad()
def _channel_unit(model: nn.Module, group: ChannelGroup) -> _Unit:
    magnitudes = torch.zeros(group.channels, device=next(model.parameters()).device)
    for member in group.layers:
        norms = latent_weight(model.get_submodule(member.name)).detach().abs().flatten(1).mean(dim=1)
        magnitudes.index_add_(0, torch.tensor(member.root, device=magnitudes.device), norms[list(member.own)].float())
    unit = _Unit(_first_scores(magnitudes), group, group.leader)
    for member in (*group.layers, *group.norms):
        module = model.get_submodule(member.name)
        if getattr(module, "weight", None) is None:
            raise ModelError(f"`structure` filter needs batch norms with weights; {member.name} has none.")
        for tensor in ("weight", "bias"):
            if getattr(module, tensor, None) is not None:
                latent = latent_weight(module, tensor)
                mask = _masking(unit.scores, member, (latent.shape[0], *[1] * (latent.dim() - 1)), when="frozen")
                parametrize.register_parametrization(module, tensor, mask)
                unit.masks.append((module, tensor, mask))
    for member in group.shortcuts:
        module = model.get_submodule(member.name)
        mask = _masking(unit.scores, member, (1, int(module.out_channels), 1, 1), when="frozen")  # type: ignore[arg-type]
        mask_output(module, mask)
        unit.masks.append((module, None, mask))
    for member in group.consumers:
        module = model.get_submodule(member.name)
        if isinstance(module, nn.Conv2d | nn.Linear):
            latent = latent_weight(module)
            mask = _masking(unit.scores, member, (1, latent.shape[1], *[1] * (latent.dim() - 2)), when="moving")
            parametrize.register_parametrization(module, "weight", mask)
            unit.masks.append((module, "weight", mask))
        else:
            mask = _masking(unit.scores, member, (1, int(module.in_channels), 1, 1), when="moving")  # type: ignore[arg-type]
            mask_input(module, mask)
            unit.masks.append((module, None, mask))
    return unit


def _masking(
    scores: nn.Parameter, member: Member, shape: Sequence[int], *, when: Literal["moving", "frozen"]
) -> LearnedMask:
    return LearnedMask(shape, scores, own=member.own, root=member.root, when=when)
