"""`[space]` of a study file: what the search may vary, and how finely."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .faults import Fault, broken, contradiction, nearest
from .schema_base import PartName, Section, distinct

__all__ = ["STRUCTURES", "RangeSection", "SpaceSection", "SparsitySection"]

STRUCTURES = ("weight", "filter")
"""Structures that the compressors can take today; a plan's vocabulary also has ``n:m``."""

FLOAT_BITS = 32


def _structure(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d+:\d+", value):
        raise broken(f"{' or '.join(STRUCTURES)} (n:m patterns are not supported yet)", "weight")
    if value not in STRUCTURES:
        raise broken(" or ".join(STRUCTURES), nearest(value, STRUCTURES))
    return value


def _clusters(value: Any) -> Any:
    if value == "none":
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 2 <= value <= 256:
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        suggestion: Any = "none" if number is None else min(max(round(number), 2), 256)
        raise broken('2–256 or "none"', suggestion)
    return value


def _bits(lowest: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and (lowest <= value <= 8 or value == FLOAT_BITS):
            return value
        try:
            number = None if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = None
        suggestion = None
        if number is not None and number == number:
            # halfway between 8 and 32 on the scale of bits
            suggestion = FLOAT_BITS if number >= 16 else round(min(max(number, lowest), 8))
        elif isinstance(value, str):
            suggestion = FLOAT_BITS
        raise broken(f"one of {lowest}–8 or 32 (float)", suggestion)

    return BeforeValidator(check)


Distinct = AfterValidator(distinct)
ClusterCount = Annotated[int | str, BeforeValidator(_clusters)]


class RangeSection(Section):
    """A continuous variable between `low` and `high`."""

    low: Annotated[float, Field(ge=0.0)] = 0.0
    high: Annotated[float, Field(ge=0.0)]

    @model_validator(mode="after")
    def _ordered(self) -> RangeSection:
        if self.low > self.high:
            raise contradiction([Fault(("low",), f"at most `high` ({self.high:g})", self.low, f"{self.high:g}")])
        return self


class SparsitySection(Section):
    """Share of weights or filters removed.

    Args:
        step: Grid on which the search looks.
        structure: What is removed; with more than one entry the search chooses one for the network.
        residual: What filter pruning does to layers whose outputs are summed: ``keep`` leaves them whole, ``share``
            removes the same filters from all of them.
        round_to: Filters are kept in multiples of this, rounded up: runtimes are slow with odd numbers of channels.
    """

    low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    high: Annotated[float, Field(gt=0.0, lt=1.0)]
    step: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    structure: Annotated[list[Annotated[str, BeforeValidator(_structure)]], Distinct] = Field(
        default_factory=lambda: ["weight"]
    )
    residual: Literal["keep", "share"] = "keep"
    round_to: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _ordered(self) -> SparsitySection:
        faults = []
        width = self.high - self.low
        if width < 0:
            faults.append(Fault(("low",), f"at most `high` ({self.high:g})", self.low, f"{self.high:g}"))
        elif 0 < width < self.step - 1e-9:
            allowed = f"at most high - low ({width:g})"
            faults.append(Fault(("step",), allowed, self.step, f"{width:g}"))
        if faults:
            raise contradiction(faults)
        return self


class SpaceSection(Section):
    """The variables. One that is left out is not used; a list of one entry is used and not searched.

    Args:
        granularity: What shares one variable: a layer, a block, a stage, or all layers.
        exclude: Patterns (``*`` and ``?``) of layer names that stay dense.
        clusters: Numbers of distinct weights of a layer; ``"none"`` for any.
        weight_bits: Bits of weights, 32 for float.
        activation_bits: Bits of activations, 32 for float.
        quantization: ``aware`` simulates quantization in training, ``post`` quantizes after it.
        class_weight_scale: λ, the power that class weights are raised to.
    """

    granularity: Literal["layer", "block", "stage", "network"] = "stage"
    exclude: list[str] = Field(default_factory=list)
    sparsity: SparsitySection | None = None
    clusters: Annotated[list[ClusterCount], Distinct] | None = None
    weight_bits: Annotated[list[Annotated[int, _bits(1)]], Distinct] | None = None
    activation_bits: Annotated[list[Annotated[int, _bits(2)]], Distinct] | None = None
    quantization: Literal["aware", "post"] = "aware"
    augmentation_strength: RangeSection | None = None
    class_weighting: Annotated[list[PartName], Distinct] | None = None
    class_weight_scale: RangeSection | None = None

    @property
    def used(self) -> list[str]:
        """Names of the variables that the file gives."""
        return [name for name in _VARIABLES if getattr(self, name) is not None]

    @property
    def searched(self) -> list[str]:
        """Names of the variables that can take more than one value."""
        return [name for name in self.used if _varies(getattr(self, name))]


_VARIABLES = (
    "sparsity",
    "clusters",
    "weight_bits",
    "activation_bits",
    "augmentation_strength",
    "class_weighting",
    "class_weight_scale",
)


def _varies(variable: Any) -> bool:
    if isinstance(variable, list):
        return len(variable) > 1
    structures = variable.structure if isinstance(variable, SparsitySection) else ()
    return variable.low < variable.high or len(structures) > 1
