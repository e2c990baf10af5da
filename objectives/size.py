"""How large a candidate is: its file, exported or packed, against the control's; its multiply-accumulate operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..compression.packing import packed_sizes
from ..spaces.forecast import Forecast
from ..spaces.plan import TrialPlan
from ..studies.errors import InputError, RunError
from .base import Direction, Objective, Score, Subject
from .forecast_facts import PlanFacts
from .forecast_size import sizes
from .macs_count import count_macs

__all__ = ["CompressionRatio", "MACs", "count_macs"]


class CompressionRatio(Objective):
    """Bytes of the control over the candidate's: how many times smaller it ships.

    Zipping is what turns zeros and repeated values into saved bytes, as a download or a flash image would. The packed
    form entropy-codes integer codes and codebook indices, so that bits, clusters and zeros all count in full.

    Args:
        target: Name of the target whose artefact counts; None takes the study's first.
        of: What is compared: the target's ``"zipped"`` files, or the ``"packed"`` candidates (`compression.packing`).

    Raises:
        InputError: `of` is neither.
    """

    name = "compression_ratio"
    direction: ClassVar[Direction] = "maximize"

    def __init__(self, *, target: str | None = None, of: Literal["zipped", "packed"] = "zipped") -> None:
        if of not in ("zipped", "packed"):
            raise InputError(f"`of` must be zipped or packed; found {of!r}.")
        self.target, self.of = target, of

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"target": …, "bytes": …, "zipped_bytes": …, "packed_bytes": …, "shannon_bytes": …}``."""
        target = subject.target(self.target)
        artefact, packed = subject.artefacts[target.name], packed_sizes(subject.candidate)
        return {
            "target": target.name,
            "bytes": artefact.bytes,
            "zipped_bytes": artefact.zipped_bytes,
            "packed_bytes": packed.total_bytes,
            "shannon_bytes": packed.shannon_bytes,
        }

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The ratio asked for; details hold every other.

        ``shannon_ratio`` compares the layers' weights alone, at the entropy bound of their symbols. Where raw numbers
        were stored without packed bytes, what needs them is None.

        Raises:
            RunError: Packed candidates are compared, and the raw numbers do not tell their bytes.
        """
        zipped, plain, packed, shannon = (
            _ratio(raw, control_raw, key) for key in ("zipped_bytes", "bytes", "packed_bytes", "shannon_bytes")
        )
        value = zipped if self.of == "zipped" else packed
        if value is None:
            raise RunError(f"`of` must be zipped for trials stored without {self.of} bytes; found {self.of}.")
        details = {"zipped_ratio": zipped, "unzipped_ratio": plain, "packed_ratio": packed, "shannon_ratio": shannon}
        stored = {key: raw.get(key) for key in ("zipped_bytes", "packed_bytes", "shannon_bytes")}
        return Score(value, None, {**details, **stored})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0

    def forecast(self, plan: TrialPlan, facts: PlanFacts) -> Forecast:
        """An estimate, as training decides which weights there will be; details hold the fixed-length ratio too.

        Trials of the shipped studies were off it by 4 % in the mean where packed, by 7 % where zipped.
        """
        own, dense = sizes(plan, facts), facts.of_dense(sizes)
        zipped, packed, fixed = (
            getattr(dense, kind) / getattr(own, kind) for kind in ("zipped", "packed", "fixed_length")
        )
        details = {
            "zipped_ratio": Forecast(zipped),
            "packed_ratio": Forecast(packed),
            "fixed_length_ratio": Forecast(fixed),
            "zipped_bytes": Forecast(own.zipped),
            "packed_bytes": Forecast(own.packed),
        }
        return Forecast(zipped if self.of == "zipped" else packed, details=details)


def _ratio(raw: Mapping[str, Any], control_raw: Mapping[str, Any], key: str) -> float | None:
    if key not in raw or key not in control_raw:
        return None
    return control_raw[key] / max(raw[key], 1)


class MACs(Objective):
    """Multiply-accumulate operations for one image, in convolutions and linear layers.

    Channels that were removed are gone; zeros and low bits save nothing here, for dense kernels compute them all.
    """

    name = "macs"
    direction: ClassVar[Direction] = "minimize"

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"macs": …}``."""
        return {"macs": count_macs(subject.candidate.model, subject.task.example)}

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The count itself; details hold its share of the control's."""
        return Score(float(raw["macs"]), None, {"fraction_of_control": raw["macs"] / max(control_raw["macs"], 1)})

    def worst(self, control_value: float) -> float:
        """A tenth above the control's."""
        return 1.1 * control_value

    def forecast(self, plan: TrialPlan, facts: PlanFacts) -> Forecast:
        """The count itself, exact unless training decides how many channels go (learned masks, global sparsity)."""
        counts = facts.counts(plan)
        total, dense = (
            float(round(facts.channels.macs_left(each).sum())) + facts.other_macs for each in (counts, facts.dense)
        )
        # what no plan names may still lose inputs
        exact = counts.exact and (not facts.other_macs or total == dense)
        share = Forecast(total / max(dense, 1.0), exact)
        return Forecast(total, exact, {"fraction_of_control": share})
