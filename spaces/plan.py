"""`TrialPlan`: what one trial does to each layer and to the training, as frozen, versioned data (JSON both ways)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Clustering", "LayerPlan", "Pruning", "Quantization", "Recipe", "Stages", "TrialPlan", "pattern_of"]

VERSION = 3
READABLE = (1, 2, 3)
FLOAT_BITS = 32

_STRUCTURES = "weight, filter or n:m with 0 < n < m ≤ 32"


def _check(rule: bool, argument: str, allowed: str, found: object) -> None:
    if not rule:
        raise ValueError(f"`{argument}` must be {allowed}; found {found!r}.")


def pattern_of(structure: str) -> tuple[int, int] | None:
    """(n, m) of an ``n:m`` structure, None for any other; 0 < n < m ≤ 32."""
    found = re.fullmatch(r"(\d{1,2}):(\d{1,2})", structure)
    if found is None:
        return None
    kept, of = int(found[1]), int(found[2])
    return (kept, of) if 0 < kept < of <= 32 else None


@dataclass(frozen=True)
class Pruning:
    """Which weights become zero.

    Args:
        sparsity: Share of weights (or of filters) removed, in [0, 1); 1 − n/m for ``"n:m"``, 0 for a learned mask,
            whose share is what training makes of it.
        structure: ``"weight"``, ``"filter"`` or ``"n:m"`` such as ``"2:4"`` (n non-zeros among m neighbours).
        mask: ``"magnitude"`` (chosen by size on a schedule) or ``"learned"`` (trained, Vemparala et al.).
        scope: ``"layer"`` removes this share of each layer, ``"global"`` of all layers of that scope and structure
            together, the smallest first wherever they lie.
        target: ψ* of a learned mask, the share of the network's cost to keep, in (0, 1].
        strength: b of a learned mask, the weight of its hardware loss, positive.
        cost: What ψ counts for a learned mask: ``"operations"``, ``"parameters"`` or ``"latency"`` (a table measured on
            the target).
    """

    sparsity: float
    structure: str = "weight"
    mask: Literal["magnitude", "learned"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    target: float | None = None
    strength: float | None = None
    cost: Literal["operations", "parameters", "latency"] = "operations"

    def __post_init__(self) -> None:
        _check(0.0 <= self.sparsity < 1.0, "sparsity", "in [0, 1)", self.sparsity)
        _check(
            self.structure in ("weight", "filter") or self.pattern is not None, "structure", _STRUCTURES, self.structure
        )
        _check(self.mask in ("magnitude", "learned"), "mask", "magnitude or learned", self.mask)
        _check(self.scope in ("layer", "global"), "scope", "layer or global", self.scope)
        costs = ("operations", "parameters", "latency")
        _check(self.cost in costs, "cost", " or ".join(costs), self.cost)
        if self.target is not None:
            _check(0.0 < self.target <= 1.0, "target", "in (0, 1]", self.target)
        if self.strength is not None:
            _check(self.strength > 0.0, "strength", "positive", self.strength)
        if self.mask == "learned":
            _check(self.target is not None, "target", "given with a learned mask", self.target)
            _check(self.strength is not None, "strength", "given with a learned mask", self.strength)
            _check(self.pattern is None, "structure", "weight or filter with a learned mask", self.structure)
            _check(self.sparsity == 0.0, "sparsity", "0 with a learned mask, which has a target", self.sparsity)
            _check(self.scope == "layer", "scope", "layer with a learned mask, which spans the network", self.scope)
            by_weight = self.cost == "latency" and self.structure == "weight"
            _check(
                not by_weight,
                "cost",
                "operations or parameters where weights are masked (zeros save no time)",
                self.cost,
            )
        if self.pattern is not None:
            kept, of = self.pattern
            _check(abs(self.sparsity - (1.0 - kept / of)) < 1e-9, "sparsity", f"1 − {kept}/{of}", self.sparsity)
            _check(self.scope == "layer", "scope", "layer with an n:m pattern", self.scope)

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(n, m) of an ``n:m`` structure; see `pattern_of`."""
        return pattern_of(self.structure)


