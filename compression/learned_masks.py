"""Masks that are trained with the weights (Vemparala et al., "…Using In-train Pruning"), over weights or channels.

Each score M stands for one weight, or for one channel that several modules share: its filters in every coupled layer,
their batch norms, the inputs of the layers behind. As published are the masks, their straight-through gradients, the
hinge on ψ and the two optimizers. Ours, so that short trainings from checkpoints work as well as long ones from
scratch:

- for the first tenth of the pruning stage every mask is on and gradients tell what each is worth to the task for each
  unit of cost; the scores start in that order;
- the target falls along the cubic schedule from 1 to ψ*, so that the hinge never asks for much at once, and b grows
  while ψ stays above it;
- at the stage's end one threshold over all scores puts ψ just below ψ*, and the masks stay as they are.

While scores move, a channel is masked where it is read (in the weights of the layers behind): the network's outputs
are those of masked filters, but a channel that is off still has values, and so its gradient says what it would bring.
Masked where it is made it would be an exact zero, through which a ReLU passes no gradient, and could never come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..spaces.layers import LayerInfo
from ..spaces.plan import Pruning, Stages, TrialPlan
from .hardware_loss import LayerCosts, Operations, Parameters, binarize, hardware_loss
from .mask_units import FIRST_SCORE, channel_unit, weight_unit
from .network_cost import NetworkCost
from .pruning import GroupMask
from .removal import ChannelGroup, Removed
from .schedule import cubic_sparsity

if TYPE_CHECKING:
    from .targets.cost_table import CostTable

__all__ = ["LearnedMasks"]

TOLERANCE = 0.02
# shares of the pruning stage: worth is measured up to the first, the target has its final value from the second on
MEASURED, ON_SCHEDULE = 0.1, 0.75
# by this b grows with every step that finds ψ at twice its target (less where it is nearer), and falls back
GROWTH, LARGEST_GROWTH = 1.1, 1e3
LARGEST_RATE = 16.0


class LearnedMasks:
    """All trained masks of one model, and what they leave of its cost.

    Args:
        model: Plain; the masks are put on it, in place.
        plan: Layers whose pruning has the mask ``"learned"``; target, strength and cost are the same in all of them.
        layers: The model's layers.
        groups: Channel groups whose leaders' filters are masked.
        stages: When scores move, and when they are frozen.
        beside: Masks by magnitude over other groups, which ψ counts as well.
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
        beside: Sequence[GroupMask] = (),
        round_to: int = 1,
        cost_table: CostTable | None = None,
        deviations: list[str],
    ) -> None:
        by_weight = [name for name, layer in plan.layers.items() if _masks_weights(layer.pruning)]
        masked = [*by_weight, *(group.leader for group in groups)]
        planned = [pruning for name in masked if (pruning := plan.layer(name).pruning) is not None]
        agreed = {(pruning.target, pruning.strength, pruning.cost) for pruning in planned}
        if len(agreed) != 1:
            raise ValueError(f"`target`, `strength` and `cost` of learned masks must agree; found {sorted(agreed)}.")
        ((target, strength, cost),) = agreed
        assert target is not None
        assert strength is not None
        self.target, self.strength, self.round_to, self.deviations = target, strength, round_to, deviations
        self.stages, self.frozen = stages, False
        self._units = [channel_unit(model, group) for group in groups]
        self._units += [weight_unit(model.get_submodule(name), name) for name in by_weight]
        costs = _costs(cost, layers, cost_table)
        self._cost = NetworkCost(model, layers, costs, self._units, beside, count_weights=cost != "latency")
        self._now, self._phase = 1.0, "waiting"
        self._growth = torch.ones((), device=self._units[0].scores.device)
        # what lies below the least that there is cannot be asked for
        self._goal = max(target, self._cost.at(float("inf"), round_to))

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
            gradients = torch.autograd.grad(self._cost.share(masks), masks, materialize_grads=True, allow_unused=True)
        means = [max(0.0, float(gradient.mean())) for gradient in gradients]
        counts = [unit.scores.numel() for unit in self._units]
        overall = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
        return [overall / mean if mean * LARGEST_RATE > overall else LARGEST_RATE for mean in means]

    def share(self) -> Tensor:
        """ψ, 0-d: the cost under the masks as they are, with gradients to the scores; 1 for the dense network."""
        return self._cost.share([binarize(unit.scores) for unit in self._units])

    def loss(self) -> Tensor:
        """b·L_hw against the target of this moment, 0-d, with b as `tighten` left it."""
        return self.strength * self._growth * hardware_loss(self.share(), self._now)

    @torch.no_grad()
    def tighten(self) -> None:
        """Let b grow where ψ is above the target of this moment, and fall back to the planned strength where not.

        The target must be met also where operations are worth more to the task than the planned b.
        """
        above = (hardware_loss(self.share(), self._now) / self._now).clamp(max=1.0)
        factor = torch.where(above > 0.0, GROWTH**above, 1.0 / GROWTH)
        self._growth = (self._growth * factor).clamp(1.0, LARGEST_GROWTH)

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
        self._now = 1.0 - cubic_sparsity(fraction, final=1.0 - self._goal, start=moved, end=reached)

    @torch.no_grad()
    def observe(self) -> None:
        """Take the scores' present gradients into their importance, while that is being measured."""
        if self._phase == "measuring" and not self.frozen:
            for unit in self._units:
                if unit.scores.grad is not None:
                    unit.importance += unit.scores.grad.abs()

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix every mask at the threshold that puts ψ just below its target; a second call does nothing."""
        if self.frozen:
            return
        reached = float(self.share())
        threshold = self._cost.threshold(self.target, self.round_to)
        for unit in self._units:
            keep = unit.keep(threshold, self.round_to)
            kept, chosen = int(keep.sum()), max(1, int((unit.scores.detach() >= threshold).sum()))
            if kept != chosen and unit.group is not None:
                line = f"{kept} filters kept instead of {chosen}, a multiple of {self.round_to}"
                self.deviations.append(f"{unit.layer}: {line}")
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

    def after_step(self) -> None:
        """Put frozen masks' latent tensors back to zero."""
        if self.frozen:
            for unit in self._units:
                unit.zero_latents()

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

    def state(self) -> dict[str, Any]:
        """What it holds besides the model's tensors and the masks' flags, for a checkpoint."""
        importance = [unit.importance for unit in self._units]
        return {
            "frozen": self.frozen,
            "now": self._now,
            "phase": self._phase,
            "growth": self._growth,
            "importance": importance,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.frozen, self._now, self._phase = state["frozen"], state["now"], state["phase"]
        self._growth.copy_(state["growth"])
        for unit, importance in zip(self._units, state["importance"], strict=True):
            unit.importance.copy_(importance)

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


def _masks_weights(pruning: Pruning | None) -> bool:
    return pruning is not None and pruning.mask == "learned" and pruning.structure == "weight"


def _costs(cost: str, layers: Sequence[LayerInfo], cost_table: CostTable | None) -> LayerCosts:
    if cost == "operations":
        return Operations(layers)
    if cost == "parameters":
        return Parameters(layers)
    if cost_table is None:
        raise ValueError("`cost_table` must be given for learned masks whose cost is latency; found None.")
    return cost_table
