"""Models: bare networks by name, their normalisation, and the loading of checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import ImageClassifier, Normalize, build_classifier, with_normalization
    from .weights import load_weights

__all__ = ["ImageClassifier", "Normalize", "build_classifier", "load_weights", "with_normalization"]

_LAZY = {name: ".weights" if name == "load_weights" else ".base" for name in __all__}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
