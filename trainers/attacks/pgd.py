"""FGSM (Goodfellow et al. 2015) and projected gradient descent (Madry et al. 2018) that measure robustness.

Restarts count as "any succeeds", and so does every iterate on the way. Published settings (Wong et al. 2020): steps of
2/255 at ε = 8/255, 50 of them, 10 restarts.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...studies.epsilon import Epsilon
from .backward_pass import backward_pass_approximation
from .base import AttackResult, LossFunction, Victim, input_gradient
from .progress import Progress, attack_loss, evaluation_mode
from .threat import Norm, Threat

__all__ = ["FGSM", "PGD", "Schedule", "default_step_size", "step_share"]

Schedule = Literal["constant", "linear", "cosine"]


class PGD:
    """Steps along the gradient of a loss from random starts, each projected back into the ball.

    An image that is broken takes no further steps; this changes no other image's outcome. Restart r starts from the
    same noise whatever `restarts` and `loss` are, so the result can only fall as restarts or losses are added.

    Args:
        epsilon: Radius on images in [0, 1].
        steps: Gradient steps of a restart, at least 1.
        restarts: Random starts, at least 1.
        step_size: Length of a step; None takes `default_step_size`: ε/4 from 10 steps on.
        norm: ``"linf"`` or ``"l2"``.
        loss: Which of the task's attack losses is raised; of several, each gets all restarts. Examples are compared
            by the first.
        schedule: How steps shorten within a restart; see `step_share`.
        stop_when_broken: False goes on with broken images too, for examples of high loss that are to break other
            models; which images are robust is the same.
        bpda: Let gradients pass through roundings and clipped activations (see `backward_pass`).
    """

    from_noise = True

    def __init__(
        self,
        *,
        epsilon: Epsilon,
        steps: Annotated[int, Field(ge=1)] = 50,
        restarts: Annotated[int, Field(ge=1)] = 10,
        step_size: Epsilon | None = None,
        norm: Norm = "linf",
        loss: str | Annotated[tuple[str, ...], Field(min_length=1)] = "cross-entropy",
        schedule: Schedule = "constant",
        stop_when_broken: bool = True,
        bpda: bool = False,
    ) -> None:
        self.epsilon = epsilon
        self.steps = steps
        self.restarts = restarts
        self.step_size = default_step_size(epsilon, steps) if step_size is None else step_size
        self.norm = norm
        self.losses = (loss,) if isinstance(loss, str) else tuple(loss)
        self.schedule = schedule
        self.stop_when_broken = stop_when_broken
        self.bpda = bpda
        self._threat = Threat(norm, epsilon)

    def __call__(
        self,
        victim: Victim,
        images: Tensor,
        targets: Any,
        generator: torch.Generator,
        *,
        gradients_from: nn.Module | None = None,
    ) -> AttackResult:
        """Attack a batch; see `EvaluationAttack`.

        Args:
            victim: The model. Images that it gets wrong when clean are not attacked, unless `stop_when_broken` is
                False.
            images: float32 in [0, 1], (N, 3, H, W).
            targets: One for each image.
            generator: On the device of `images`.
            gradients_from: Another model for the same inputs whose gradients are followed, while every iterate is
                tried on the victim: a transfer attack that is never weaker than one that tries the last iterate only.

        Returns:
            The result; zero gradients are counted at the first start, among the images that are attacked there.

        Raises:
            InputError: The task has no such loss.
        """
        losses = [attack_loss(victim, name) for name in self.losses]
        source = victim.model if gradients_from is None else gradients_from
        progress = Progress(victim, images, targets, self.losses[0])
        zero_gradients: int | None = None
        approximation = backward_pass_approximation(source) if self.bpda else nullcontext()
        with evaluation_mode(victim.model), evaluation_mode(source), approximation:
            progress.begin()
            for _ in range(self.restarts):
                # drawn for the whole batch, so that an image's start does not depend on what else stands
                start = self._threat.random_start(progress.images, generator) if self.from_noise else progress.images
                for loss in losses:
                    without = self._climb(progress, source, loss, start)
                    zero_gradients = without if zero_gradients is None else zero_gradients
        return progress.result(zero_gradients)

    def _climb(self, progress: Progress, source: nn.Module, loss: LossFunction, start: Tensor) -> int:
        """One restart with one loss; how many of the images that it attacks have no gradient at the start."""
        attacked = progress.robust if self.stop_when_broken else torch.ones_like(progress.robust)
        active = attacked.nonzero().flatten()
        point, images, without = start[active], progress.images[active], 0
        for step in range(self.steps):
            if not len(active):
                return without
            gradient, outputs = input_gradient(source, point, progress.targets[active], loss)
            if step == 0:
                without = int((gradient == 0.0).flatten(1).all(dim=1).sum())
            if source is not progress.victim.model:
                outputs = _outputs(progress.victim.model, point)
            standing, _ = progress.judge(active, point, outputs)
            if self.stop_when_broken and not standing.all():
                active, point, images, gradient = (part[standing] for part in (active, point, images, gradient))
            size = self.step_size * step_share(self.schedule, step, self.steps)
            point = self._threat.project(point + self._threat.step(gradient, size), images)
        if len(active):
            progress.judge(active, point, _outputs(progress.victim.model, point))
        return without


class FGSM(PGD):
    """The fast gradient sign method: one step of length ε from the image itself (Goodfellow et al. 2015, 1412.6572).

    Args:
        epsilon: Radius on images in [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        loss: Which of the task's attack losses is raised.
        bpda: Let gradients pass through roundings and clipped activations.
    """

    from_noise = False

    def __init__(
        self, *, epsilon: Epsilon, norm: Norm = "linf", loss: str = "cross-entropy", bpda: bool = False
    ) -> None:
        super().__init__(epsilon=epsilon, steps=1, restarts=1, step_size=epsilon, norm=norm, loss=loss, bpda=bpda)


def default_step_size(epsilon: float, steps: int) -> float:
    """ε/4, and for fewer than 10 steps 2.5 ε / steps, so that the ball can be crossed."""
    return max(epsilon / 4, 2.5 * epsilon / steps)


def step_share(schedule: Schedule, step: int, steps: int) -> float:
    """Length of step `step` (from 0) of `steps`, as a share of the first one's.

    Constant 1; linear 1 − t/T, down to 1/T; or cosine ½(1 + cos(π t/T)).
    """
    if schedule == "constant":
        return 1.0
    return 1.0 - step / steps if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Any:
    return model(images)