@dataclass(frozen=True)
class Clustering:
    """How many distinct values a layer's weights may take (2 to 256), for the layer or for each output channel.

    Args:
        clusters: K.
        per: One codebook for the ``"layer"``, or one for each output ``"channel"``.
        gradient: How its members' gradients reach a codebook entry: their ``"mean"`` or their ``"sum"``.
        lloyd_iterations: Passes of Lloyd's algorithm after k-means++ seeding; 0 leaves the seeds as they are.
    """

    clusters: int
    per: Literal["layer", "channel"] = "layer"
    gradient: Literal["mean", "sum"] = "mean"
    lloyd_iterations: int = 10

    def __post_init__(self) -> None:
        _check(2 <= self.clusters <= 256, "clusters", "in 2–256", self.clusters)
        _check(self.per in ("layer", "channel"), "per", "layer or channel", self.per)
        _check(self.gradient in ("mean", "sum"), "gradient", "mean or sum", self.gradient)
        _check(0 <= self.lloyd_iterations <= 1000, "lloyd_iterations", "in 0–1000", self.lloyd_iterations)


@dataclass(frozen=True)
class Quantization:
    """Bits of a layer's weights (1–8, or 32 for float) and of its output (2–8, or 32).

    Args:
        mode: ``"aware"`` simulates while training; ``"post"`` quantizes after training with calibrated ranges.
        scales: ``"range"`` takes them from the values' range; ``"learned"`` trains them (LSQ, Esser et al. 2020), which
            needs mode ``"aware"``.
        export: ``"integer"`` ships integer weights for integer kernels; ``"float"`` ships the simulated values as
            floats and rounds activations in float, as an unconverted quantization-aware model does.
    """

    mode: Literal["none", "post", "aware"] = "aware"
    weight_bits: int = 8
    activation_bits: int = 8
    scales: Literal["range", "learned"] = "range"
    export: Literal["integer", "float"] = "integer"

    def __post_init__(self) -> None:
        _check(self.mode in ("none", "post", "aware"), "mode", "none, post or aware", self.mode)
        weight, activation = self.weight_bits, self.activation_bits
        _check(1 <= weight <= 8 or weight == FLOAT_BITS, "weight_bits", "1–8 or 32", weight)
        _check(2 <= activation <= 8 or activation == FLOAT_BITS, "activation_bits", "2–8 or 32", activation)
        _check(self.scales in ("range", "learned"), "scales", "range or learned", self.scales)
        _check(self.export in ("integer", "float"), "export", "integer or float", self.export)
        aware = self.scales == "range" or self.mode == "aware"
        _check(aware, "scales", "range unless the mode is aware", self.scales)


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer; a part that is None leaves the layer as it is."""

    pruning: Pruning | None = None
    clustering: Clustering | None = None
    quantization: Quantization | None = None

    @property
    def weight_bits(self) -> int:
        """Planned bits of the weights, 32 for float."""
        quantization = self.quantization
        return quantization.weight_bits if quantization and quantization.mode != "none" else FLOAT_BITS

    @property
    def activation_bits(self) -> int:
        """Planned bits of the output, 32 for float."""
        quantization = self.quantization
        return quantization.activation_bits if quantization and quantization.mode != "none" else FLOAT_BITS

    @property
    def sparsity(self) -> float:
        """Planned share of zeros, 0 when the layer is not pruned or its mask is learned."""
        return self.pruning.sparsity if self.pruning else 0.0

    @property
    def learned(self) -> bool:
        """Whether a trained mask decides what goes."""
        return self.pruning is not None and self.pruning.mask == "learned"


@dataclass(frozen=True)
class Recipe:
    """How the whole network is trained in one trial.

    Args:
        regime: ``"standard"``, ``"naturalistic"`` or ``"adversarial"``.
        augmentation: Name of what augments (plans before version 3 know ``"naturalistic"`` alone).
        augmentation_strength: 0 is off, 1 as published.
        class_weighting: Name of a weighting (``"none"`` to leave classes alone).
        class_weight_scale: λ; weights are raised to this power, so 0 is off and 1 as published.
        method: The adversarial training method, None outside the adversarial regime.
        epsilon: L∞ radius of the training attack on images in [0, 1], None outside the adversarial regime.
        budget: Share of the study's training steps that this trial takes, in [0, 1]; 0 leaves the weights as they are.
    """

    regime: Literal["standard", "naturalistic", "adversarial"] = "standard"
    augmentation_strength: float = 0.0
    class_weighting: str = "none"
    class_weight_scale: float = 0.0
    method: str | None = None
    epsilon: float | None = None
    budget: float = 1.0
    augmentation: str = "naturalistic"

    def __post_init__(self) -> None:
        regimes = ("standard", "naturalistic", "adversarial")
        _check(self.regime in regimes, "regime", " or ".join(regimes), self.regime)
        _check(bool(self.augmentation.strip()), "augmentation", "a name", self.augmentation)
        _check(self.augmentation_strength >= 0.0, "augmentation_strength", "at least 0", self.augmentation_strength)
        _check(self.class_weight_scale >= 0.0, "class_weight_scale", "at least 0", self.class_weight_scale)
        if self.epsilon is not None:
            _check(0.0 <= self.epsilon <= 1.0, "epsilon", "in [0, 1]", self.epsilon)
        _check(0.0 <= self.budget <= 1.0, "budget", "in [0, 1]", self.budget)


@dataclass(frozen=True)
class Stages:
    """When each compressor works, in fractions of training; what is to be done after training stands in a layer's plan.

    Args:
        prune_start: Where sparsity begins to grow (where learned masks begin to move).
        prune_end: Where it has its final value and masks stay as they are.
        cluster: Where codebooks are seeded, from the weights as they are then; at least `prune_end`.
        quantize: Where bits planned as ``"aware"`` begin to be simulated.
    """

    prune_start: float = 0.0
    prune_end: float = 0.6
    cluster: float = 0.6
    quantize: float = 0.1

    def __post_init__(self) -> None:
        _check(0.0 <= self.prune_start <= self.prune_end <= 1.0, "prune_end", "in [prune_start, 1]", self.prune_end)
        _check(self.prune_end <= self.cluster <= 1.0, "cluster", "in [prune_end, 1]", self.cluster)
        _check(0.0 <= self.quantize <= 1.0, "quantize", "in [0, 1]", self.quantize)

    @classmethod
    def joint(cls, start: float, end: float) -> Stages:
        """Everything at once between `start` and `end`: bits from a tenth on (not before `start`, not after `end`)."""
        return cls(start, end, end, min(max(start, 0.1), end))


@dataclass(frozen=True)
class TrialPlan:
    """One configuration: a plan for each named layer (layers not named stay dense), a recipe, and the stages' order.

    Args:
        layers: By name.
        recipe: How the network is trained.
        stages: When each compressor works; None for `Stages.joint` of the study's ``compression_start`` and ``_end``.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    stages: Stages | None = None

    def layer(self, name: str) -> LayerPlan:
        """The plan of layer `name`; the dense plan when none is stated."""
        return self.layers.get(name, LayerPlan())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, with its version."""
        layers = {name: asdict(plan) for name, plan in self.layers.items()}
        stages = None if self.stages is None else asdict(self.stages)
        return {"version": VERSION, "layers": layers, "recipe": asdict(self.recipe), "stages": stages}

    def to_json(self) -> str:
        """The plan as one line of JSON; `from_json` of it is equal to the plan."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialPlan:
        """A plan from what `to_dict` gave.

        Raises:
            ValueError: The version is unknown, or a value is out of range.
        """
        _check(data.get("version") in READABLE, "version", " or ".join(map(str, READABLE)), data.get("version"))
        layers = {name: _layer_plan(plan) for name, plan in data["layers"].items()}
        stages = data.get("stages")
        return cls(layers, Recipe(**data["recipe"]), None if stages is None else Stages(**stages))

    @classmethod
    def from_json(cls, text: str) -> TrialPlan:
        """A plan from what `to_json` gave."""
        return cls.from_dict(json.loads(text))


def _layer_plan(data: Mapping[str, Any]) -> LayerPlan:
    parts = {"pruning": Pruning, "clustering": Clustering, "quantization": Quantization}
    built = {key: kind(**data[key]) for key, kind in parts.items() if data.get(key) is not None}
    return LayerPlan(**built)
