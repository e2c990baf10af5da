"""Trains learned masks beside the weights, with two optimizers (Vemparala et al., "…Using In-train Pruning").

The first minimises the task's loss and moves weights and scores; the second minimises the task's loss + b·L_hw and
moves the scores alone. Both take the task's gradient of one backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ..compression.learned_masks import LearnedMasks
    from ..studies.schema_training import MaskSection

__all__ = ["MaskTraining", "without_scores"]


class MaskTraining:
    """The scores' part of both optimizers.

    Args:
        masks: Learned masks of the model in training.
        section: Learning rate and decay.
    """

    def __init__(self, masks: LearnedMasks, section: MaskSection) -> None:
        self.masks = masks
        scores = masks.parameters()
        # ψ is a share, so a score's part of its gradient falls with their number; this makes one learning rate suit all
        count = sum(one.numel() for one in scores)
        self._scales = [rate * count for rate in masks.rates()]
        rate, decay = section.learning_rate, section.weight_decay
        self._task = torch.optim.SGD(scores, lr=rate, weight_decay=decay)
        self._hardware = torch.optim.SGD(scores, lr=rate, weight_decay=decay)

    def step(self) -> None:
        """Move the scores; call it after the task's loss went backward. Gradients are gone afterwards."""
        scores = self.masks.parameters()
        self.masks.observe()
        if self.masks.moving:
            gradients = [
                torch.zeros_like(one) if one.grad is None else scale * one.grad
                for one, scale in zip(scores, self._scales, strict=True)
            ]
            self._move(self._task, gradients)
            hardware = torch.autograd.grad(self.masks.loss(), scores)
            total = [
                gradient + scale * extra
                for gradient, extra, scale in zip(gradients, hardware, self._scales, strict=True)
            ]
            self._move(self._hardware, total)
        for one in scores:
            one.grad = None

    def _move(self, optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
        for one, gradient in zip(self.masks.parameters(), gradients, strict=True):
            one.grad = gradient
        optimizer.step()


def without_scores(parameters: Iterable[nn.Parameter], masks: LearnedMasks | None) -> list[nn.Parameter]:
    """`parameters` but for the scores of `masks`."""
    scores = set() if masks is None else {id(one) for one in masks.parameters()}
    return [one for one in parameters if id(one) not in scores]
