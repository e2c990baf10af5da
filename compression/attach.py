"""Compression while training: weights are simulated in the order mask → cluster → quantize, outputs are quantized.

Weights run through `torch.nn.utils.parametrize`, so the optimizer keeps the latent ones; a weight that a mask holds at
zero gets no gradient (Zhu & Gupta 2017). What starts when, in fractions of training:

- masks follow the cubic schedule over the plan's pruning stage, renewed whenever another hundredth of training is done,
  and stay as they are from its end on (learned masks are frozen there);
- codebooks are seeded at the clustering stage, from the weights that the final masks leave, and train from there;
- planned bits ("aware") are simulated from the quantization stage on, output ranges are observed from the first step;
  "post" bits wait for `finalize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ..spaces.layers import LayerInfo
from ..spaces.plan import FLOAT_BITS, LayerPlan, Pruning, Stages, TrialPlan
from ..studies.seeds import Seed
from .calibration import calibrate
from .channel_masks import channel_groups, coupled_deviations, group_mask, lost_channels, prunes_filters
from .clustering import ClusterWeight
from .global_masks import GlobalFilterMask, GlobalWeightMask
from .insertion import insert_activation_quantizers
from .learned_masks import LearnedMasks
from .pruning import GroupMask, LayerMask, latent_weight, masked_weight
from .quantizers import ActivationQuantizer, WeightQuantizer, activation_quantizers
from .removal import ChannelGroup, Removed
from .schedule import cubic_sparsity
from .step_sizes import LearnedActivationQuantizer, LearnedWeightQuantizer

if TYPE_CHECKING:
    from .targets.cost_table import CostTable

__all__ = ["Attached", "attach"]

MASK_STEP = 0.01


class Attached:
    """A model under compression, and what training must call.

    Attributes:
        model: What to train: the same modules and parameters, simulated.
        source: The model that was attached, parametrized in place.
        plan: The plan as it was given.
        stages: When each compressor works.
        learned: Masks that train with the weights, None where the plan has none.
        groups: Channels that may go, each with all that goes with them.
        deviations: What differs from it, one line each.
        finalized: Whether `finalize` was called.
    """

    def __init__(self, model: nn.Module, source: nn.Module, plan: TrialPlan, stages: Stages, *, seed: Seed) -> None:
        self.model, self.source, self.plan, self.stages, self.seed = model, source, plan, stages, seed
        self.learned: LearnedMasks | None = None
        self.groups: list[ChannelGroup] = []
        self.deviations: list[str] = []
        self.finalized = False
        self.weight_masks: list[LayerMask] = []
        self.filter_masks: list[GroupMask] = []
        self.weight_pools: list[GlobalWeightMask] = []
        self.filter_pools: list[GlobalFilterMask] = []
        self.clusters: list[tuple[str, nn.Module, ClusterWeight]] = []
        self.weight_quantizers: list[tuple[str, WeightQuantizer]] = []
        self._last = float("-inf")
        self._pruned = self._clustered = self._quantizing = False
        self.learned_scales: list[LearnedWeightQuantizer | LearnedActivationQuantizer] = []

    def parameters(self) -> Iterator[nn.Parameter]:
        """Latent weights, codebooks and learned scales, for the optimizer; the latter have gradients once they work."""
        return self.model.parameters()

    def set_progress(self, fraction: float) -> None:
        """Bring every simulator to `fraction` of training, in [0, 1]; call it before each optimizer step."""
        stages = self.stages
        if self.learned is not None:
            self.learned.set_progress(fraction)
        if fraction >= stages.prune_end:
            if not self._pruned:
                self._pruned = True
                self._update_masks(fraction)
                self._end_pruning(fraction)
        elif fraction >= self._last + MASK_STEP:
            self._update_masks(fraction)
        if not self._clustered and fraction >= stages.cluster:
            self._clustered = True
            for name, module, cluster in self.clusters:
                cluster.seed(masked_weight(module), self.seed.child("codebook").child(name))
        if not self._quantizing and fraction >= stages.quantize:
            self._quantizing = True
            self._enable_quantizers("aware")

    def after_step(self) -> None:
        """Put masked weights back to zero and keep learned scales positive; call it after each optimizer step."""
        for mask in self._masks():
            for masked in mask.masked:
                masked.zero_latent()
        if self.learned is not None:
            self.learned.after_step()
        for quantizer in self.learned_scales:
            quantizer.keep_positive()

    def finalize(self, calibration: Iterable[Tensor]) -> None:
        """Put everything at its final value and freeze it; the model is in eval mode afterwards.

        Args:
            calibration: Batches (N, C, H, W) from training data, for outputs quantized after training and for those
                that training never observed.

        Raises:
            ValueError: Ranges are wanted and `calibration` is empty.
        """
        self.set_progress(1.0)
        self.after_step()
        self._enable_quantizers("aware")
        self._enable_quantizers("post", weights_only=True)
        self.model.eval()
        self.source.eval()
        quantizers = activation_quantizers(self.model.modules())
        waiting = [one for one in quantizers if self._mode(one) == "post" or not float(one.batches)]
        if waiting:
            calibrate(self.model, waiting, calibration)
        for quantizer in quantizers:
            quantizer.freeze()
        self.finalized = True

    def state(self) -> dict[str, Any]:
        """How far the compression is, besides what the model's modules hold, for a checkpoint.

        The tensors are those in use, not copies.
        """
        return {
            "flags": [self._last, self._pruned, self._clustered, self._quantizing],
            "deviations": list(self.deviations),
            "weight_masks": [mask.state() for mask in self.weight_masks],
            "filter_masks": [mask.state() for mask in self.filter_masks],
            "learned": None if self.learned is None else self.learned.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave, in a model that was attached in the same way and not trained yet.

        The modules' own state must be restored before.
        """
        self._last, self._pruned, self._clustered, self._quantizing = state["flags"]
        # shared with the masks, which note theirs here too
        self.deviations[:] = state["deviations"]
        for mask, saved in zip(self.weight_masks, state["weight_masks"], strict=True):
            mask.restore(saved)
        for group, saved in zip(self.filter_masks, state["filter_masks"], strict=True):
            group.restore(saved)
        if self.learned is not None:
            self.learned.restore(state["learned"])

    def removed(self) -> Removed:
        """Filters that the masks hold at zero, for real removal."""
        pairs = [(mask.group.leader, mask.removed()) for mask in self.filter_masks]
        learned = self.learned.removed() if self.learned is not None and self.learned.frozen else []
        return [*((name, indices) for name, indices in pairs if indices), *learned]

    def _masks(self) -> list[LayerMask | GroupMask]:
        return [*self.weight_masks, *self.filter_masks]

    def _update_masks(self, fraction: float) -> None:
        self._last = fraction
        masks: list[GroupMask | GlobalFilterMask] = [mask for mask in self.filter_masks if mask.scope == "layer"]
        for mask in (*masks, *self.filter_pools):
            mask.update(self._sparsity(fraction, mask.sparsity))
        self._update_weight_masks(fraction)

    def _update_weight_masks(self, fraction: float) -> None:
        outputs, inputs = lost_channels(self.groups, self.removed())
        for layer in self.weight_masks:
            layer.lose(outputs.get(layer.name, ()), inputs.get(layer.name, ()))
        masks: list[LayerMask | GlobalWeightMask] = [mask for mask in self.weight_masks if mask.scope == "layer"]
        for mask in (*masks, *self.weight_pools):
            mask.update(self._sparsity(fraction, mask.sparsity))

    def _end_pruning(self, fraction: float) -> None:
        """Freeze learned masks; what masks single weights, or reads removed channels, follows the channels' masks."""
        if self.learned is not None:
            self.learned.freeze()
            self._update_weight_masks(fraction)
        for mask in self.filter_masks:
            mask.mask_readers()
        pools: list[GlobalWeightMask | GlobalFilterMask] = [*self.weight_pools, *self.filter_pools]
        self.deviations += [line for pool in pools if (line := pool.deviation()) is not None]

    def _sparsity(self, fraction: float, final: float) -> float:
        return cubic_sparsity(fraction, final=final, start=self.stages.prune_start, end=self.stages.prune_end)

    def _mode(self, quantizer: ActivationQuantizer) -> str:
        quantization = self.plan.layer(quantizer.source).quantization
        return quantization.mode if quantization else "none"

    def _enable_quantizers(self, mode: str, *, weights_only: bool = False) -> None:
        for name, simulator in self.weight_quantizers:
            quantization = self.plan.layer(name).quantization
            simulator.enabled |= quantization is not None and quantization.mode == mode
        for quantizer in [] if weights_only else activation_quantizers(self.model.modules()):
            quantizer.enabled |= self._mode(quantizer) == mode


