"""A candidate layer by layer: what is kept of each, in how many values and bits, what it takes in bytes and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import pandas as pd
import torch

from ..compression.candidate import Candidate
from ..compression.packing import PackedSizes
from ..spaces.layers import LayerInfo

__all__ = ["Exported", "candidate_frame", "render_candidate"]

LABELS = {
    "kept_weights": "kept",
    "kept_share": "of weights",
    "clusters": "values",
    "weight_bits": "w bits",
    "activation_bits": "a bits",
    "packed_bytes": "bytes",
    "zipped_bytes": "zipped",
    "shannon_bytes": "Shannon",
    "macs_share": "MACs",
    "latency_share": "latency",
}
"""What the printed table calls a column, where that is not its name."""


@dataclass(frozen=True)
class Exported:
    """What a candidate is in a runtime.

    Args:
        zipped_bytes: Of its file; None where it cannot be exported.
        zipped_layers: What of them is each layer's; None where it cannot be exported.
        seconds: Of each layer, and of what belongs to none under ``""``; None where none could be measured.
        measured_on: Where.
        fault: Why there are no seconds, in one line; None where there are.
    """

    zipped_bytes: int | None = None
    zipped_layers: Mapping[str, int] | None = None
    seconds: Mapping[str, float] | None = None
    measured_on: str | None = None
    fault: str | None = None


def candidate_frame(
    candidate: Candidate, layers: Sequence[LayerInfo], sizes: PackedSizes, exported: Exported | None = None
) -> pd.DataFrame:
    """One row a layer, in forward order.

    Args:
        candidate: On the CPU.
        layers: What `inspect_layers` found in the full model.
        sizes: What the candidate takes packed.
        exported: The same one in a runtime, None where it was not tried.

    Returns:
        Columns ``layer``, ``kind``, ``weights`` (of the full layer), ``kept_weights`` (of those, neither removed nor
        zero) and ``kept_share``, ``channels`` and ``channels_before`` (outputs), ``clusters`` (distinct weights),
        ``weight_bits``, ``activation_bits``, ``form``, ``packed_bytes``, ``shannon_bytes``, ``macs`` and
        ``macs_share``; from `exported`, where it has them, ``zipped_bytes``, ``latency_ms`` and ``latency_share`` (of
        the sum of all seconds).
    """
    rows = []
    for layer in layers:
        weight = candidate.model.get_parameter(f"{layer.name}.weight").detach()
        codes, size = candidate.codes.get(layer.name), sizes.layers[layer.name]
        kept, before = int(torch.count_nonzero(weight)), prod(layer.weight_shape)
        rows.append(
            {
                "layer": layer.name.removeprefix("network."),
                "kind": layer.kind,
                "weights": before,
                "kept_weights": kept,
                "kept_share": kept / before,
                "channels": weight.shape[0],
                "channels_before": layer.weight_shape[0],
                "clusters": int(torch.unique(weight).numel()),
                "weight_bits": codes.bits if codes is not None else 32,
                "activation_bits": candidate.plan.layer(layer.name).activation_bits,
                "form": size.form,
                "packed_bytes": size.packed_bytes,
                "shannon_bytes": size.shannon_bytes,
                # each weight serves every output position once, and removal leaves positions as they are
                "macs": layer.macs * weight.numel() // before,
            }
        )
    frame = pd.DataFrame(rows)
    frame["macs_share"] = frame["macs"] / frame["macs"].sum()
    if exported is not None and exported.zipped_layers is not None:
        frame["zipped_bytes"] = [exported.zipped_layers.get(layer.name, 0) for layer in layers]
    seconds = exported.seconds if exported is not None else None
    if seconds:
        times = pd.Series([seconds.get(layer.name, float("nan")) for layer in layers])
        frame["latency_ms"] = times * 1e3
        frame["latency_share"] = times / sum(seconds.values())
    return frame


def render_candidate(
    frame: pd.DataFrame, candidate: Candidate, sizes: PackedSizes, title: str, exported: Exported
) -> str:
    """The frame as text, with totals below it.

    Args:
        frame: What `candidate_frame` gave.
        candidate: The same one.
        sizes: What it takes packed.
        title: What it is, for the first line.
        exported: The same one in a runtime.
    """
    shown = pd.DataFrame(
        {
            "layer": frame["layer"],
            "kind": frame["kind"],
            "kept_weights": frame["kept_weights"].map("{:,}".format),
            "kept_share": frame["kept_share"].map("{:.1%}".format),
            "channels": [f"{kept}/{of}" for kept, of in zip(frame["channels"], frame["channels_before"], strict=True)],
            **{name: frame[name] for name in ("clusters", "weight_bits", "activation_bits")},
            **{
                name: frame[name].map("{:,.0f}".format)
                for name in ("packed_bytes", "shannon_bytes", "zipped_bytes")
                if name in frame
            },
            "macs_share": frame["macs_share"].map("{:.1%}".format),
        }
    )
    if "latency_share" in frame:
        shown["latency_share"] = [_share(value) for value in frame["latency_share"]]
    parameters = sum(parameter.numel() for parameter in candidate.model.parameters())
    kept, before = frame["kept_weights"].sum(), frame["weights"].sum()
    lines = [
        title,
        shown.rename(columns=LABELS).to_string(index=False),
        f"{len(frame)} layers keep {kept:,} of {before:,} weights ({kept / before:.1%}); "
        f"{parameters:,} parameters, {frame['macs'].sum() / 1e6:.2f} M MACs",
        f"bytes: {sizes.total_bytes:,} packed, {sizes.metadata_bytes:,} of them beside the layers' weights; "
        f"{_bytes(exported.zipped_bytes)} as a zipped ONNX file; {sizes.shannon_bytes:,.0f} at the weights' entropy",
    ]
    if "latency_share" in frame:
        between = max(1.0 - frame["latency_share"].sum(), 0.0)
        lines.append(
            f"latency: shares of one inference ({between:.1%} between layers), profiled now, {exported.measured_on}; a"
            " trial's own latency, without a profiler, is in `forgefront front`"
        )
    if exported.fault:
        lines.append(exported.fault)
    return "\n".join(lines)


def _bytes(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"


def _share(value: Any) -> str:
    return "–" if pd.isna(value) else f"{value:.1%}"
