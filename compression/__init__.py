"""Compression: what a plan does to a model, from simulators in training to exported artefacts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attach import Attached
    from .candidate import Candidate, LayerCodes, load_candidate, save_candidate

__all__ = ["Attached", "Candidate", "LayerCodes", "load_candidate", "save_candidate"]

# these import torch, which the command line must not need before it trains; `attach` and `bake` are not here, as
# their modules go by the same names
_LAZY = {
    "Attached": ".attach",
    "Candidate": ".candidate",
    "LayerCodes": ".candidate",
    "load_candidate": ".candidate",
    "save_candidate": ".candidate",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
