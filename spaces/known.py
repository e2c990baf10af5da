"""Known compressions to start a search from: eight bits first, then everything at once from mild to strong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .space import EDGE_BITS, SearchSpace
from .variables import Grid, Ordinal

__all__ = ["ladder"]

# eight bits cost next to nothing on CNNs; rungs go below only near the top
_BELOW_EIGHT_BITS_FROM = 0.8

# half of the filters gone is three quarters of the operations gone, so filters go slower than weights
_FILTER_PACE = 0.6


def ladder(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """At most `count` distinct uniform compressions, each with every group at the same strength.

    The first only quantizes, to eight bits where the space has them. The others raise sparsity, clusters and bits
    together, weights and filters in turn where both structures are searched; augmentation and class weighting stay at
    their defaults. Fewer come back where the space has fewer.

    Args:
        space: The search space.
        count: How many to give, 0 or more.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"`count` must be 0 or more; found {count!r}.")
    rungs: list[dict[str, Any]] = []
    for rung in _rungs(space, count):
        if len(rungs) == count:
            break
        # a rung that compresses nothing would repeat the control
        if rung not in rungs and space.decode(rung).layers:
            rungs.append(rung)
    return rungs


def _rungs(space: SearchSpace, count: int) -> Iterator[dict[str, Any]]:
    structures = space.structures if "structure" in space.distributions else (None,)
    yield _rung(space, 0.0, structures[0])
    for position in range(1, count):
        yield _rung(space, position / (count - 1), structures[(position - 1) % len(structures)])
    for parts in (8, 32, 128):  # where rungs met on a coarse grid, look between them
        for part in range(1, parts + 1):
            for structure in structures:
                yield _rung(space, part / parts, structure)


def _rung(space: SearchSpace, level: float, structure: str | None) -> dict[str, Any]:
    params = space.encode(level)
    for name in params:
        variable = space.variables[name]
        if name.startswith(("weight_bits/", "activation_bits/")) and isinstance(variable, Ordinal):
            params[name] = _bits(variable.choices, level)
        elif name.startswith("sparsity/") and isinstance(variable, Grid) and structure == "filter":
            params[name] = variable.at(level * _FILTER_PACE)
    if structure is not None:
        params["structure"] = structure
    return params


def _bits(choices: tuple[int, ...], level: float) -> int:
    """Index of the bits at `level`: the fewest that are at least eight, one step lower near the top."""
    enough = [index for index, bits in enumerate(choices) if bits >= EDGE_BITS]
    index = enough[-1] if enough else 0
    return min(index + 1, len(choices) - 1) if level >= _BELOW_EIGHT_BITS_FROM else index
