"""`Task`: everything that differs between kinds of work, so that nothing else assumes logits, labels or accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces.plan import Recipe
from ...studies.errors import InputError
from ...studies.seeds import Seed
from ..attacks.base import LossFunction

__all__ = ["Batch", "EvaluationSet", "SplitName", "Task", "to_float"]

SplitName = Literal["train", "validation", "test"]


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]."""
    return images.float().div_(255.0)


@dataclass(frozen=True)
class Batch:
    """What one training or evaluation step sees, all on one device.

    Args:
        images: float32 in [0, 1], (N, 3, H, W).
        targets: Whatever the task's losses take; int64 labels, (N,), in classification.
        indices: int64, (N,); positions in the official split.
        views: Other versions of the images, whose predictions are to agree with theirs: float32 in [0, 1],
            (V·N, 3, H, W), all images once, then again; None where there are none.
    """

    images: Tensor
    targets: Any
    indices: Tensor
    views: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What goes through the model: the images, and the views behind them."""
        return self.images if self.views is None else torch.cat([self.images, self.views])


@dataclass(frozen=True)
class EvaluationSet:
    """A fixed set of images to score on, on the task's device.

    Args:
        images: uint8, (N, 3, H, W).
        targets: int64 labels, (N,), in classification.
        indices: int64, (N,); positions in the official split that the images come from.
    """

    images: Tensor
    targets: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order as float batches of at most `batch_size`."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield Batch(to_float(self.images[part]), self.targets[part], self.indices[part])


class Task(ABC):
    """Data, model, losses and predictions of one kind of work, bound to one study and one device.

    Made as ``Task(study, device)``; making it loads the data and reads the checkpoint.
    """

    device: torch.device
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]

    @property
    def example(self) -> Tensor:
        """One image-shaped float32 input, (1, C, H, W), zeros, on the device."""
        return torch.zeros((1, *self.input_shape), device=self.device)

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Hashes and sizes that identify data and checkpoint, JSON values."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """What builds the model again elsewhere: name, options, classes, mean, std, input_shape; JSON values."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A fresh model of the study's architecture on the CPU, weights of no importance."""

    @abstractmethod
    def starting_model(self, seed: Seed) -> nn.Module:
        """What a trial starts from, on the device: the checkpoint, or an initialisation drawn from `seed`."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int, recipe: Recipe) -> int:
        """Batches in one epoch of `train_batches`."""

    @abstractmethod
    def train_batches(
        self, recipe: Recipe, *, batch_size: int, steps: int | None = None, seed: Seed
    ) -> Iterator[Batch]:
        """One shuffled epoch (its first `steps` batches, if given), sampled and augmented as `recipe` says.

        Batches have views where the study asks for consistent predictions and the recipe augments.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, recipe: Recipe) -> Tensor:
        """The training loss, a scalar."""

    @abstractmethod
    def attack_loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss that an attack raises, one for each image, (N,)."""

    @property
    def attack_losses(self) -> dict[str, LossFunction]:
        """What an attack may raise, by name; the first is `attack_loss`."""
        return {"cross-entropy": self.attack_loss}

    def log_probabilities(self, outputs: Any) -> Tensor:
        """Logarithms of what the model believes of each image, (N, ..., C), summing to probability 1 over C.

        For losses that compare predictions (TRADES, consistency); a task without such a notion leaves it out.

        Raises:
            InputError: The task leaves it out.
        """
        raise InputError(
            '`training.method` must not be "trades" and `training.consistency` must be 0 with this task, whose '
            f"predictions cannot be compared; found {type(self).__name__}."
        )

    def split(self, outputs: Any, parts: int) -> Sequence[Any]:
        """The outputs for each of `parts` equal groups of images that went through the model one behind the other."""
        groups: tuple[Tensor, ...] = outputs.chunk(parts)
        return groups

    @abstractmethod
    def correct(self, outputs: Any, targets: Any) -> Tensor:
        """Which images are predicted correctly, bool, (N,)."""

    @abstractmethod
    def evaluation(self, split: SplitName, limit: int | None = None) -> EvaluationSet:
        """The images of a split (its first `limit`, if given), always in the same order."""

    @abstractmethod
    def tally(self, outputs: Any, targets: Any) -> dict[str, list[int]]:
        """Raw counts of one batch that the task's metrics are derived from; batches add up element by element."""

    @abstractmethod
    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """What a person reads off the raw outputs, one for each image."""

    @abstractmethod
    def calibration_images(self, count: int, seed: Seed) -> Tensor:
        """`count` plain training images (or all, if fewer), float32 in [0, 1], on the device."""
