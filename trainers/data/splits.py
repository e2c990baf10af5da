"""Who sees which image: training, validation and test, so that nothing is scored on what was trained on (law 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ...studies.errors import DataError
from ...studies.seeds import Seed
from .base import ImageData, Split
from .imbalance import long_tailed_positions

__all__ = ["Splits", "make_splits", "to_device"]


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets of images.

    Args:
        train: What trials train on.
        validation: What the search scores on.
        test: The rest of the official test split, opened by validate and deploy alone.
    """

    train: Split
    validation: Split
    test: Split


def make_splits(
    data: ImageData,
    *,
    validation_from: Literal["train", "test"],
    validation_count: int,
    imbalance: float = 1.0,
    train_images: int | None = None,
    test_images: int | None = None,
    checkpoint: bool = False,
    seed: Seed,
) -> Splits:
    """Cut the validation images off, then limit and unbalance what is trained on.

    Each official split is put into one order drawn from `seed` alone and cut from its front, so that all trials of a
    study see the same splits, a smaller limit gives a subset of a larger one, and the first images of any of the
    three are a fair sample of it even where the official order is by class.

    Args:
        data: The official splits.
        validation_from: Which of them the validation images are cut from.
        validation_count: How many.
        imbalance: n_max / n_min of the training images (validation and test keep their balance), at least 1.
        train_images: At most so many training images, counted before they are unbalanced.
        test_images: At most so many test images.
        checkpoint: Whether training starts from weights that have seen the whole training split.
        seed: The study's seed.

    Raises:
        DataError: Too few images, or validation images that the checkpoint has seen.
    """
    if checkpoint and validation_from == "train":
        raise DataError(
            '`task.data.validation.from` must be "test" when `task.model.weights` is given, because the checkpoint '
            'has seen the training split; found "train".'
        )
    orders = {name: _order(len(getattr(data, name)), seed.child(name)) for name in ("train", "test")}
    there = len(orders[validation_from])
    if not 0 < validation_count < there:
        rule = f"in 1–{there - 1} (the {validation_from} split has {there} images and must keep one)"
        raise DataError(f"`task.data.validation.count` must be {rule}; found {validation_count}.")
    held = orders[validation_from][:validation_count]
    orders[validation_from] = orders[validation_from][validation_count:]
    source = getattr(data, validation_from)

    pool = _limited(orders["train"], train_images, "train_images")
    test = _limited(orders["test"], test_images, "test_images")
    pool = pool[long_tailed_positions(data.train.labels.numpy()[pool], imbalance, data.num_classes)]
    return Splits(
        train=data.train.subset(torch.from_numpy(pool)),
        validation=source.subset(torch.from_numpy(held)),
        test=data.test.subset(torch.from_numpy(test)),
    )


def to_device(split: Split, device: torch.device) -> Split:
    """The split with all its tensors on `device`."""
    return replace(
        split, images=split.images.to(device), labels=split.labels.to(device), indices=split.indices.to(device)
    )


def _order(count: int, seed: Seed) -> np.ndarray:
    return seed.numpy().permutation(count)


def _limited(order: np.ndarray, limit: int | None, argument: str) -> np.ndarray:
    if limit is not None and limit < 1:
        raise DataError(f"`task.data.{argument}` must be at least 1; found {limit}.")
    return order[:limit]