def attach(
    model: nn.Module,
    plan: TrialPlan,
    layers: Sequence[LayerInfo],
    example: Tensor,
    *,
    start: float = 0.0,
    end: float = 0.6,
    seed: Seed,
    round_to: int = 1,
    cost_table: CostTable | None = None,
) -> Attached:
    """Put the plan's simulators on `model`, in place. It must not move to another device afterwards.

    Every layer gets what its own plan says, whatever its kind or place; that depthwise layers keep their weights, and
    the first and last layer 8 bits, is the search space's choice. Three things hold all the same: images are quantized
    at 8 bits, in their own range; the network's outputs stay float; and channels that meet in a sum, or pass through a
    depthwise layer, go together. Where a filter reads fewer channels than an n:m group has (a depthwise layer, or an
    image's three), the layer stays dense, and a deviation says so. Sparsities and n:m patterns are of the weights whose
    channels survive; weights that read removed channels are zero once masks are final.

    Args:
        model: Plain, on the device where it is trained; not copied. What masks index by does not move with it.
        plan: Layers that it does not name stay dense and float.
        layers: What `inspect_layers` found, in forward order.
        example: (1, C, H, W), one input on the model's device.
        start: Fraction of training at which sparsity begins to grow, unless the plan has stages of its own.
        end: Fraction from which everything is at its final value, likewise.
        seed: For the codebooks.
        round_to: Filters are kept in multiples of this, as far as there are.
        cost_table: What learned masks count as latency; needed where their cost is that.

    Returns:
        What training must call. Its `deviations` name what cannot be as planned.

    Raises:
        ModelError: The plan cannot be put on this model: outputs below 32 bits need one that torch.fx can trace,
            filters one whose channels Torch-Pruning can follow and whose batch norms have weights.
        ValueError: `start` and `end` are no window, the plan names an unknown layer, prunes filters that cannot be
            removed, or has learned masks that differ in target, strength or cost, or cost latency without a table.
    """
    _check(plan, layers)
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(f"`start` and `end` must satisfy 0 ≤ start ≤ end ≤ 1; found {start} and {end}.")
    groups = channel_groups(model, plan, layers, example)
    stages = plan.stages or Stages.joint(start, end)
    attached = Attached(insert_activation_quantizers(model, plan, example), model, plan, stages, seed=seed)
    _learn_activations(attached)
    for quantizer in activation_quantizers(attached.model.modules()):
        quantizer.observe = "never" if attached._mode(quantizer) == "post" else "training"
    attached.groups = groups
    trained = [group for group in groups if plan.layer(group.leader).learned]
    for group in groups:
        attached.deviations += coupled_deviations(model, plan, group)
        if group not in trained:
            attached.filter_masks.append(group_mask(model, plan, group, attached.deviations, round_to))
    if trained or any(layer.learned and not prunes_filters(layer) for layer in plan.layers.values()):
        attached.learned = LearnedMasks(
            model,
            plan,
            layers,
            trained,
            stages=stages,
            round_to=round_to,
            cost_table=cost_table,
            beside=attached.filter_masks,
            deviations=attached.deviations,
        )
    filtered = {member.name for group in groups for member in (*group.layers, *group.consumers)}
    for layer in layers:
        _attach_weight(attached, layer.name, plan.layer(layer.name), filtered)
    _pool(attached)
    kinds = (LearnedWeightQuantizer, LearnedActivationQuantizer)
    attached.learned_scales = [module for module in attached.model.modules() if isinstance(module, kinds)]
    return attached


