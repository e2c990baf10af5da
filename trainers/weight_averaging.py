"""A moving average of the trained weights, which ships in their place (Izmailov et al. 2018; Pang et al. 2021).

After its t-th update (t from 0) the average is

    average ← d_t·average + (1 − d_t)·weights,    d_t = min(decay, (1 + t) / (10 + t))

so that it spans about the last tenth of what was averaged until that is longer than 1 / (1 − decay) updates; without
this warm-up a decay of 0.9995, which long robust trainings use, would leave a short one near its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..compression.quantizers import activation_quantizers
from ..spaces.plan import Stages, TrialPlan

__all__ = ["WeightAverage", "averaging_start", "decay_at", "observe_ranges_again"]


def averaging_start(plan: TrialPlan, stages: Stages) -> float:
    """The fraction of training from which masks stay, and codebooks and quantizers are at work.

    Args:
        plan: Where it has stages of its own, those that no layer takes part in do not count; else all do, so that the
            dense control averages as long as a compressed model does.
        stages: When each compressor works.
    """
    layers, joint = plan.layers.values(), plan.stages is None
    clusters = joint or any(layer.clustering is not None for layer in layers)
    quantizes = joint or any(layer.quantization is not None and layer.quantization.mode == "aware" for layer in layers)
    return max(stages.prune_end, stages.cluster if clusters else 0.0, stages.quantize if quantizes else 0.0)


def decay_at(update: int, decay: float) -> float:
    """d_t, the share of the average that update t (from 0) keeps.

    Args:
        update: t.
        decay: The largest share, in [0, 1).
    """
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """The moving average of a model's parameters: latent weights, codebooks and learned scales alike.

    Begin it at `averaging_start`: before, these are other networks. Parameters that
    need no gradient by then, such as the scores of learned masks, stay out of it.

    Args:
        decay: The largest share that an update keeps, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._averages: dict[str, Tensor] = {}
        self._averaged: list[nn.Parameter] = []

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the parameters as they are into the average; call it after each optimizer step."""
        if not self._averaged:
            parameters = dict(model.named_parameters())
            if not self.updates:
                self._averages = {name: one.detach().clone() for name, one in parameters.items() if one.requires_grad}
            self._averaged = [parameters[name] for name in self._averages]
        share = 1.0 - decay_at(self.updates, self.decay)
        for parameter, average in zip(self._averaged, self._averages.values(), strict=True):
            average.lerp_(parameter, share)
        self.updates += 1

    def restart(self) -> None:
        """Forget everything, as when earlier weights were put back."""
        self.updates, self._averages, self._averaged = 0, {}, []

    @torch.no_grad()
    def apply(self, model: nn.Module) -> bool:
        """Put the average in the parameters' place; False where there is none. Batch norm is to be measured again.

        Args:
            model: The one that `update` was given, or a copy of it.
        """
        parameters = dict(model.named_parameters())
        for name, average in self._averages.items():
            parameters[name].copy_(average)
        return bool(self._averages)

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint; tensors are those in use, not copies."""
        return {"updates": self.updates, "averages": self._averages}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what `state` gave."""
        self.updates = state["updates"]
        self._averages = {name: tensor.to(device) for name, tensor in state["averages"].items()}


@torch.no_grad()
def observe_ranges_again(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the ranges that activation quantizers observed in training by those of `batches`.

    Args:
        model: In evaluation mode, where it stays.
        batches: Images as in training, (N, 3, H, W); without any the ranges stay.
    """
    quantizers = [one for one in activation_quantizers(model.modules()) if one.observe == "training"]
    if not quantizers:
        return
    for number, images in enumerate(batches):
        for quantizer in quantizers:
            if number == 0:
                quantizer.reset()
            quantizer.observe = "always"
        model(images)
        # between batches the model is one to attack
        for quantizer in quantizers:
            quantizer.observe = "training"
