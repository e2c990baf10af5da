"""How large a candidate is: its exported file against the control's, and its multiply-accumulate operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Direction, Objective, Score, Subject

__all__ = ["CompressionRatio", "MACs", "count_macs"]


class CompressionRatio(Objective):
    """Zipped bytes of the control's artefact over the candidate's: how many times smaller it ships.

    Zipping is what turns zeros and repeated values into saved bytes, as a download or a flash image would.

    Args:
        target: Name of the target whose artefact counts; None takes the study's first.
    """

    name = "compression_ratio"
    direction: ClassVar[Direction] = "maximize"

    def __init__(self, *, target: str | None = None) -> None:
        self.target = target

    def measure(self, subject: Subject) -> dict[str, Any]:
        """``{"target": …, "bytes": …, "zipped_bytes": …}``."""
        target = subject.target(self.target)
        artefact = subject.artefacts[target.name]
        return {"target": target.name, "bytes": artefact.bytes, "zipped_bytes": artefact.zipped_bytes}

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The ratio of zipped files; details hold the plain files'."""
        value = control_raw["zipped_bytes"] / max(raw["zipped_bytes"], 1)
        plain = control_raw["bytes"] / max(raw["bytes"], 1)
        return Score(value, None, {"unzipped_ratio": plain, "zipped_bytes": raw["zipped_bytes"]})

    def worst(self, control_value: float) -> float:
        """0."""
        return 0.0


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
