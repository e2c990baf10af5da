"""`[space.sparsity]` of a study file: what is pruned, how much, and by which masks; and ranges of numbers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .faults import Fault, broken, contradiction, nearest
from .schema_base import Section, distinct

__all__ = ["STRUCTURES", "Distinct", "RangeSection", "SparsitySection"]

STRUCTURES = ("weight", "filter")
"""Structures beside the patterns n:m."""

LARGEST_PATTERN = 32

PRESENT = 0.5
"""Sparsity at which patterns are there, where a study of patterns alone does not say."""

Mask = Literal["magnitude", "learned"]

Distinct = AfterValidator(distinct)
"""A list with entries, none of them twice."""


def _structure(value: Any) -> Any:
    pattern = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    if pattern is not None:
        kept, of = sorted((int(pattern[1]), int(pattern[2])))
        if value == f"{kept}:{of}" and 0 < kept < of <= LARGEST_PATTERN:
            return value
        suggestion = f"{kept}:{of}" if 0 < kept < of <= LARGEST_PATTERN else "2:4"
        raise broken(f"weight, filter or n:m with 0 < n < m ≤ {LARGEST_PATTERN}", suggestion)
    if value not in STRUCTURES:
        raise broken("weight, filter or n:m such as 2:4", nearest(value, STRUCTURES))
    return value


def _refuse_numbers(value: Any, *, share: bool = False) -> None:
    """Tell of the table that was meant where a number, or a list of two, stands for a range."""
    low, high = value if isinstance(value, list) and len(value) == 2 else (value, value)
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in (low, high)):
        return
    fits = 0 <= low <= high and (not share or 0 < high < 1)
    raise broken("a table with `low` and `high`", {"low": low, "high": high} if fits else None)


class RangeSection(Section):
    """A continuous variable between `low` and `high`."""

    low: Annotated[float, Field(ge=0.0)] = 0.0
    high: Annotated[float, Field(ge=0.0)]

    @model_validator(mode="before")
    @classmethod
    def _is_table(cls, value: Any) -> Any:
        _refuse_numbers(value)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> RangeSection:
        if self.low > self.high:
            raise contradiction([Fault(("low",), f"at most `high` ({self.high:g})", self.low, f"{self.high:g}")])
        return self


class SparsitySection(Section):
    """What is removed, and how much of it.

    Args:
        low: Smallest share of weights or filters removed.
        high: Largest; may be left out when every mask is learned or every structure a pattern.
        step: Grid on which the search looks.
        structure: What is removed: single weights, filters, or all but n of m neighbouring weights (``2:4``), which a
            layer has, whatever the sparsity, unless that is 0. With patterns alone the search chooses between 0 and
            `high` (0.5 where it is left out), which is absent and present.
        structure_per: Where there are several structures or masks, the search chooses one for the ``network``, or one
            for each ``group`` (as `granularity` makes them).
        scope: ``layer`` removes the share from each layer; ``global`` from all layers together, smallest first, with
            one sparsity for the network.
        residual: What filter pruning does to layers whose outputs are summed: ``keep`` leaves them whole, ``share``
            removes the same filters from all of them.
        round_to: Filters are kept in multiples of this, rounded up: runtimes are slow with odd numbers of channels.
        mask: ``magnitude`` removes the smallest; ``learned`` trains the masks (weights and filters; patterns keep
            ``magnitude``).
        target: ψ*, the share of the network's cost that learned masks are to leave.
        strength: b, the weight of the hardware loss of learned masks.
        cost: What that loss counts.
    """

    low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    high: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    step: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    structure: Annotated[list[Annotated[str, BeforeValidator(_structure)]], Distinct] = Field(
        default_factory=lambda: ["weight"]
    )
    structure_per: Literal["network", "group"] = "network"
    scope: Literal["layer", "global"] = "layer"
    residual: Literal["keep", "share"] = "keep"
    round_to: Annotated[int, Field(ge=1)] = 8
    mask: Annotated[list[Mask], Distinct] = Field(default_factory=lambda: list[Mask](["magnitude"]))
    target: RangeSection | None = None
    strength: RangeSection | None = None
    cost: Literal["operations", "parameters", "latency"] = "operations"

    @model_validator(mode="before")
    @classmethod
    def _is_table(cls, value: Any) -> Any:
        _refuse_numbers(value, share=True)
        return value

    @property
    def graded(self) -> bool:
        """Whether a share of weights or filters is removed by magnitude, so that it matters how much."""
        return "magnitude" in self.mask and any(structure in STRUCTURES for structure in self.structure)

    @property
    def patterned(self) -> bool:
        """Whether a layer may take an n:m pattern."""
        return any(structure not in STRUCTURES for structure in self.structure)

    @property
    def top(self) -> float:
        """The largest sparsity; where none is given `low`, or for patterns, which `low` = 0 would forbid, 0.5."""
        if self.high is not None:
            return self.high
        return PRESENT if self.patterned and self.low == 0.0 else self.low

    @property
    def varies(self) -> bool:
        """Whether there is anything to choose."""
        amount = (self.graded and self.low < self.top) or (self.patterned and self.low == 0.0)
        learning = [part for part in (self.target, self.strength) if part is not None]
        return amount or len(self.structure) > 1 or len(self.mask) > 1 or any(part.low < part.high for part in learning)

    @model_validator(mode="after")
    def _no_contradiction(self) -> SparsitySection:
        faults = [*self._range_faults(), *self._learned_faults()]
        if self.scope == "global" and not self.graded:
            allowed = '"layer" with learned masks and n:m patterns'
            faults.append(Fault(("scope",), allowed, self.scope, '"layer"'))
        if faults:
            raise contradiction(faults)
        return self

    def _range_faults(self) -> list[Fault]:
        if self.high is None:
            return [Fault(("high",), "given")] if self.graded else []
        width = self.high - self.low
        if width < 0:
            return [Fault(("low",), f"at most `high` ({self.high:g})", self.low, f"{self.high:g}")]
        if 0 < width < self.step - 1e-9:
            return [Fault(("step",), f"at most high - low ({width:g})", self.step, f"{width:g}")]
        return []

    def _learned_faults(self) -> list[Fault]:
        if "learned" not in self.mask:
            given = {"target": self.target, "strength": self.strength}
            parts = {key: part.model_dump() for key, part in given.items() if part is not None}
            found: dict[str, Any] = parts | ({"cost": self.cost} if self.cost != "operations" else {})
            allowed = 'left out unless `mask` holds "learned"'
            return [Fault((key,), allowed, value, 'mask = ["learned"]') for key, value in found.items()]
        faults = []
        for key, part, example in (
            ("target", self.target, "low = 0.3, high = 0.9"),
            ("strength", self.strength, "low = 1, high = 1"),
        ):
            if part is None:
                faults.append(Fault((key,), f"given with learned masks, for example {{ {example} }}"))
            elif part.low <= 0.0:
                faults.append(Fault((key, "low"), "greater than 0", part.low))
        if self.target is not None and self.target.high > 1.0:
            faults.append(Fault(("target", "high"), "at most 1", self.target.high, "1.0"))
        if all(structure not in STRUCTURES for structure in self.structure):
            faults.append(Fault(("mask",), '["magnitude"] with n:m patterns', self.mask, '["magnitude"]'))
        if self.cost == "latency" and "weight" in self.structure:
            allowed = 'operations or parameters when `structure` holds "weight" (zeros save no time)'
            faults.append(Fault(("cost",), allowed, self.cost, '"operations"'))
        return faults
