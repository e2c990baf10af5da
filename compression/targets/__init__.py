"""Targets: where a candidate will run; export, parity, size and latency there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Artefact, Target
    from .parity import Parity, check_parity
    from .timing import LatencyComparison

__all__ = ["Artefact", "LatencyComparison", "Parity", "Target", "check_parity"]

_LAZY = {
    "Artefact": ".base",
    "LatencyComparison": ".timing",
    "Parity": ".parity",
    "Target": ".base",
    "check_parity": ".parity",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
