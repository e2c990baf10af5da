"""`[training]` of a study file: the budget and recipe with which every trial is trained."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .epsilon import Epsilon
from .faults import Fault, broken, contradiction
from .schema_base import PartName, PositiveInt, Section

__all__ = ["DEFAULT_EPSILON", "DEFAULT_METHOD", "MaskSection", "OptimizerSection", "TrainingSection"]

DEFAULT_METHOD = "n-fgsm"
DEFAULT_EPSILON = 8 / 255

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class OptimizerSection(Section):
    """The optimizer; `momentum` is that of SGD, or β₁ of Adam and AdamW."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: ShareBelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "one-cycle", "constant"] = "one-cycle"


class MaskSection(Section):
    """How learned masks are trained, beside the weights.

    Args:
        learning_rate: Of the scores; it suits networks of any size, as gradients are scaled by the number of scores.
        curvature: Weigh masks by what switching them would cost, to second order; false takes the plain gradient, as
            published.
        weight_decay: Pulls scores to the threshold (Vemparala et al.).
    """

    learning_rate: Positive = 0.01
    curvature: bool = True
    weight_decay: NonNegative = 5e-4


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        number = re.fullmatch(r"(?:gpu|cuda)\D*(\d*)", name.lower())
        raise broken("auto, cpu, cuda or cuda:N", None if not number else f"cuda:{number[1]}" if number[1] else "cuda")
    return name


class TrainingSection(Section):
    """How each trial is trained; a trial's plan may vary augmentation and class weighting around it.

    Args:
        method: Adversarial training method; None outside the adversarial regime.
        epsilon: L∞ radius of the training attack; None outside the adversarial regime.
        attack_steps: Steps of a training attack that takes several; None for its own default.
        epochs: Budget in passes over the training images; this or `steps`.
        steps: Budget in optimizer steps; this or `epochs`.
        threads: CPU threads of one trial, None for as many as fit beside the other workers.
        augmentation_strength: Of the control and of every trial that does not search it; 1 in the naturalistic regime,
            else 0.
        class_weight_scale: λ, the power that class weights are raised to.
        compression_start: Share of the training after which sparsity begins to rise.
        compression_end: Share of the training after which every compression is at its final strength.
        gradient_clip: Largest norm of the gradient, None for any.
        overfitting_guard: Restore and slow down when single-step adversarial training overfits catastrophically.
    """

    regime: Literal["standard", "naturalistic", "adversarial"] = "standard"
    method: PartName | None = None
    epsilon: Epsilon | None = None
    attack_steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 128
    optimizer: OptimizerSection = OptimizerSection()
    masks: MaskSection = MaskSection()
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: PositiveInt | None = None
    crop_padding: Annotated[int, Field(ge=0)] = 0
    horizontal_flip: bool = False
    label_smoothing: ShareBelowOne = 0.0
    augmentation_strength: NonNegative = 0.0
    class_weighting: PartName = "none"
    class_weight_scale: NonNegative = 1.0
    compression_start: Share = 0.0
    compression_end: Share = 0.6
    gradient_clip: Positive | None = None
    overfitting_guard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_regime(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        table = {key: item for key, item in value.items() if item is not None}
        if table.get("regime") == "adversarial":
            table = {"method": DEFAULT_METHOD, "epsilon": DEFAULT_EPSILON, **table}
        if table.get("regime") == "naturalistic":
            table = {"augmentation_strength": 1.0, **table}
        return table

    @model_validator(mode="after")
    def _no_contradiction(self) -> TrainingSection:
        faults = []
        if self.regime != "adversarial":
            for key in ("method", "epsilon", "attack_steps"):
                found = getattr(self, key)
                if found is not None:
                    allowed = f'left out unless training.regime is "adversarial" (it is "{self.regime}")'
                    faults.append(Fault((key,), allowed, found, 'regime = "adversarial"'))
        if self.epochs is None and self.steps is None:
            faults.append(Fault(("epochs",), "given (or `training.steps`: the budget of one trial)"))
        if self.epochs is not None and self.steps is not None:
            allowed = f"left out when `training.epochs` is given ({self.epochs})"
            faults.append(Fault(("steps",), allowed, self.steps, "one of the two"))
        if self.compression_start > self.compression_end:
            allowed = f"at most `training.compression_end` ({self.compression_end:g})"
            suggestion = f"{self.compression_end:g}"
            faults.append(Fault(("compression_start",), allowed, self.compression_start, suggestion))
        if faults:
            raise contradiction(faults)
        return self
