"""Groups of variables that mean the same in many places: of a kind, over the network, a stage, a block, a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..knowledge import VariablePlace

__all__ = ["Groups", "group_variables"]


@dataclass(frozen=True)
class Groups:
    """Which ordered variables belong together.

    Args:
        kinds: For each kind of variable the columns of its members.
        nested: For each kind, from coarse to fine, the parts of the network that hold several members (or all of them)
            as arrays of columns; the first is the network.
        joint: Parts of the network with members of any kind.
        weights: (D,) shares of the network's weights.
        free: Columns of variables that are in no group.
        recipe: Columns of those that act nowhere in the network, where others do.
    """

    kinds: Mapping[str, np.ndarray]
    nested: Mapping[str, tuple[tuple[np.ndarray, ...], ...]]
    joint: tuple[np.ndarray, ...]
    weights: np.ndarray
    free: np.ndarray
    recipe: np.ndarray

    def membership(self, size: int) -> np.ndarray:
        """(g, D) bools, one row for each group of any kind and size."""
        parts = [part for levels in self.nested.values() for level in levels for part in level] + list(self.joint)
        rows = np.zeros((len(parts), size), dtype=bool)
        for row, part in zip(rows, parts, strict=True):
            row[part] = True
        return np.unique(rows, axis=0) if len(rows) else rows


def group_variables(names: tuple[str, ...], places: Mapping[str, VariablePlace]) -> Groups:
    """Group variables by their places; those that have none, or no order, are free.

    Args:
        names: The D variables, in order.
        places: Where they act.
    """
    weights = np.array([places[name].weight if name in places else 1.0 for name in names])
    ordered = [index for index, name in enumerate(names) if name in places and places[name].ordered]
    kinds: dict[str, list[int]] = {}
    for index in ordered:
        kinds.setdefault(places[names[index]].kind, []).append(index)
    # a kind with a single variable has nothing to group, but still a level that moves with the others'
    nested = {kind: _nested(members, names, places) for kind, members in kinds.items()}
    joint: list[np.ndarray] = []
    if len(kinds) > 1:
        joint = [part for level in _nested(ordered, names, places, finest=True) for part in level]
    free = np.setdiff1d(np.arange(len(names)), ordered)
    recipe = [index for index, name in enumerate(names) if kinds and name not in places]
    columns = {kind: np.array(members) for kind, members in kinds.items()}
    return Groups(columns, nested, tuple(joint), weights, free, np.array(recipe, dtype=int))


def _nested(
    members: list[int], names: tuple[str, ...], places: Mapping[str, VariablePlace], *, finest: bool = False
) -> tuple[tuple[np.ndarray, ...], ...]:
    deepest = max(len(places[names[index]].path) for index in members)
    levels: list[tuple[np.ndarray, ...]] = [(np.array(members),)]
    known = {tuple(members)}
    for depth in range(1, deepest + 1):
        parts: dict[tuple[str, ...], list[int]] = {}
        for index in members:
            parts.setdefault(places[names[index]].path[:depth], []).append(index)
        fresh = [part for part in parts.values() if tuple(part) not in known and (len(part) > 1 or finest)]
        known |= {tuple(part) for part in fresh}
        if fresh:
            levels.append(tuple(np.array(part) for part in fresh))
    return tuple(levels)