def _check(plan: TrialPlan, layers: Sequence[LayerInfo]) -> None:
    known = {layer.name: layer for layer in layers}
    for name, layer in plan.layers.items():
        if name not in known:
            raise ValueError(f"`plan.layers` must name layers of the model; found {name!r}.")
        if prunes_filters(layer) and not known[name].prunable_filters:
            raise ValueError(f"`structure` of {name} must be weight: its filters cannot be removed; found 'filter'.")


def _attach_weight(attached: Attached, name: str, plan: LayerPlan, filtered: set[str]) -> None:
    module = attached.source.get_submodule(name)
    clustering, quantization = plan.clustering, plan.quantization
    by_weight = _mask_weights(attached, name, module, plan.pruning)
    if clustering is not None:
        # weights' masks count zero among the values, channels' masks take it away
        zeros: Literal["pinned", "kept", "free"] = "pinned" if by_weight else "kept" if name in filtered else "free"
        if by_weight and clustering.clusters == 2:
            attached.deviations.append(f"{name}: two clusters, one of them zero, keep one sign only")
        cluster = ClusterWeight(
            latent_weight(module),
            clustering.clusters,
            per=clustering.per,
            zeros=zeros,
            gradient=clustering.gradient,
            lloyd_iterations=clustering.lloyd_iterations,
        )
        parametrize.register_parametrization(module, "weight", cluster)
        attached.clusters.append((name, module, cluster))
    if quantization is not None and plan.weight_bits < FLOAT_BITS:
        # codes of a clustered layer are no more than its clusters only if one scale serves them all
        per: Literal["layer", "channel"] = (
            "layer" if clustering is not None and clustering.per == "layer" else "channel"
        )
        learned = quantization.scales == "learned"
        bits = plan.weight_bits
        quantizer = (
            LearnedWeightQuantizer(latent_weight(module), bits, per=per) if learned else WeightQuantizer(bits, per=per)
        )
        parametrize.register_parametrization(module, "weight", quantizer)
        attached.weight_quantizers.append((name, quantizer))


