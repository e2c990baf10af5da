"""Proposals that would be trained in vain: how far they break what is known, and how little change would mend them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..knowledge import Knowledge
from .configurations import Params

__all__ = ["known_violation", "mended"]


def known_violation(knowledge: Knowledge | None, params: Mapping[str, Any]) -> float:
    """Sum of what the conditions on exactly known numbers are exceeded by; 0 for what may be feasible.

    Args:
        knowledge: None where nothing is known.
        params: A configuration.
    """
    if knowledge is None or not knowledge.conditions:
        return 0.0
    told, total = knowledge.forecast(params), 0.0
    for condition in knowledge.conditions:
        known = told.get(condition.metric)
        reference = knowledge.control.get(condition.metric)
        if known is None or not known.exact or (condition.relative_to_control and reference is None):
            continue
        excess = condition.violation(known.value, None if reference is None else reference.value)
        total += max(0.0, excess)
    return total if not math.isnan(total) else math.inf


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
