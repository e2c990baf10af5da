"""Proposals that would be trained in vain, and how little change would mend them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .configurations import Params

__all__ = ["mended"]


def mended(
    hopeless: Callable[[Params], bool], params: Mapping[str, Any], pattern: Mapping[str, Any], order: Sequence[str]
) -> Params:
    """`params` with about as few values taken from `pattern` as make it feasible.

    Bisection over how many of the variables, in the given order, are taken: few forecasts whatever their number.

    Args:
        hopeless: Whether a configuration breaks what is known.
        params: A hopeless configuration.
        pattern: One that is not.
        order: Names of all variables.

    Returns:
        A configuration that is not hopeless; `pattern` itself in the worst case.
    """
    names = [name for name in order if params[name] != pattern[name]]

    def mixed(count: int) -> Params:
        return {name: params[name] for name in params} | {name: pattern[name] for name in names[:count]}

    broken, whole = 0, len(names)
    while whole - broken > 1:
        middle = (broken + whole) // 2
        if hopeless(mixed(middle)):
            broken = middle
        else:
            whole = middle
    return mixed(whole)
