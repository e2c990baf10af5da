"""Compression: what a plan does to a model, from simulators in training to exported artefacts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attach import Attached, attach
    from .bake import bake
    from .candidate import Candidate, LayerCodes, load_candidate, save_candidate

__all__ = ["Attached", "Candidate", "LayerCodes", "attach", "bake", "load_candidate", "save_candidate"]

# these import torch, which the command line must not need before it trains
_LAZY = {
    "Attached": ".attach",
    "Candidate": ".candidate",
    "LayerCodes": ".candidate",
    "attach": ".attach",
    "bake": ".bake",
    "load_candidate": ".candidate",
    "save_candidate": ".candidate",
}


def __getattr__(name: str) -> Any:
    # `attach` and `bake` are also the modules' names, and importing the module binds that one first
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
