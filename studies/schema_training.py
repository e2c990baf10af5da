"""`[training]` of a study file: the budget and recipe with which every trial is trained."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .epsilon import Epsilon
from .faults import Fault, broken, contradiction
from .schema_base import PartName, PositiveInt, Section

__all__ = [
    "ATTACK_OPTIONS",
    "DEFAULT_EPSILON",
    "DEFAULT_METHOD",
    "MaskSection",
    "OptimizerSection",
    "TrainingSection",
]

DEFAULT_METHOD = "n-fgsm"
DEFAULT_EPSILON = 8 / 255
DEFAULT_END = 0.6
ATTACK_OPTIONS = {"attack_steps": "steps", "attack_step_size": "step_size", "trades_beta": "beta"}
"""Keys of `[training]` that a training attack may take, and the options that they are to it."""

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
        attack_step_size: Length of one step of the training attack in units of ε; None for its own default.
        trades_beta: β of TRADES, how much robustness weighs against accuracy; None for its own default, 6.
        epochs: Budget in passes over the training images; this or `steps`.
        steps: Budget in optimizer steps; this or `epochs`.
        threads: CPU threads of one trial, None for `OMP_NUM_THREADS` or as many as fit beside the other workers.
        augmentation: Name of what augments, of the control and of every trial that does not search it.
        augmentation_strength: Likewise; 1 in the naturalistic regime and wherever `augmentation` or `consistency` is
            given, else 0.
        consistency: Weight of the Jensen-Shannon divergence between the predictions for an image and for two augmented
            versions of it (AugMix: 12); 0 trains on augmented images instead.
        class_weight_scale: λ, the power that class weights are raised to.
        compression_start: Share of the training after which sparsity begins to rise.
        compression_end: Share of the training after which every compression is at its final strength.
        gradient_clip: Largest norm of the gradient, None for any.
        weight_averaging: Largest share that one step keeps of the moving average of the weights, which ships in their
            place; 0 ships the last weights. It begins where compression has its final strength.
        overfitting_guard: Restore and slow down when single-step adversarial training overfits catastrophically.
    """

    regime: Literal["standard", "naturalistic", "adversarial"] = "standard"
    method: PartName | None = None
    epsilon: Epsilon | None = None
    attack_steps: PositiveInt | None = None
    attack_step_size: Positive | None = None
    trades_beta: NonNegative | None = None
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
    augmentation: PartName = "naturalistic"
    augmentation_strength: NonNegative = 0.0
    consistency: NonNegative = 0.0
    class_weighting: PartName = "none"
    class_weight_scale: NonNegative = 1.0
    compression_start: Share = 0.0
    compression_end: Share = DEFAULT_END
    gradient_clip: Positive | None = None
    weight_averaging: ShareBelowOne = 0.0
    overfitting_guard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_regime(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        table = {key: item for key, item in value.items() if item is not None}
        if table.get("regime") == "adversarial":
            table = {"method": DEFAULT_METHOD, "epsilon": DEFAULT_EPSILON, **table}
        if table.get("regime") == "naturalistic" or "augmentation" in table or table.get("consistency"):
            table = {"augmentation_strength": 1.0, **table}
        return table

    @model_validator(mode="after")
    def _no_contradiction(self) -> TrainingSection:
        faults = []
        if self.regime != "adversarial":
            for key in ("method", "epsilon", *ATTACK_OPTIONS):
                found = getattr(self, key)
                if found is not None:
                    allowed = f'left out unless training.regime is "adversarial" (it is "{self.regime}")'
                    faults.append(Fault((key,), allowed, found, 'regime = "adversarial"'))
        elif self.consistency:
            allowed = 'left out when training.regime is "adversarial", whose images are attacked'
            faults.append(Fault(("consistency",), allowed, self.consistency))
        if self.epochs is None and self.steps is None:
            faults.append(Fault(("epochs",), "given (or `training.steps`: the budget of one trial)"))
        if self.epochs is not None and self.steps is not None:
            allowed = f"left out when `training.epochs` is given ({self.epochs})"
            faults.append(Fault(("steps",), allowed, self.steps, "one of the two"))
        if self.compression_start > self.compression_end:
            allowed = f"at most `training.compression_end` ({self.compression_end:g})"
            suggestion = f"{self.compression_end:g}"
            faults.append(Fault(("compression_start",), allowed, self.compression_start, suggestion))
        if self.weight_averaging and self.compression_end == 1.0:
            allowed = f"below 1 with `training.weight_averaging` ({self.weight_averaging:g}), which begins there"
            way_out = f"{max(DEFAULT_END, self.compression_start):g}" if self.compression_start < 1.0 else None
            faults.append(Fault(("compression_end",), allowed, self.compression_end, way_out))
        if faults:
            raise contradiction(faults)
        return self
