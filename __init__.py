"""Forgefront: automated compression search for vision models that stay robust."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .search.bundle import load_bundle
    from .search.run import load_run
    from .studies import load_study

__all__ = ["__version__", "load_bundle", "load_run", "load_study"]

# heavy rooms are imported when first used, so that `forgefront --help` never imports torch
_LAZY = {"load_bundle": ".search.bundle", "load_run": ".search.run", "load_study": ".studies"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
