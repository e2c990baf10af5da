"""`[space]` of a study file: what the search may vary, and how finely."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .faults import Fault, broken, contradiction, nearest
from .schema_base import PartName, Section
from .schema_sparsity import Distinct, RangeSection, SparsitySection

__all__ = ["TECHNIQUE_NAMES", "RangeSection", "SpaceSection", "SparsitySection"]

TECHNIQUE_NAMES = tuple(f"technique-{code}" for code in range(1, 17))
"""The techniques of Castro et al. by their codes; `forgefront.spaces.techniques` says what they do."""

FLOAT_BITS = 32


def _technique(value: Any) -> Any:
    if value not in TECHNIQUE_NAMES:
        code = re.search(r"\d+", str(value)) if not isinstance(value, bool) else None
        match = f"technique-{int(code[0])}" if code else nearest(value, TECHNIQUE_NAMES)
        allowed = f"{TECHNIQUE_NAMES[0]} to {TECHNIQUE_NAMES[-1]}"
        raise broken(allowed, match if match in TECHNIQUE_NAMES else None)
    return value


def _all_techniques(value: Any) -> Any:
    if value == "all":
        return list(TECHNIQUE_NAMES)
    if isinstance(value, str):
        raise broken('"all" or a list of techniques', [value] if value in TECHNIQUE_NAMES else "all")
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


def _choice(choices: Sequence[str], also: Mapping[str, str]) -> BeforeValidator:
    """One of `choices` or a list of them; `also` are other words for them."""

    def check(value: Any) -> Any:
        if isinstance(value, list) or value in choices:
            return value
        meant = also.get(value.strip().lower()) if isinstance(value, str) else None
        raise broken(f"{' or '.join(choices)}, or a list of them", meant or nearest(value, choices))

    return BeforeValidator(check)


ClusterCount = Annotated[int | str, BeforeValidator(_clusters)]
Mode = Literal["aware", "post"]
Scales = Literal["range", "learned"]
AnyMode = _choice(("aware", "post"), {"qat": "aware", "ptq": "post"})
AnyScales = _choice(("range", "learned"), {"lsq": "learned"})


class SpaceSection(Section):
    """The variables. One that is left out is not used; a list of one entry is used and not searched.

    Args:
        granularity: What shares one variable: a layer, a block, a stage, or all layers.
        exclude: Patterns (``*`` and ``?``) of layer names that stay dense.
        techniques: Techniques of Castro et al. by name, or ``"all"``; each is one trial, and nothing else is searched.
        sparsity: What is pruned.
        clusters: Numbers of distinct weights of a layer; ``"none"`` for any.
        clusters_per: What they are counted in: the whole ``layer``, or each output ``channel``.
        clusters_gradient: How the gradients of a cluster's weights reach the value they share: ``mean`` or ``sum``.
        lloyd_iterations: Passes of Lloyd's algorithm after k-means++ has seeded a layer's clusters.
        weight_bits: Bits of weights, 32 for float.
        activation_bits: Bits of activations, 32 for float.
        quantization: ``aware`` simulates quantization in training, ``post`` quantizes after it; of a list, the search
            chooses one for each group.
        scales: ``range`` takes them from the values, ``learned`` trains them (where the quantization is ``aware``; else
            they come from the values); of a list, the search chooses one for each group.
        augmentation: Names of augmentations, of which the search chooses one for the network.
        class_weight_scale: λ, the power that class weights are raised to.
    """

    granularity: Literal["layer", "block", "stage", "network"] = "stage"
    exclude: list[str] = Field(default_factory=list)
    techniques: (
        Annotated[
            list[Annotated[str, BeforeValidator(_technique)]],
            BeforeValidator(_all_techniques),
            Distinct,
        ]
        | None
    ) = None
    sparsity: SparsitySection | None = None
    clusters: Annotated[list[ClusterCount], Distinct] | None = None
    clusters_per: Literal["layer", "channel"] = "layer"
    clusters_gradient: Literal["mean", "sum"] = "mean"
    lloyd_iterations: Annotated[int, Field(ge=0, le=1000)] = 10
    weight_bits: Annotated[list[Annotated[int, _bits(1)]], Distinct] | None = None
    activation_bits: Annotated[list[Annotated[int, _bits(2)]], Distinct] | None = None
    quantization: Annotated[Mode | Annotated[list[Annotated[Mode, AnyMode]], Distinct], AnyMode] = "aware"
    scales: Annotated[Scales | Annotated[list[Annotated[Scales, AnyScales]], Distinct], AnyScales] = "range"
    augmentation: Annotated[list[PartName], Distinct] | None = None
    augmentation_strength: RangeSection | None = None
    class_weighting: Annotated[list[PartName], Distinct] | None = None
    class_weight_scale: RangeSection | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The choices of `quantization`."""
        return (self.quantization,) if isinstance(self.quantization, str) else tuple(self.quantization)

    @property
    def scalings(self) -> tuple[Scales, ...]:
        """The choices of `scales`."""
        return (self.scales,) if isinstance(self.scales, str) else tuple(self.scales)

    @property
    def quantizes(self) -> bool:
        """Whether some bits that the search may choose are no floats."""
        return any(min(bits) < FLOAT_BITS for bits in (self.weight_bits, self.activation_bits) if bits)

    @property
    def used(self) -> list[str]:
        """Names of the variables that the file gives."""
        return [name for name in _VARIABLES if getattr(self, name) is not None]

    @property
    def searched(self) -> list[str]:
        """Names of the variables that can take more than one value."""
        names = [*self.used, *(("quantization", "scales") if self.quantizes else ())]
        return [name for name in names if _varies(getattr(self, name))]

    @model_validator(mode="after")
    def _no_contradiction(self) -> SpaceSection:
        faults = self._technique_faults() if self.techniques is not None else self._quantization_faults()
        if self.techniques is None and self.clusters is None:
            faults += self._clustering_faults()
        if faults:
            raise contradiction(faults)
        return self

    def _technique_faults(self) -> list[Fault]:
        allowed = "left out when `space.techniques` is given, which settles everything"
        faults = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name not in ("techniques", "exclude") and value != field.get_default(call_default_factory=True):
                found = value.model_dump(exclude_none=True) if isinstance(value, Section) else value
                faults.append(Fault((name,), allowed, found))
        return faults

    def _clustering_faults(self) -> list[Fault]:
        allowed, fields = "left out unless `space.clusters` is given", type(self).model_fields
        given = [(key, getattr(self, key)) for key in ("clusters_per", "clusters_gradient", "lloyd_iterations")]
        odd = [(key, value) for key, value in given if value != fields[key].default]
        return [Fault((key,), allowed, value, "clusters = [16]") for key, value in odd]

    def _quantization_faults(self) -> list[Fault]:
        faults = []
        if self.weight_bits is None and self.activation_bits is None:
            allowed = "left out unless `space.weight_bits` or `space.activation_bits` is given"
            given = [
                ("quantization", self.quantization, len(self.modes) > 1),
                ("scales", self.scales, self.scalings != ("range",)),
            ]
            faults = [Fault((key,), allowed, found, "weight_bits = [8]") for key, found, odd in given if odd]
        elif "learned" in self.scalings and "aware" not in self.modes:
            faults.append(Fault(("scales",), '"range" unless `space.quantization` is "aware"', self.scales, '"range"'))
        return faults


_VARIABLES = (
    "techniques",
    "sparsity",
    "clusters",
    "weight_bits",
    "activation_bits",
    "augmentation",
    "augmentation_strength",
    "class_weighting",
    "class_weight_scale",
)


def _varies(variable: Any) -> bool:
    if isinstance(variable, SparsitySection):
        return variable.varies
    if isinstance(variable, RangeSection):
        return variable.low < variable.high
    return isinstance(variable, list) and len(variable) > 1
