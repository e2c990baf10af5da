"""Compression while training: weights are simulated in the order mask → cluster → quantize, outputs are quantized.

Weights run through `torch.nn.utils.parametrize`, so the optimizer keeps the latent ones; a weight that a mask holds at
zero gets no gradient (Zhu & Gupta 2017). What starts when, in fractions of training:

- masks follow the cubic schedule from `start` to `end`, renewed whenever another hundredth of training is done;
- codebooks are seeded at `end`, from the weights that the final masks leave, and train from there;
- planned bits ("aware") are simulated from a tenth of training on (from `start` if later, from `end` if that is
  earlier), output ranges are observed from the first step; "post" bits wait for `finalize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spaces.coupling import dependency_graph
from ..spaces.layers import LayerInfo
from ..spaces.plan import FLOAT_BITS, LayerPlan, Pruning, TrialPlan
from ..studies.seeds import Seed
from .clustering import ClusterWeight
from .insertion import insert_activation_quantizers
from .masks import filter_mask
from .pruning import GroupMask, LayerMask, latent_weight, masked_weight
from .quantizers import ActivationQuantizer, WeightQuantizer, activation_quantizers
from .removal import ChannelGroup, Removed, channel_group
from .schedule import cubic_sparsity

__all__ = ["Attached", "attach"]

MASK_STEP = 0.01
QUANTIZE_FROM = 0.1


class Attached:
    """A model under compression, and what training must call.

    Attributes:
        model: What to train: the same modules and parameters, simulated.
        source: The model that was attached, parametrized in place.
        plan: The plan as it was given.
        deviations: What differs from it, one line each.
        finalized: Whether `finalize` was called.
    """

    def __init__(
        self, model: nn.Module, source: nn.Module, plan: TrialPlan, *, start: float, end: float, seed: Seed
    ) -> None:
        self.model, self.source, self.plan = model, source, plan
        self.start, self.end, self.seed = start, end, seed
        self.deviations: list[str] = []
        self.finalized = False
        self.weight_masks: list[LayerMask] = []
        self.filter_masks: list[GroupMask] = []
        self.clusters: list[tuple[str, nn.Module, ClusterWeight]] = []
        self.weight_quantizers: list[tuple[str, WeightQuantizer]] = []
        self._last = float("-inf")
        self._quantizing = self._at_end = False

    def parameters(self) -> Iterator[nn.Parameter]:
        """Latent weights and codebooks, for the optimizer; codebooks get no gradient before they are seeded."""
        return self.model.parameters()

    def set_progress(self, fraction: float) -> None:
        """Bring every simulator to `fraction` of training, in [0, 1]; call it before each optimizer step."""
        if not self._quantizing and fraction >= min(max(self.start, QUANTIZE_FROM), self.end):
            self._quantizing = True
            self._enable_quantizers("aware")
        if fraction >= self.end:
            if not self._at_end:
                self._at_end = True
                self._update_masks(fraction)
                for name, module, cluster in self.clusters:
                    cluster.seed(masked_weight(module), self.seed.child("codebook").child(name))
        elif fraction >= self._last + MASK_STEP:
            self._update_masks(fraction)

    def after_step(self) -> None:
        """Put masked latent weights back to zero, where momentum or decay moved them; call it after each step."""
        for mask in self._masks():
            for masked in mask.masked:
                masked.zero_latent()

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
            self._calibrate(waiting, calibration)
        for quantizer in quantizers:
            quantizer.freeze()
        self.finalized = True

    def removed(self) -> Removed:
        """Filters that the masks hold at zero, for real removal."""
        pairs = [(mask.group.leader, mask.removed()) for mask in self.filter_masks]
        return [(name, indices) for name, indices in pairs if indices]

    def _masks(self) -> list[LayerMask | GroupMask]:
        return [*self.weight_masks, *self.filter_masks]

    def _update_masks(self, fraction: float) -> None:
        self._last = fraction
        for mask in self._masks():
            mask.update(cubic_sparsity(fraction, final=mask.sparsity, start=self.start, end=self.end))
            for masked in mask.masked:
                masked.zero_latent()

    def _mode(self, quantizer: ActivationQuantizer) -> str:
        quantization = self.plan.layer(quantizer.source).quantization
        return quantization.mode if quantization else "none"

    def _enable_quantizers(self, mode: str, *, weights_only: bool = False) -> None:
        for name, simulator in self.weight_quantizers:
            quantization = self.plan.layer(name).quantization
            simulator.enabled |= quantization is not None and quantization.mode == mode
        for quantizer in [] if weights_only else activation_quantizers(self.model.modules()):
            quantizer.enabled |= self._mode(quantizer) == mode

    @torch.no_grad()
    def _calibrate(self, waiting: list[ActivationQuantizer], calibration: Iterable[Tensor]) -> None:
        for quantizer in waiting:
            quantizer.reset()
            quantizer.enabled, quantizer.observe = False, "always"
        device = next(self.model.parameters()).device
        count = 0
        for images in calibration:
            self.model(images.to(device))
            count += 1
        if not count:
            raise ValueError("`calibration` must hold at least one batch to find output ranges; found none.")


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
) -> Attached:
    """Put the plan's simulators on `model`, in place.

    Args:
        model: Plain, on its device; not copied.
        plan: Layers that it does not name stay dense and float.
        layers: What `inspect_layers` found, in forward order.
        example: (1, C, H, W), one input on the model's device.
        start: Fraction of training at which sparsity begins to grow.
        end: Fraction from which everything is at its final value.
        seed: For the codebooks.
        round_to: Filters are kept in multiples of this, as far as there are.

    Raises:
        ModelError: The plan cannot be put on this model (outputs below 32 bits need one that torch.fx can trace).
        ValueError: The plan names an unknown layer, or asks for learned or n:m masks.
    """
    _check(plan, layers)
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(f"`start` and `end` must satisfy 0 ≤ start ≤ end ≤ 1; found {start} and {end}.")
    groups = _filter_groups(model, plan, layers, example)
    attached = Attached(
        insert_activation_quantizers(model, plan, example), model, plan, start=start, end=end, seed=seed
    )
    for quantizer in activation_quantizers(attached.model.modules()):
        quantizer.observe = "never" if attached._mode(quantizer) == "post" else "training"
    filtered: set[str] = set()
    for group in groups:
        filtered |= {member.name for member in group.layers}
        attached.filter_masks.append(_group_mask(model, plan, group, attached.deviations, round_to))
    for layer in layers:
        _attach_weight(attached, layer.name, plan.layer(layer.name), filtered)
    return attached


def _check(plan: TrialPlan, layers: Sequence[LayerInfo]) -> None:
    known = {layer.name: layer for layer in layers}
    for name, layer in plan.layers.items():
        if name not in known:
            raise ValueError(f"`plan.layers` must name layers of the model; found {name!r}.")
        pruning = layer.pruning
        if pruning is None:
            continue
        if pruning.mask != "magnitude":
            raise ValueError(f"`mask` of {name} must be magnitude for `attach`; found {pruning.mask!r}.")
        if pruning.structure not in ("weight", "filter"):
            raise ValueError(
                f"`structure` of {name} must be weight or filter for `attach`; found {pruning.structure!r}."
            )
        if _filters(pruning) and not known[name].prunable_filters:
            raise ValueError(f"`structure` of {name} must be weight: its filters cannot be removed; found 'filter'.")


def _filters(pruning: Pruning | None) -> bool:
    return pruning is not None and pruning.structure == "filter" and pruning.sparsity > 0.0


def _filter_groups(
    model: nn.Module, plan: TrialPlan, layers: Sequence[LayerInfo], example: Tensor
) -> list[ChannelGroup]:
    planned = [layer.name for layer in layers if _filters(plan.layer(layer.name).pruning)]
    if not planned:
        return []
    modes = {module: module.training for module in model.modules()}
    graph = dependency_graph(model.eval(), example)
    groups: list[ChannelGroup] = []
    covered: set[str] = set()
    for name in planned:
        if name not in covered:
            groups.append(channel_group(graph, model, name))
            covered |= {member.name for member in groups[-1].layers}
    for module, training in modes.items():
        module.training = training
    return groups


def _group_mask(
    model: nn.Module, plan: TrialPlan, group: ChannelGroup, deviations: list[str], round_to: int
) -> GroupMask:
    sparsity = plan.layer(group.leader).sparsity
    scored = {member.name for member in group.layers if _filters(plan.layer(member.name).pruning)}
    for member in group.layers:
        module = model.get_submodule(member.name)
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        planned = plan.layer(member.name).sparsity if member.name in scored else 0.0
        if not depthwise and planned != sparsity:
            found = f"filter sparsity {sparsity:g} instead of {planned:g}"
            deviations.append(f"{member.name}: {found}, as its channels are those of {group.leader}")
    planned_count, kept = (
        int(filter_mask(torch.ones(group.channels), sparsity, round_to=to).sum()) for to in (1, round_to)
    )
    if kept != planned_count:
        deviations.append(f"{group.leader}: {kept} filters kept instead of {planned_count}, a multiple of {round_to}")
    return GroupMask(model, group, scored, sparsity, round_to)


def _attach_weight(attached: Attached, name: str, plan: LayerPlan, filtered: set[str]) -> None:
    module = attached.source.get_submodule(name)
    pruning, clustering = plan.pruning, plan.clustering
    by_weight = pruning is not None and pruning.structure == "weight" and pruning.sparsity > 0.0
    if by_weight and pruning is not None:
        attached.weight_masks.append(LayerMask(module, pruning.sparsity))
    if clustering is not None:
        zeros = "pinned" if by_weight else "kept" if name in filtered else "free"
        cluster = ClusterWeight(
            latent_weight(module),
            clustering.clusters,
            per=clustering.per,
            zeros=zeros,  # type: ignore[arg-type]
        )
        parametrize.register_parametrization(module, "weight", cluster)
        attached.clusters.append((name, module, cluster))
    if plan.weight_bits < FLOAT_BITS:
        # codes of a clustered layer are no more than its clusters only if one scale serves them all
        per_layer = clustering is not None and clustering.per == "layer"
        quantizer = WeightQuantizer(plan.weight_bits, per="layer" if per_layer else "channel")
        parametrize.register_parametrization(module, "weight", quantizer)
        attached.weight_quantizers.append((name, quantizer))
