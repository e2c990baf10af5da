"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690, algorithm 1): PGD that chooses its own step size and uses momentum."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ...studies.epsilon import Epsilon
from .base import AttackResult, LossFunction, Victim, input_gradient
from .progress import Progress, attack_loss, evaluation_mode
from .threat import Norm, Threat

__all__ = ["APGD", "checkpoints"]

MOMENTUM = 0.75
"""α of equation 1: the share of the new step, beside the direction of the one before."""
RISING = 0.75
"""ρ of condition 1: with a smaller share of steps that raise the loss, the step size is halved."""


class APGD:
    """Auto-PGD: a step of 2ε, halved at checkpoints where the loss no longer rises, then on from the best point.

    A broken image takes no further steps, which changes no other image's outcome; restarts count as "any succeeds",
    and restart r starts from the same noise whatever `restarts` and `loss` are.

    Args:
        epsilon: Radius on images in [0, 1].
        steps: Steps of a restart, at least 1; each costs one forward and one backward pass.
        restarts: Random starts, at least 1.
        norm: ``"linf"`` or ``"l2"``.
        loss: Which of the task's attack losses is raised; of several, each gets all restarts. Examples are compared
            by the first.
    """

    def __init__(
        self,
        *,
        epsilon: Epsilon,
        steps: Annotated[int, Field(ge=1)] = 50,
        restarts: Annotated[int, Field(ge=1)] = 1,
        norm: Norm = "linf",
        loss: str | Annotated[tuple[str, ...], Field(min_length=1)] = "cross-entropy",
    ) -> None:
        self.epsilon = epsilon
        self.steps = steps
        self.restarts = restarts
        self.norm = norm
        self.losses = (loss,) if isinstance(loss, str) else tuple(loss)
        self._threat = Threat(norm, epsilon)

    def __call__(self, victim: Victim, images: Tensor, targets: Any, generator: torch.Generator) -> AttackResult:
        """Attack a batch; see `EvaluationAttack`.

        Raises:
            InputError: The task has no such loss.
        """
        losses = [attack_loss(victim, name) for name in self.losses]
        progress = Progress(victim, images, targets, self.losses[0])
        zero_gradients: int | None = None
        with evaluation_mode(victim.model):
            progress.begin()
            for _ in range(self.restarts):
                # drawn for the whole batch, so that an image's start does not depend on what else stands
                start = self._threat.random_start(progress.images, generator)
                for loss in losses:
                    without = self._climb(progress, loss, start)
                    zero_gradients = without if zero_gradients is None else zero_gradients
        return progress.result(zero_gradients)

    def _climb(self, progress: Progress, loss: LossFunction, start: Tensor) -> int:
        """One restart with one loss; how many of the images that still stand have no gradient at the start."""
        active = progress.robust.nonzero().flatten()
        point = start[active]
        gradient, standing, value = _look(progress, loss, active, point)
        without = int((gradient == 0.0).flatten(1).all(dim=1).sum())
        state = _State.at(active, progress.images[active], point, gradient, value, self.epsilon).of(standing)
        marks, last = checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            if not len(state.active):
                break
            moved = self._step(state, first=step == 1)
            state.before, state.point = state.point, moved
            state.gradient, standing, value = _look(progress, loss, state.active, moved)
            state.note(value)
            if not standing.all():
                state = state.of(standing)
            if step in marks:
                state.review(step - last)
                last = step
        return without

    def _step(self, state: _State, *, first: bool) -> Tensor:
        """Equation 1: a projected step z, then the point that momentum makes of it."""
        ahead = self._threat.project(state.point + self._threat.step(state.gradient, state.step_size), state.images)
        if first:
            return ahead
        momentum = MOMENTUM * (ahead - state.point) + (1.0 - MOMENTUM) * (state.point - state.before)
        return self._threat.project(state.point + momentum, state.images)


def checkpoints(steps: int) -> tuple[int, ...]:
    """Steps at which the step size is reviewed: ⌈p N⌉ with p = 0.22, 0.41, 0.57 … (section 3.3).

    The distance between them falls by 0.03 each time, to 0.06 at least.
    """
    # in hundredths, for 0.22 + 0.19 is not 0.41
    shares, distance = [22], 22
    while shares[-1] < 100:
        distance = max(distance - 3, 6)
        shares.append(shares[-1] + distance)
    return tuple(dict.fromkeys(-(-share * steps // 100) for share in shares if share <= 100))


def _look(progress: Progress, loss: LossFunction, active: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At one point: the gradient, which images stand, and the loss, float32, -inf where it is not a number."""
    targets = progress.targets[active]
    gradient, outputs = input_gradient(progress.victim.model, point, targets, loss)
    standing, value = progress.judge(active, point, outputs)
    if loss is not progress.loss:
        value = torch.nan_to_num(loss(outputs, targets).float(), nan=-torch.inf)
    return gradient, standing, value


@dataclass
class _State:
    """What the images that still stand carry from step to step, one row each.

    Args:
        active: int64 indices in the batch.
        images: What they are without perturbation.
        point: Where they are; `before`, where they were a step ago; `best`, where the loss was highest.
        gradient: At `point`; `best_gradient`, at `best`.
        loss: At `point`; `highest`, at `best`; `highest_before`, `highest` as of the last checkpoint.
        rises: Steps since the last checkpoint that raised the loss.
        step_size: (N, 1, 1, 1).
        halved: Whether it was halved at the last checkpoint.
    """

    active: Tensor
    images: Tensor
    point: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    loss: Tensor
    highest: Tensor
    highest_before: Tensor
    rises: Tensor
    step_size: Tensor
    halved: Tensor

    @staticmethod
    def at(active: Tensor, images: Tensor, point: Tensor, gradient: Tensor, loss: Tensor, epsilon: float) -> _State:
        """The state at the start."""
        return _State(
            active=active,
            images=images,
            point=point,
            before=point,
            gradient=gradient,
            best=point,
            best_gradient=gradient,
            loss=loss,
            highest=loss,
            highest_before=loss,
            rises=torch.zeros_like(active),
            step_size=torch.full((len(active), 1, 1, 1), 2.0 * epsilon, device=images.device),
            # as if it had been, so that the first checkpoint looks at condition 1 alone
            halved=torch.ones_like(active, dtype=torch.bool),
        )

    def of(self, chosen: Tensor) -> _State:
        """The rows that `chosen`, bool, names."""
        return _State(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def note(self, loss: Tensor) -> None:
        """Take the loss at `point`, where `gradient` is taken too."""
        self.rises = self.rises + (loss > self.loss)
        self.loss = loss
        better = loss > self.highest
        self.highest = torch.where(better, loss, self.highest)
        wide = better[:, None, None, None]
        self.best = torch.where(wide, self.point, self.best)
        self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)

    def review(self, steps: int) -> None:
        """Algorithm 1, lines 13-17: halve the step size where a condition holds, and go on from the best point there.

        Args:
            steps: Since the last checkpoint.
        """
        condition_1 = self.rises < RISING * steps
        condition_2 = ~self.halved & (self.highest == self.highest_before)
        halve = condition_1 | condition_2
        wide = halve[:, None, None, None]
        self.step_size = torch.where(wide, self.step_size / 2.0, self.step_size)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.loss = torch.where(halve, self.highest, self.loss)
        self.halved, self.highest_before = halve, self.highest
        self.rises = torch.zeros_like(self.rises)
