"""Known compressions to start a search from: eight bits first, then everything at once from mild to strong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .plan import TrialPlan
from .space import EDGE_BITS, SearchSpace
from .variables import Continuous, Grid, Ordinal, snapped

__all__ = ["ladder"]

# eight bits cost next to nothing on CNNs; rungs go below only near the top
_BELOW_EIGHT_BITS_FROM = 0.8

# half of the filters gone is three quarters of the operations gone, so filters go slower than weights
_FILTER_PACE = 0.6


def ladder(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """At most `count` distinct uniform compressions, each with every group at the same strength.

    The first only quantizes, to eight bits where the space has them, after training where that is a choice. The others
    raise sparsity, clusters and bits together, structures in turn where several are searched; masks go by magnitude,
    scales come from ranges, and augmentation and class weighting stay at their defaults. Where learned masks or learned
    scales are a choice, the last has them everywhere; where there are no other masks, their target falls. Fewer come
    back where the space has fewer. A space of techniques gives each of them once, in order.

    Args:
        space: The search space.
        count: How many to give, 0 or more.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"`count` must be 0 or more; found {count!r}.")
    if space.section.techniques is not None:
        varies = "technique" in space.distributions
        return [{"technique": name} if varies else {} for name in space.section.techniques][:count]
    last = [] if count < 2 else list(_learned_rungs(space))
    rungs: list[dict[str, Any]] = []
    plans: list[TrialPlan] = []
    for rung in _rungs(space, count - len(last)):
        if len(rungs) == count - len(last):
            break
        plan = space.decode(rung)
        # a rung that compresses nothing would repeat the control; a pattern's plan is the same at every sparsity
        if plan.layers and plan not in plans:
            rungs.append(rung)
            plans.append(plan)
    return rungs + last


def _rungs(space: SearchSpace, count: int) -> Iterator[dict[str, Any]]:
    structures = space.structures if _parameters(space, "structure") else (None,)
    first = _rung(space, 0.0, structures[0])
    yield first | dict.fromkeys(_parameters(space, "quantization"), "post")
    for position in range(1, count):
        yield _rung(space, position / (count - 1), structures[(position - 1) % len(structures)])
    for parts in (8, 32, 128):  # where rungs met on a coarse grid, look between them
        for part in range(1, parts + 1):
            for structure in structures:
                yield _rung(space, part / parts, structure)


def _learned_rungs(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """One compression with learned masks and scales everywhere, where the search may choose them.

    With masks it is of middle strength; with scales alone of the greatest, for low bits gain the most from them.
    """
    masks, scales = _parameters(space, "mask"), _parameters(space, "scales")
    if not masks and not scales:
        return
    # filters, whose removal every runtime rewards; a pattern would have no learned mask
    kept = [structure for structure in ("filter", "weight") if structure in space.structures]
    structure = kept[0] if masks else None
    yield _rung(space, 0.5 if masks else 1.0, structure) | dict.fromkeys([*masks, *scales], "learned")


def _parameters(space: SearchSpace, kind: str) -> list[str]:
    """The parameters that make one choice, for the network or for each group."""
    return [name for name in space.distributions if name == kind or name.startswith(f"{kind}/")]


def _rung(space: SearchSpace, level: float, structure: str | None) -> dict[str, Any]:
    params = space.encode(level)
    for name in params:
        variable = space.variables[name]
        if name.startswith(("weight_bits/", "activation_bits/")) and isinstance(variable, Ordinal):
            params[name] = _bits(variable.choices, level)
        elif name.startswith("sparsity/") and isinstance(variable, Grid) and structure == "filter":
            params[name] = variable.at(level * _FILTER_PACE)
        elif name.partition("/")[0] == "structure" and isinstance(variable, Ordinal):
            # a group that cannot take it has its first choice
            params[name] = structure if structure in variable.choices else params[name]
        elif name == "mask_target" and isinstance(variable, Continuous) and not _parameters(space, "mask"):
            params[name] = snapped(variable.high - level * (variable.high - variable.low))
    return params


def _bits(choices: tuple[int, ...], level: float) -> int:
    """Index of the bits at `level`: the fewest that are at least eight, one step lower near the top."""
    enough = [index for index, bits in enumerate(choices) if bits >= EDGE_BITS]
    index = enough[-1] if enough else 0
    return min(index + 1, len(choices) - 1) if level >= _BELOW_EIGHT_BITS_FROM else index
