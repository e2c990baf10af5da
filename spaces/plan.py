"""`TrialPlan`: what one trial does to each layer and to the training, as frozen, versioned data (JSON both ways)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Clustering", "LayerPlan", "Pruning", "Quantization", "Recipe", "TrialPlan"]

VERSION = 1
FLOAT_BITS = 32


def _check(rule: bool, argument: str, allowed: str, found: object) -> None:
    if not rule:
        raise ValueError(f"`{argument}` must be {allowed}; found {found!r}.")


@dataclass(frozen=True)
class Pruning:
    """Which weights become zero.

    Args:
        sparsity: Share of weights (or of filters) removed, in [0, 1).
        structure: ``"weight"``, ``"filter"`` or ``"n:m"`` such as ``"2:4"`` (n non-zeros among m neighbours).
        mask: ``"magnitude"`` (chosen by size on a schedule) or ``"learned"`` (trained, Vemparala et al.).
        target: ψ* of a learned mask, the share of operations to keep, in (0, 1].
        strength: b of a learned mask, the weight of its hardware loss, positive.
    """

    sparsity: float
    structure: str = "weight"
    mask: Literal["magnitude", "learned"] = "magnitude"
    target: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        _check(0.0 <= self.sparsity < 1.0, "sparsity", "in [0, 1)", self.sparsity)
        known = self.structure in ("weight", "filter") or re.fullmatch(r"[1-9]\d?:[1-9]\d?", self.structure)
        _check(bool(known), "structure", "weight, filter or n:m", self.structure)
        _check(self.mask in ("magnitude", "learned"), "mask", "magnitude or learned", self.mask)
        if self.target is not None:
            _check(0.0 < self.target <= 1.0, "target", "in (0, 1]", self.target)
        if self.strength is not None:
            _check(self.strength > 0.0, "strength", "positive", self.strength)


@dataclass(frozen=True)
class Clustering:
    """How many distinct values a layer's weights may take (2 to 256), for the layer or for each output channel."""

    clusters: int
    per: Literal["layer", "channel"] = "layer"

    def __post_init__(self) -> None:
        _check(2 <= self.clusters <= 256, "clusters", "in 2–256", self.clusters)
        _check(self.per in ("layer", "channel"), "per", "layer or channel", self.per)


@dataclass(frozen=True)
class Quantization:
    """Bits of a layer's weights (1–8, or 32 for float) and of its output (2–8, or 32).

    Args:
        mode: ``"aware"`` simulates while training; ``"post"`` quantizes after training with calibrated ranges.
    """

    mode: Literal["none", "post", "aware"] = "aware"
    weight_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self) -> None:
        _check(self.mode in ("none", "post", "aware"), "mode", "none, post or aware", self.mode)
        weight, activation = self.weight_bits, self.activation_bits
        _check(1 <= weight <= 8 or weight == FLOAT_BITS, "weight_bits", "1–8 or 32", weight)
        _check(2 <= activation <= 8 or activation == FLOAT_BITS, "activation_bits", "2–8 or 32", activation)


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
        """Planned share of zeros, 0 when the layer is not pruned."""
        return self.pruning.sparsity if self.pruning else 0.0


@dataclass(frozen=True)
class Recipe:
    """How the whole network is trained in one trial.

    Args:
        regime: ``"standard"``, ``"naturalistic"`` or ``"adversarial"``.
        augmentation_strength: 0 is off, 1 as Cygert & Czyżewski publish it.
        class_weighting: Name of a weighting (``"none"`` to leave classes alone).
        class_weight_scale: λ; weights are raised to this power, so 0 is off and 1 as published.
        method: The adversarial training method, None outside the adversarial regime.
        epsilon: L∞ radius of the training attack on images in [0, 1], None outside the adversarial regime.
    """

    regime: Literal["standard", "naturalistic", "adversarial"] = "standard"
    augmentation_strength: float = 0.0
    class_weighting: str = "none"
    class_weight_scale: float = 0.0
    method: str | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        regimes = ("standard", "naturalistic", "adversarial")
        _check(self.regime in regimes, "regime", " or ".join(regimes), self.regime)
        _check(self.augmentation_strength >= 0.0, "augmentation_strength", "at least 0", self.augmentation_strength)
        _check(self.class_weight_scale >= 0.0, "class_weight_scale", "at least 0", self.class_weight_scale)
        if self.epsilon is not None:
            _check(0.0 <= self.epsilon <= 1.0, "epsilon", "in [0, 1]", self.epsilon)


@dataclass(frozen=True)
class TrialPlan:
    """One configuration: a plan for each named layer (layers not named stay dense) and a recipe."""

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)

    def layer(self, name: str) -> LayerPlan:
        """The plan of layer `name`; the dense plan when none is stated."""
        return self.layers.get(name, LayerPlan())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, with its version."""
        layers = {name: asdict(plan) for name, plan in self.layers.items()}
        return {"version": VERSION, "layers": layers, "recipe": asdict(self.recipe)}

    def to_json(self) -> str:
        """The plan as one line of JSON; `from_json` of it is equal to the plan."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialPlan:
        """A plan from what `to_dict` gave.

        Raises:
            ValueError: The version is unknown, or a value is out of range.
        """
        _check(data.get("version") == VERSION, "version", str(VERSION), data.get("version"))
        return cls({name: _layer_plan(plan) for name, plan in data["layers"].items()}, Recipe(**data["recipe"]))

    @classmethod
    def from_json(cls, text: str) -> TrialPlan:
        """A plan from what `to_json` gave."""
        return cls.from_dict(json.loads(text))


def _layer_plan(data: Mapping[str, Any]) -> LayerPlan:
    parts = {"pruning": Pruning, "clustering": Clustering, "quantization": Quantization}
    built = {key: kind(**data[key]) for key, kind in parts.items() if data.get(key) is not None}
    return LayerPlan(**built)
