"""Layers that share one set of variables: each layer, block or stage, or the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .layers import LayerInfo

__all__ = ["NETWORK", "Granularity", "group_layers"]

Granularity = Literal["layer", "block", "stage", "network"]

NETWORK = "network"
"""The name of the one group at network granularity."""


def group_layers(layers: Sequence[LayerInfo], granularity: Granularity) -> dict[str, tuple[LayerInfo, ...]]:
    """The groups by name, in the order of their first layers; every layer lies in exactly one.

    Args:
        layers: Layers in forward order.
        granularity: What makes a group.

    Raises:
        ValueError: `granularity` is unknown.
    """
    names = {
        "layer": lambda layer: layer.name,
        "block": lambda layer: layer.block,
        "stage": lambda layer: layer.stage,
        "network": lambda layer: NETWORK,
    }
    if granularity not in names:
        raise ValueError(f"`granularity` must be one of {', '.join(names)}; found {granularity!r}.")
    groups: dict[str, list[LayerInfo]] = {}
    for layer in layers:
        groups.setdefault(names[granularity](layer), []).append(layer)
    return {name: tuple(members) for name, members in groups.items()}
