"""`SearchSpace`: the variables of a study as Optuna distributions, and the one plan that each set of values means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution

from ..studies.errors import InputError
from .groups import NETWORK, group_layers
from .layers import LayerInfo
from .plan import FLOAT_BITS, Clustering, LayerPlan, Quantization, Recipe, TrialPlan
from .pruning_choice import PruningChoice
from .techniques import technique
from .variables import Continuous, Ordinal, Variable, snapped, unordered

if TYPE_CHECKING:
    from ..studies.schema_space import SpaceSection
    from ..studies.schema_training import TrainingSection

__all__ = ["EDGE_BITS", "SearchSpace"]

_PRUNING = ("structure", "mask", "sparsity")
_PER_GROUP = (*_PRUNING, "clusters", "weight_bits", "activation_bits", "quantization", "scales")

EDGE_BITS = 8
"""The first and the last layer never go below this many bits."""


class SearchSpace:
    """The variables of a study over the layers of its model.

    Parameters are named ``sparsity/<group>``, ``clusters/<group>``, ``weight_bits/<group>``,
    ``activation_bits/<group>``, ``quantization/<group>``, ``scales/<group>``, ``structure`` and ``mask`` (or, chosen by
    group, ``structure/<group>`` and ``mask/<group>``), ``mask_target``, ``mask_strength``, ``augmentation``,
    ``augmentation_strength``, ``class_weighting`` and ``class_weight_scale``; a space of techniques has ``technique``
    alone. Ordinal parameters are indices into lists ordered from weak to strong compression. What can take one value
    only has no parameter.

    Args:
        space: The study's ``[space]``.
        training: The study's ``[training]``; its recipe fills in what is not searched.
        layers: The model's layers in forward order.
        pretrained: Training starts from a trained checkpoint, which some techniques leave as it is.

    Raises:
        InputError: A pattern of ``space.exclude`` matches no layer.
    """

    def __init__(
        self, space: SpaceSection, training: TrainingSection, layers: Sequence[LayerInfo], *, pretrained: bool = False
    ) -> None:
        self.section = space
        self.training = training
        self.layers = tuple(layers)
        self.pretrained = pretrained
        for position, pattern in enumerate(space.exclude):
            if not any(_matches(layer, pattern) for layer in layers):
                raise InputError(_matches_nothing(position, pattern, self.layers))
        self.excluded = frozenset(
            layer.name for layer in layers if any(_matches(layer, pattern) for pattern in space.exclude)
        )
        groups = group_layers(self.layers, space.granularity)
        self._group = {layer.name: group for group, members in groups.items() for layer in members}
        self._pruning = PruningChoice(space.sparsity, self.layers, self._group, self.excluded)
        # samplers decode thousands of proposals, and these never change
        self._drivers = {layer.name: self._names(layer) for layer in self.layers}
        self.variables: dict[str, Variable] = self._variables(tuple(groups))
        self._varying = frozenset(name for name, variable in self.variables.items() if variable.varies)

    @property
    def structures(self) -> tuple[str, ...]:
        """What may be pruned: ``weight``, ``filter``, n:m patterns."""
        return self._pruning.structures

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples, by parameter name."""
        return {name: variable.distribution for name, variable in self.variables.items() if variable.varies}

    def decode(self, params: Mapping[str, Any]) -> TrialPlan:
        """The one plan that `params` means; float noise is rounded to the variable's grid.

        Raises:
            ValueError: A parameter is missing, unknown or out of its range.
        """
        values = self._values(params)
        if self.section.techniques is not None:
            included = [layer for layer in self.layers if layer.name not in self.excluded]
            return technique(values["technique"], included, pretrained=self.pretrained, recipe=self._recipe(values))
        layers = {layer.name: self._layer_plan(layer, values) for layer in self.layers}
        dense = LayerPlan()
        return TrialPlan({name: plan for name, plan in layers.items() if plan != dense}, self._recipe(values))

    def control(self) -> TrialPlan:
        """The dense model at the study's own recipe."""
        return TrialPlan({}, self._recipe({}))

    def encode(self, level: float) -> dict[str, Any]:
        """Parameters of a uniform compression: every variable at `level` of its range, the recipe at its default.

        Args:
            level: 0 is the weakest compression of the space, 1 the strongest.

        Raises:
            ValueError: `level` is outside [0, 1].
        """
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"`level` must be in [0, 1]; found {level!r}.")
        return {name: variable.at(level) for name, variable in self.variables.items() if variable.varies}

    def driven(self) -> dict[str, tuple[LayerInfo, ...]]:
        """The layers that each variable acts on, by its name; variables of the whole network or recipe are left out."""
        found: dict[str, list[LayerInfo]] = {}
        for layer in self.layers:
            for name in dict.fromkeys(self._drivers[layer.name].values()):
                found.setdefault(name, []).append(layer)
        return {name: tuple(members) for name, members in found.items()}

    def describe(self) -> list[dict[str, Any]]:
        """One row a variable: its name, kind, values, and the number of layers that it drives."""
        driven = self.driven()
        return [
            {
                "variable": name,
                "kind": variable.kind if variable.varies else "fixed",
                "values": variable.text() + self._remark(name),
                "layers": len(driven.get(name, self.layers)),
            }
            for name, variable in self.variables.items()
        ]

    def _remark(self, name: str) -> str:
        kind, sparsity = name.partition("/")[0], self.section.sparsity
        if kind == "sparsity" and sparsity is not None and sparsity.scope == "global":
            return " of all layers together"
        return " a channel" if kind == "clusters" and self.section.clusters_per == "channel" else ""

    def _variables(self, groups: Iterable[str]) -> dict[str, Variable]:
        space, training = self.section, self.training
        found: dict[str, Variable] = {}
        if space.techniques is not None:
            return {"technique": unordered(space.techniques)}
        found |= self._pruning.network_variables()
        driven: dict[str, list[LayerInfo]] = {}
        for layer in self.layers:
            for name in self._drivers[layer.name].values():
                driven.setdefault(name, []).append(layer)
        names = [f"{kind}/{group}" for kind in _PER_GROUP for group in dict.fromkeys([*groups, NETWORK])]
        found |= {name: self._group_variable(name, driven[name]) for name in names if name in driven}
        if space.augmentation:
            found["augmentation"] = unordered(space.augmentation, at=training.augmentation)
        if space.augmentation_strength:
            low, high = space.augmentation_strength.low, space.augmentation_strength.high
            found["augmentation_strength"] = Continuous(low, high, training.augmentation_strength)
        if space.class_weighting:
            found["class_weighting"] = unordered(space.class_weighting, at=training.class_weighting)
        if space.class_weight_scale:
            low, high = space.class_weight_scale.low, space.class_weight_scale.high
            found["class_weight_scale"] = Continuous(low, high, training.class_weight_scale)
        return found

    def _group_variable(self, name: str, driven: Sequence[LayerInfo]) -> Variable:
        space, kind = self.section, name.partition("/")[0]
        if kind in _PRUNING:
            return self._pruning.group_variable(kind, name, driven)
        if kind == "clusters":
            return Ordinal(tuple(sorted(space.clusters or (), key=_fineness, reverse=True)))
        if kind == "quantization":
            return unordered(space.modes, at="aware")
        if kind == "scales":
            return unordered(space.scalings, at="range")
        bits = space.weight_bits if kind == "weight_bits" else space.activation_bits
        at_edge = all(layer.first or layer.last for layer in driven)
        # what an edge layer cannot have would give several parameters for one plan
        choices = {max(number, EDGE_BITS) if at_edge else number for number in bits or ()}
        return Ordinal(tuple(sorted(choices, reverse=True)))

    def _names(self, layer: LayerInfo) -> dict[str, str]:
        """The variables that drive `layer`, by kind."""
        if layer.name in self.excluded:
            return {}
        space, group = self.section, self._group[layer.name]
        names = self._pruning.names(layer)
        if space.clusters and layer.kind != "depthwise":
            names["clusters"] = f"clusters/{group}"
        if space.weight_bits:
            names["weight_bits"] = f"weight_bits/{group}"
        # the last layer's output is the network's, which stays float
        if space.activation_bits and not layer.last:
            names["activation_bits"] = f"activation_bits/{group}"
        bits = {"weight_bits": space.weight_bits, "activation_bits": space.activation_bits}
        if any(kind in names and min(choices) < FLOAT_BITS for kind, choices in bits.items() if choices):
            # a fixed mode is no variable
            names |= {"quantization": f"quantization/{group}"} if len(space.modes) > 1 else {}
            names |= {"scales": f"scales/{group}"} if len(space.scalings) > 1 else {}
        return names

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        for fault, names in (
            ("lacks", self._varying - params.keys()),
            ("has the unknown", params.keys() - self._varying),
        ):
            if names:
                raise ValueError(f"`params` {fault} {', '.join(sorted(names))}.")
        return {
            name: variable.value(name, params[name]) if name in self._varying else variable.only()
            for name, variable in self.variables.items()
        }

    def _layer_plan(self, layer: LayerInfo, values: Mapping[str, Any]) -> LayerPlan:
        names = self._drivers[layer.name]
        clusters = values.get(names.get("clusters", ""), "none")
        weight_bits = values.get(names.get("weight_bits", ""), FLOAT_BITS)
        activation_bits = values.get(names.get("activation_bits", ""), FLOAT_BITS)
        if layer.first or layer.last:
            weight_bits, activation_bits = max(weight_bits, EDGE_BITS), max(activation_bits, EDGE_BITS)
        quantized = min(weight_bits, activation_bits) < FLOAT_BITS
        return LayerPlan(
            pruning=self._pruning.pruning(layer, values),
            clustering=self._clustering(clusters) if clusters != "none" else None,
            quantization=self._quantization(names, values, weight_bits, activation_bits) if quantized else None,
        )

    def _clustering(self, clusters: int) -> Clustering:
        space = self.section
        return Clustering(clusters, space.clusters_per, space.clusters_gradient, space.lloyd_iterations)

    def _quantization(
        self, names: Mapping[str, str], values: Mapping[str, Any], weight_bits: int, activation_bits: int
    ) -> Quantization:
        space = self.section
        mode = values.get(names.get("quantization", ""), space.modes[0])
        scales = values.get(names.get("scales", ""), space.scalings[0])
        # there is nothing to learn from after training
        return Quantization(mode, weight_bits, activation_bits, scales if mode == "aware" else "range")

    def _recipe(self, values: Mapping[str, Any]) -> Recipe:
        training = self.training
        weighting = values.get("class_weighting", training.class_weighting)
        scale = values.get("class_weight_scale", training.class_weight_scale)
        strength = snapped(values.get("augmentation_strength", training.augmentation_strength))
        augmentation = {"augmentation": values.get("augmentation", training.augmentation)} if strength else {}
        return Recipe(
            regime=training.regime,
            augmentation_strength=strength,
            class_weighting=weighting,
            class_weight_scale=snapped(scale) if weighting != "none" else 0.0,
            method=training.method,
            epsilon=training.epsilon,
            # what does nothing has one name, so that recipes that train alike are equal
            **augmentation,
        )


def _matches(layer: LayerInfo, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (layer.name, layer.name.removeprefix("network.")))


def _matches_nothing(position: int, pattern: str, layers: Sequence[LayerInfo]) -> str:
    names = [layer.name.removeprefix("network.") for layer in layers]
    near = difflib.get_close_matches(pattern, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" The layers are {', '.join(names[:3])}, …"
    return f"`space.exclude[{position}]` must match a layer of the model; found {pattern!r}.{hint}"


def _fineness(clusters: int | str) -> float:
    return float("inf") if clusters == "none" else float(clusters)
