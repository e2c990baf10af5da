"""How each layer is pruned: the variables that say so, and the one `Pruning` that their values mean.

A layer takes the structure and the mask of its group. Layers whose outputs are summed lose the same filters: where the
first of them is pruned by filters, all are, with its sparsity and its mask; where it is not, a layer that would be
pruned by filters takes the structure of the first. A structure that a layer cannot take leaves it unpruned: filters
that cannot be removed exactly, or patterns over more neighbours than a filter has input channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .groups import NETWORK
from .layers import LayerInfo
from .plan import Pruning, pattern_of
from .variables import Continuous, Grid, Variable, snapped, unordered

if TYPE_CHECKING:
    from ..studies.schema_sparsity import SparsitySection

__all__ = ["PruningChoice", "fits_pattern"]

FILTER = "filter"


def fits_pattern(layer: LayerInfo, structure: str) -> bool:
    """Whether the filters of `layer` have input channels for a whole group of an n:m `structure`."""
    pattern = pattern_of(structure)
    return pattern is not None and layer.weight_shape[1] >= pattern[1]


class PruningChoice:
    """The pruning part of a search space.

    Args:
        section: The study's ``[space.sparsity]``; None prunes nothing.
        layers: The model's layers in forward order.
        group_of: Group of each layer, by layer name.
        excluded: Names of layers that stay dense.
    """

    def __init__(
        self,
        section: SparsitySection | None,
        layers: Sequence[LayerInfo],
        group_of: Mapping[str, str],
        excluded: frozenset[str],
    ) -> None:
        self.section = section
        self.structures: tuple[str, ...] = tuple(section.structure) if section else ()
        self._masks: tuple[str, ...] = tuple(section.mask) if section else ()
        self._per_group = section is not None and section.structure_per == "group"
        self._group, self._excluded = group_of, excluded
        self._leader = self._leaders(layers)

    def network_variables(self) -> dict[str, Variable]:
        """The variables that the whole network shares."""
        section, found = self.section, dict[str, Variable]()
        if section is None:
            return found
        learned = "learned" in self._masks
        if not self._per_group:
            found["structure"] = unordered(self.structures)
            if learned:
                found["mask"] = unordered(self._masks, at="magnitude")
        if learned and section.target and section.strength:
            for name, part in (("mask_target", section.target), ("mask_strength", section.strength)):
                found[name] = Continuous(part.low, part.high, snapped((part.low + part.high) / 2))
        return found

    def names(self, layer: LayerInfo) -> dict[str, str]:
        """The variables that drive how `layer` is pruned, by what they decide."""
        section = self.section
        if section is None or layer.kind == "depthwise" or layer.name in self._excluded:
            return {}
        group, lead = self._group[layer.name], self._lead_group(layer)
        own = [structure for structure in self.structures if structure != FILTER and _takes(layer, structure)]
        leads = self._leader.get(layer.name) == layer.name and FILTER in self.structures
        names = {}
        if self._per_group:
            if own or leads:
                names["structure"] = f"structure/{group}"
            if lead is not None:
                names["leader's structure"] = f"structure/{lead}"
        if self._per_group and "learned" in self._masks:
            if leads or "weight" in own:
                names["mask"] = f"mask/{group}"
            if lead is not None:
                names["leader's mask"] = f"mask/{lead}"
        if own and (section.graded or any(structure != "weight" for structure in own)):
            names["sparsity"] = self._sparsity_name(group)
        if lead is not None and section.graded:
            names["filter sparsity"] = self._sparsity_name(lead)
        return names

    def group_variable(self, kind: str, name: str, driven: Iterable[LayerInfo]) -> Variable:
        """The variable `name` of the kind ``structure``, ``mask`` or ``sparsity``, which drives the layers `driven`."""
        section = self.section
        assert section is not None
        if kind == "mask":
            return unordered(self._masks, at="magnitude")
        if kind == "structure":
            # what no layer of the group can take would give several parameters for one plan
            group = name.partition("/")[2]
            members = [layer for layer in driven if self._group[layer.name] == group]
            return unordered([one for one in self.structures if any(self._offers(layer, one) for layer in members)])
        if section.graded and ("weight" in self.structures or self._leads_any(name, driven)):
            return Grid(section.low, section.top, section.step)
        # a pattern is there or, at sparsity 0, it is not
        top = section.top if section.low == 0.0 else section.low
        return Grid(section.low, top, top - section.low or 1.0)

    def pruning(self, layer: LayerInfo, values: Mapping[str, Any]) -> Pruning | None:
        """What the values of all variables mean for `layer`; None leaves it unpruned."""
        section = self.section
        if section is None or layer.kind == "depthwise" or layer.name in self._excluded:
            return None
        group, lead = self._group[layer.name], self._lead_group(layer)
        structure = self._value(values, "structure", group, self.structures[0])
        if lead is not None:
            leaders = self._value(values, "structure", lead, self.structures[0])
            if leaders == FILTER:
                group = lead
            if FILTER in (leaders, structure):
                structure = leaders
        if not (structure == FILTER and lead is not None) and not _takes(layer, structure):
            return None
        if structure in ("weight", FILTER) and self._value(values, "mask", group, self._masks[0]) == "learned":
            target, strength = values["mask_target"], values["mask_strength"]
            return Pruning(0.0, structure, "learned", target=target, strength=strength, cost=section.cost)
        sparsity = values.get(self._sparsity_name(group), 0.0)
        if sparsity == 0.0:
            return None
        pattern = pattern_of(structure)
        if pattern is None:
            return Pruning(sparsity, structure, scope=section.scope)
        kept, of = pattern
        return Pruning(1.0 - kept / of, structure)

    def _leads_any(self, name: str, driven: Iterable[LayerInfo]) -> bool:
        leads = [lead for lead in map(self._lead_group, driven) if lead is not None]
        return any(self._sparsity_name(lead) == name for lead in leads)

    def _value(self, values: Mapping[str, Any], kind: str, group: str, default: str) -> str:
        found: str = values.get(f"{kind}/{group}" if self._per_group else kind, default)
        return found

    def _sparsity_name(self, group: str) -> str:
        # pruned together, the ranking alone says how much each layer loses
        together = self.section is not None and self.section.scope == "global"
        return f"sparsity/{NETWORK if together else group}"

    def _offers(self, layer: LayerInfo, structure: str) -> bool:
        if structure == FILTER:
            return self._leader.get(layer.name) == layer.name
        return _takes(layer, structure)

    def _lead_group(self, layer: LayerInfo) -> str | None:
        """Group of the layer that decides whether `layer` loses filters; None where it cannot."""
        leader = self._leader.get(layer.name)
        return None if leader is None or FILTER not in self.structures else self._group[leader]

    def _leaders(self, layers: Sequence[LayerInfo]) -> dict[str, str]:
        """For each layer that may lose filters, the layer whose sparsity it takes: its own, or its group's first."""
        shared: dict[str, list[LayerInfo]] = {}
        for layer in layers:
            if layer.kind != "depthwise":
                shared.setdefault(layer.coupled or layer.name, []).append(layer)
        residual = self.section.residual if self.section else "keep"
        leaders = {}
        for members in shared.values():
            coupled = members[0].coupled is not None
            if (coupled and residual == "keep") or not all(
                layer.prunable_filters and layer.name not in self._excluded for layer in members
            ):
                continue
            leaders.update({layer.name: members[0].name for layer in members})
        return leaders


def _takes(layer: LayerInfo, structure: str) -> bool:
    """Whether `layer` can be pruned so, whatever becomes of others; never by filters, which its leader decides."""
    if structure == FILTER:
        return False
    return structure == "weight" or fits_pattern(layer, structure)
