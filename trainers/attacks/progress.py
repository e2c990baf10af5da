"""What an evaluation attack has found so far: which images stand, and the worst version of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...studies.errors import InputError
from ...studies.faults import nearest
from .base import AttackResult, LossFunction, Victim

__all__ = ["Progress", "attack_loss", "evaluation_mode"]


class Progress:
    """The record that the iterates of one attack on a batch share.

    Args:
        victim: The model.
        images: float32 in [0, 1], (N, 3, H, W).
        targets: One for each image.
        loss: Name of the loss by which examples are compared.

    Raises:
        InputError: The task has no such loss.
    """

    def __init__(self, victim: Victim, images: Tensor, targets: Any, loss: str) -> None:
        self.victim, self.images, self.targets = victim, images.detach().float(), targets
        self.loss = attack_loss(victim, loss)
        self.robust = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.examples = self.images.clone()
        self.best = torch.full((len(images),), -torch.inf, device=images.device)

    @torch.no_grad()
    def begin(self) -> Tensor:
        """Judge the plain images; int64 indices of those that the model gets right."""
        everything = torch.arange(len(self.images), device=self.images.device)
        standing, _ = self.judge(everything, self.images, self.victim.model(self.images))
        return everything[standing]

    @torch.no_grad()
    def judge(self, active: Tensor, adversarial: Tensor, outputs: Any) -> tuple[Tensor, Tensor]:
        """Record the outputs for versions of the images `active` (int64 indices).

        What breaks an image is kept, unless a version of higher loss breaks it too.

        Returns:
            Which of them stand, bool; and their loss, float32, -inf where it is not a number.
        """
        targets = self.targets[active]
        standing = self.victim.correct(outputs, targets)
        value = torch.nan_to_num(self.loss(outputs, targets).float(), nan=-torch.inf)
        unbroken, higher = self.robust[active], value > self.best[active]
        better = torch.where(standing, unbroken & higher, unbroken | higher)
        chosen = active[better]
        self.robust[active] &= standing
        self.examples[chosen] = adversarial[better]
        self.best[chosen] = value[better]
        return standing, value

    def result(self, zero_gradients: int | None = None) -> AttackResult:
        """What was found."""
        return AttackResult(self.robust, self.examples, zero_gradients)


def attack_loss(victim: Victim, name: str) -> LossFunction:
    """The victim's loss called `name`.

    Raises:
        InputError: Its task has no such loss.
    """
    if name not in victim.losses:
        close = nearest(name, victim.losses)
        hint = f' Did you mean "{close}"?' if close else ""
        raise InputError(f'`loss` must be one that the task has ({", ".join(victim.losses)}); found "{name}".{hint}')
    return victim.losses[name]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a block with the model in evaluation mode, then put every module's mode back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
