"""Trains learned masks beside the weights, with two optimizers (Vemparala et al., "…Using In-train Pruning").

The first minimises the task's loss and moves weights and scores; the second minimises the task's loss + b·L_hw and
moves the scores alone. Both take the task's gradient of one backward pass.

A mask that is on feels a gradient of mean zero once the weights have settled, however much its channel matters; as
published, only switching it off tells. With `curvature` the gradient is that of the chord between on and off,
L(1) − L(0) ≈ g ∓ ½h, where h is estimated by the squared gradients of single images, n·E[g²] over batches of n (Theis
et al. 2018, arXiv:1801.05787).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ..compression.learned_masks import LearnedMasks
    from ..studies.schema_training import MaskSection

__all__ = ["MaskTraining", "without_scores"]


MEMORY = 0.9
SMALLEST_SLOPE = 0.05


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
        self._curvature = section.curvature
        self._squares = [torch.zeros_like(one) for one in scores]
        self._seen = [torch.zeros_like(one) for one in scores]
        self._task = torch.optim.SGD(scores, lr=rate, weight_decay=decay)
        self._hardware = torch.optim.SGD(scores, lr=rate, weight_decay=decay)

    def step(self, images: int) -> None:
        """Move the scores, and drop their gradients; call it after the task's loss went backward.

        Args:
            images: Number of images in the batch.
        """
        scores = self.masks.parameters()
        self.masks.observe()
        if self.masks.moving:
            gradients = [scale * one for one, scale in zip(self._task_gradients(images), self._scales, strict=True)]
            self._move(self._task, gradients)
            self.masks.tighten()
            hardware = torch.autograd.grad(self.masks.loss(), scores, materialize_grads=True, allow_unused=True)
            total = [
                gradient + scale * extra
                for gradient, extra, scale in zip(gradients, hardware, self._scales, strict=True)
            ]
            self._move(self._hardware, total)
        for one in scores:
            one.grad = None

    def state(self) -> dict[str, Any]:
        """What it remembers of former steps, for a checkpoint; both optimizers are without momentum."""
        return {"squares": self._squares, "seen": self._seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        for key, kept in (("squares", self._squares), ("seen", self._seen)):
            for tensor, saved in zip(kept, state[key], strict=True):
                tensor.copy_(saved)

    def _task_gradients(self, images: int) -> list[torch.Tensor]:
        scores = self.masks.parameters()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in scores]
        if not self._curvature:
            return gradients
        chords = []
        for one, gradient, square, seen in zip(scores, gradients, self._squares, self._seen, strict=True):
            on = one.detach() >= 0.0
            # gradients reach M through ½(1 − tanh²M)
            slope = (0.5 * (1.0 - torch.tanh(one.detach()).square())).clamp(min=SMALLEST_SLOPE)
            # while a mask is off its gradient has a mean, whose square is no curvature
            square.copy_(torch.where(on, square.lerp((gradient / slope).square(), 1.0 - MEMORY), square))
            seen += on
            half = 0.5 * images * slope * square / (1.0 - MEMORY ** seen.clamp(min=1.0))
            chords.append(gradient - torch.where(on, half, -half))
        return chords

    def _move(self, optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
        for one, gradient in zip(self.masks.parameters(), gradients, strict=True):
            one.grad = gradient
        optimizer.step()


def without_scores(parameters: Iterable[nn.Parameter], masks: LearnedMasks | None) -> list[nn.Parameter]:
    """`parameters` but for the scores of `masks`."""
    scores = set() if masks is None else {id(one) for one in masks.parameters()}
    return [one for one in parameters if id(one) not in scores]
