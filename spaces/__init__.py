"""Spaces: a model's compressible layers, what a search may vary, and the plan that a trial carries out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, Stages, TrialPlan

if TYPE_CHECKING:
    from .coupling import dependency_graph, output_groups
    from .groups import group_layers
    from .known import ladder
    from .layers import LayerInfo, inspect_layers
    from .space import SearchSpace

__all__ = [
    "Clustering",
    "LayerInfo",
    "LayerPlan",
    "Pruning",
    "Quantization",
    "Recipe",
    "SearchSpace",
    "Stages",
    "TrialPlan",
    "dependency_graph",
    "group_layers",
    "inspect_layers",
    "ladder",
    "output_groups",
]

# these import torch or Optuna
_LAZY = {
    "LayerInfo": ".layers",
    "SearchSpace": ".space",
    "dependency_graph": ".coupling",
    "group_layers": ".groups",
    "inspect_layers": ".layers",
    "ladder": ".known",
    "output_groups": ".coupling",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
