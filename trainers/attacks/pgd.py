"""Projected gradient descent in L∞ (Madry et al. 2018): PGD-AT for training, `pgd` with restarts for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .base import LossFunction, input_gradient, uniform_noise

__all__ = ["PGDAT", "pgd", "pgd_examples"]


def _project(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    return (images + (adversarial - images).clamp_(-epsilon, epsilon)).clamp_(0.0, 1.0)


class PGDAT:
    """PGD adversarial training: `steps` steps from a random start (Madry et al. 2018, arXiv 1706.06083).

    Args:
        epsilon: L∞ radius on images in [0, 1].
        steps: Gradient steps a batch, at least 1.
        step_size: Length of a step on images in [0, 1]; None means 2.5 ε / steps, so that the ball can be crossed
            (2/255 with ε = 8/255 and the published 10 steps).
    """

    def __init__(self, *, epsilon: float, steps: int = 10, step_size: float | None = None) -> None:
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = 2.5 * epsilon / steps if step_size is None else step_size

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction, generator: torch.Generator
    ) -> Tensor:
        """Adversarial images, float32 in [0, 1], within ε of `images`."""
        adversarial = (images + uniform_noise(images, self.epsilon, generator)).clamp_(0.0, 1.0)
        for _ in range(self.steps):
            gradient, _ = input_gradient(model, adversarial, targets, loss)
            adversarial = _project(adversarial + self.step_size * gradient.sign(), images, self.epsilon)
        return adversarial


def pgd(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    loss: LossFunction,
    correct: Callable[[Tensor, Tensor], Tensor],
    epsilon: float,
    step_size: float,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Which images withstand PGD: correct when clean and at every iterate of every restart.

    The model runs in evaluation mode and is left in the mode it came in. An image that is broken takes no further
    steps; this changes no other image's outcome, and restart r draws the same noise whatever `restarts` is, so the
    result can only fall as restarts are added.

    Args:
        model: Takes (N, 3, H, W) images in [0, 1].
        images: float32 in [0, 1], (N, 3, H, W).
        targets: One for each image, indexable by a bool mask.
        loss: (outputs, targets) -> loss of each image, (N,), which the attack raises.
        correct: (outputs, targets) -> bool, (N,).
        epsilon: L∞ radius.
        step_size: Length of a step.
        steps: Gradient steps a restart.
        restarts: Random starts, at least 1.
        generator: On the device of `images`.

    Returns:
        bool, (N,).
    """
    attack = _Attack(model, images, targets, loss, correct, epsilon, step_size, track_loss=False)
    attack.run(steps, restarts, generator)
    return attack.robust


def pgd_examples(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    loss: LossFunction,
    correct: Callable[[Tensor, Tensor], Tensor],
    epsilon: float,
    step_size: float,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """The adversarial images that PGD finds, for transfer to another model.

    Unlike `pgd`, every image takes all steps of all restarts, since an example that just breaks `model` need not
    transfer. Each image's example is its iterate of highest loss, one that `model` gets wrong before any that it
    gets right. Arguments as in `pgd`.

    Returns:
        float32 in [0, 1], within ε of `images`.
    """
    attack = _Attack(model, images, targets, loss, correct, epsilon, step_size, track_loss=True)
    attack.run(steps, restarts, generator)
    return attack.examples


class _Attack:
    """The state that the restarts of one attack share."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        loss: LossFunction,
        correct: Callable[[Tensor, Tensor], Tensor],
        epsilon: float,
        step_size: float,
        *,
        track_loss: bool,
    ) -> None:
        self.model, self.images, self.targets = model, images.detach().float(), targets
        self.loss, self.correct = loss, correct
        self.epsilon, self.step_size = epsilon, step_size
        self.track_loss = track_loss
        self.robust = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.examples = self.images.clone()
        self.best = torch.full((len(images),), -torch.inf, device=images.device)
        self.best_breaks = torch.zeros_like(self.robust)

    def run(self, steps: int, restarts: int, generator: torch.Generator) -> None:
        with _evaluation_mode(self.model):
            everything = torch.arange(len(self.images), device=self.images.device)
            with torch.no_grad():
                self._judge(everything, self.images, self.model(self.images))
            for _ in range(restarts):
                noise = uniform_noise(self.images, self.epsilon, generator)
                active = everything if self.track_loss else self.robust.nonzero().flatten()
                adversarial = (self.images[active] + noise[active]).clamp_(0.0, 1.0)
                self._restart(active, adversarial, steps)

    def _restart(self, active: Tensor, adversarial: Tensor, steps: int) -> None:
        for _ in range(steps):
            if not len(active):
                return
            gradient, outputs = input_gradient(self.model, adversarial, self.targets[active], self.loss)
            keep = self._judge(active, adversarial, outputs)
            if not keep.all():
                active, adversarial, gradient = active[keep], adversarial[keep], gradient[keep]
            moved = adversarial + self.step_size * gradient.sign()
            adversarial = _project(moved, self.images[active], self.epsilon)
        if len(active):
            with torch.no_grad():
                self._judge(active, adversarial, self.model(adversarial))

    def _judge(self, active: Tensor, adversarial: Tensor, outputs: Tensor) -> Tensor:
        """Record which of the active images these iterates break; which of them go on, bool."""
        targets = self.targets[active]
        standing = self.correct(outputs, targets)
        self.robust[active] &= standing
        if not self.track_loss:
            return standing
        value = torch.nan_to_num(self.loss(outputs, targets).detach().float(), nan=-torch.inf)
        breaks, held = ~standing, self.best_breaks[active]
        better = (breaks & ~held) | ((breaks == held) & (value > self.best[active]))
        chosen = active[better]
        self.examples[chosen] = adversarial[better]
        self.best[chosen], self.best_breaks[chosen] = value[better], breaks[better]
        return torch.ones_like(standing)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
