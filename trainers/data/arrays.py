"""A data set from one ``.npz`` file of arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ...studies.errors import DataError
from .base import ImageData, image_data

__all__ = ["arrays"]

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def arrays(*, path: str) -> ImageData:
    """The arrays ``train_images``, ``train_labels``, ``test_images`` and ``test_labels`` of an ``.npz`` file.

    Images are uint8 in 0–255 or floats in [0, 1] (stored as uint8, rounded), of shape (N, H, W), (N, H, W, C) or
    (N, C, H, W) with C = 1 or 3; grey is repeated in three channels. Labels are integers from 0. An optional array
    ``class_names`` of strings names them.

    Args:
        path: The file; pickled objects in it are refused.

    Raises:
        DataError: The file or an array is missing, damaged, or of another type, shape or range.
    """
    file = Path(path)
    content = _open(file)
    missing = [key for key in KEYS if key not in content]
    if missing:
        found = ", ".join(content) or "nothing"
        raise DataError(f'"{file}" must hold {", ".join(KEYS)}; `{missing[0]}` is missing, found {found}.')
    train = _images(file, "train_images", content["train_images"])
    test = _images(file, "test_images", content["test_images"])
    labels = [
        _labels(file, split, content[f"{split}_labels"], len(images))
        for split, images in (("train", train), ("test", test))
    ]
    classes = int(max(label.max() for label in labels)) + 1
    names = [str(name) for name in content["class_names"]] if "class_names" in content else []
    if names and len(names) < classes:
        raise DataError(
            f'"{file}" must name each class in `class_names`; found {len(names)} names, labels to {classes - 1}.'
        )
    return image_data(train, labels[0], test, labels[1], class_names=names or [str(i) for i in range(classes)])


def _open(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError(f'`task.data.path` must be an .npz file; found no file "{file}".')
    try:
        content = np.load(file, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f'"{file}" must be an .npz file of plain arrays; {error}.') from error


def _images(file: Path, key: str, images: np.ndarray) -> np.ndarray:
    """uint8, (N, 3, H, W)."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first == last:
            rule = "must have 1 or 3 channels on axis 1 or on axis 3 (and not on both)"
            raise DataError(f'"{file}": `{key}` {rule}; found shape {images.shape}.')
        images = images.transpose(0, 3, 1, 2) if last else images
    else:
        raise DataError(f'"{file}": `{key}` must have 3 or 4 axes; found shape {images.shape}.')
    if not images.size:
        raise DataError(f'"{file}": `{key}` must hold at least one image; found shape {images.shape}.')
    if np.issubdtype(images.dtype, np.floating):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):
            raise DataError(f'"{file}": `{key}` as floats must be in [0, 1]; found {low:g} to {high:g}.')
        images = np.rint(images * 255.0).astype(np.uint8)
    elif images.dtype != np.uint8:
        raise DataError(f'"{file}": `{key}` must be uint8 or floats in [0, 1]; found {images.dtype}.')
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def _labels(file: Path, split: str, labels: np.ndarray, count: int) -> np.ndarray:
    key = f"{split}_labels"
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise DataError(f'"{file}": `{key}` must be {count} integers, one for each image; found {found}.')
    if labels.min() < 0:
        raise DataError(f'"{file}": `{key}` must be 0 or more; found {labels.min()}.')
    return labels.astype(np.int64)
