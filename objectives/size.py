"""How large a candidate is: its file, exported or packed, against the control's; its multiply-accumulate operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..compression.packing import packed_sizes
from ..studies.errors import InputError, RunError
from .base import Direction, Objective, Score, Subject

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
        sizes = {key: raw.get(key) for key in ("zipped_bytes", "packed_bytes", "shannon_bytes")}
        return Score(value, None, {**details, **sizes})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0


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


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass of `example` (1, C, H, W), counted module by module."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            # a transposed convolution spreads every input value over its kernel, a plain one gathers for every output
            values = inputs[0].numel() if module.transposed else output.numel()
            total += values * module.weight[0].numel()

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return total
