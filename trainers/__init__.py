"""From a plan to a trained candidate: tasks, data, models, augmentation, attacks, class balance and the fit loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import resolve_device
    from .fit import FitResult, Progress
    from .tasks.base import Batch, EvaluationSet, Task

__all__ = ["Batch", "EvaluationSet", "FitResult", "Progress", "Task", "resolve_device"]

# all of these import torch, which importing the package must not
_LAZY = {
    "Batch": ".tasks.base",
    "EvaluationSet": ".tasks.base",
    "FitResult": ".fit",
    "Progress": ".fit",
    "Task": ".tasks.base",
    "resolve_device": ".device",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