def _mask_weights(attached: Attached, name: str, module: nn.Module, pruning: Pruning | None) -> bool:
    """Put the layer's weight mask on it, where it has one by magnitude; whether any mask is over its weights."""
    if pruning is None or pruning.structure == "filter":
        return False
    if pruning.mask == "learned" or not pruning.sparsity:
        return pruning.mask == "learned"
    if pruning.pattern is not None:
        kept, of = pruning.pattern
        inputs = latent_weight(module).shape[1]
        if inputs < of:
            attached.deviations.append(f"{name}: dense instead of {kept}:{of}, as a filter reads {inputs} channels")
            return False
    mask = LayerMask(name, module, pruning.sparsity, pattern=pruning.pattern, scope=pruning.scope)
    attached.weight_masks.append(mask)
    return True


def _pool(attached: Attached) -> None:
    """Join the masks that are planned over all layers: one pool for each sparsity, of weights and of filters apart.

    Layers of different sparsities do not compete: each pool removes its own share of what its own layers have.
    """
    weights: dict[float, list[LayerMask]] = {}
    filters: dict[float, list[GroupMask]] = {}
    for mask in attached.weight_masks:
        if mask.scope == "global":
            weights.setdefault(mask.sparsity, []).append(mask)
    for group in attached.filter_masks:
        if group.scope == "global":
            filters.setdefault(group.sparsity, []).append(group)
    attached.weight_pools = [GlobalWeightMask(parts, sparsity) for sparsity, parts in weights.items()]
    attached.filter_pools = [GlobalFilterMask(parts, sparsity) for sparsity, parts in filters.items()]


def _learn_activations(attached: Attached) -> None:
    """Give outputs planned with learned scales quantizers that learn; images keep the range that they come in."""
    if not isinstance(attached.model, fx.GraphModule):
        return
    for node in attached.model.graph.nodes:
        quantizer = attached.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(quantizer, ActivationQuantizer):
            continue
        quantization = attached.plan.layer(quantizer.source).quantization
        of_images = any(str(user.target) == quantizer.source for user in node.users)
        if quantization is not None and quantization.scales == "learned" and not of_images:
            learned = LearnedActivationQuantizer(quantizer.bits, source=quantizer.source)
            learned.to(quantizer.scale.device).train(quantizer.training)
            attached.model.set_submodule(str(node.target), learned)
