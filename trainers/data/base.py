"""What every data set becomes: `ImageData`, two splits of uint8 images in memory with labels, names and a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...studies.errors import DataError

__all__ = ["ImageData", "Split", "image_data"]


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Args:
        images: uint8, (N, 3, H, W).
        labels: int64, (N,).
        indices: int64, (N,); each image's position in its official split, so that a subset keeps its identity.

    Raises:
        DataError: A tensor is of another type or shape than stated.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __post_init__(self) -> None:
        images, count = self.images, self.images.shape[0] if self.images.dim() else 0
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise DataError(
                f"`images` must be uint8 of shape (N, 3, H, W); found {images.dtype} {tuple(images.shape)}."
            )
        for name, values in (("labels", self.labels), ("indices", self.indices)):
            if values.dtype != torch.int64 or values.shape != (count,):
                given = f"{values.dtype} {tuple(values.shape)}"
                raise DataError(f"`{name}` must be int64 of shape ({count},), one for each image; found {given}.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: Tensor) -> Split:
        """The images at `positions` (int64, (M,)) of this split, in that order."""
        return Split(self.images[positions], self.labels[positions], self.indices[positions])

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Images of each class, int64, (num_classes,)."""
        return torch.bincount(self.labels, minlength=num_classes).numpy()


@dataclass(frozen=True)
class ImageData:
    """A labelled data set with its official splits.

    Args:
        train: The official training split.
        test: The official test split, images of the same size.
        class_names: One name for each label.
        content_hash: SHA-256 (hex) of the arrays.
        mean: Mean of each colour channel of images in [0, 1], None to take it from the training split.
        std: Standard deviation of each colour channel, likewise.

    Raises:
        DataError: A split is empty, sizes differ, or a label has no class name.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    content_hash: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise DataError(f"`{name}` must hold at least one image; found none.")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.num_classes:
                found = low if low < 0 else high
                raise DataError(f"`{name}` labels must be in 0–{self.num_classes - 1} (one a class); found {found}.")
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            shapes = f"{tuple(self.train.images.shape[1:])} and {tuple(self.test.images.shape[1:])}"
            raise DataError(f"`train` and `test` images must have one shape; found {shapes}.")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


def image_data(
    train_images: np.ndarray,
    train_labels: np.ndarray | Sequence[int],
    test_images: np.ndarray,
    test_labels: np.ndarray | Sequence[int],
    *,
    class_names: Sequence[str],
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> ImageData:
    """An `ImageData` from arrays, its hash computed; what a user's own data function can return.

    Args:
        train_images: uint8, (N, 3, H, W).
        train_labels: Integers, (N,).
        test_images: uint8, (M, 3, H, W).
        test_labels: Integers, (M,).
        class_names: One name for each label.
        mean: Mean of each channel of images in [0, 1]; None takes it from the training split.
        std: Standard deviation of each channel, likewise.

    Raises:
        DataError: An array is of another type or shape than stated, or a label has no class name.
    """
    splits, digest = [], hashlib.sha256()
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        images, labels = np.ascontiguousarray(images), np.ascontiguousarray(labels, dtype=np.int64)
        for array in (images, labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.data)
        tensor = torch.from_numpy(images)
        splits.append(Split(tensor, torch.from_numpy(labels), torch.arange(len(tensor))))
    return ImageData(splits[0], splits[1], tuple(class_names), digest.hexdigest(), mean, std)
