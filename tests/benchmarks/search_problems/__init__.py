"""Problems on which samplers are compared, by name."""

from __future__ import annotations

from .base import BenchmarkProblem

__all__ = ["problem"]


def problem(name: str) -> BenchmarkProblem:
    """The problem called ``compression-<instance>``, ``dtlz2``, ``wfg4``, ``digits`` or ``digits-finetuned``.

    Raises:
        ValueError: There is none of this name.
    """
    family, _, instance = name.partition("-")
    if family == "compression" and instance.isdecimal():
        from .compression import compression

        return compression(int(instance))
    if name in ("dtlz2", "wfg4"):
        from . import continuous

        return continuous.dtlz2() if name == "dtlz2" else continuous.wfg4()
    if family == "digits":
        from .tabulated import SETTINGS, tabulated

        if name in SETTINGS:
            return tabulated(name)
    raise ValueError(f"`name` must be compression-<instance>, dtlz2, wfg4, digits or digits-finetuned; found {name!r}.")
