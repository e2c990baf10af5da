"""A data set from a folder of images: ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from ...studies.errors import DataError
from .base import ImageData, image_data

__all__ = ["image_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def image_folder(*, root: str, size: Annotated[int, Field(ge=8, le=1024)]) -> ImageData:
    """Images in one subfolder a class, all held in memory at one size.

    Each image is brought to RGB, its shorter side resized to `size` (bilinear, antialiased), then its centre cropped.
    Classes are the subfolders of ``train/`` in alphabetical order.

    Args:
        root: The folder that holds ``train/`` and ``test/``.
        size: Side of the images in pixels.

    Raises:
        DataError: A folder is missing or empty, a file is no image, or ``test/`` has a class that ``train/`` lacks.
    """
    folder = Path(root)
    classes = _classes(folder, "train")
    foreign = [name for name in _classes(folder, "test") if name not in classes]
    if foreign:
        raise DataError(f'"{folder / "test"}" must hold classes of train/ only; found "{foreign[0]}".')
    arrays = [array for split in ("train", "test") for array in _read(folder / split, classes, size)]
    return image_data(arrays[0], arrays[1], arrays[2], arrays[3], class_names=classes)


def _classes(root: Path, split: str) -> list[str]:
    folder = root / split
    if not folder.is_dir():
        raise DataError(f'`task.data.root` "{root}" must hold {split}/<class>/<images>; found no {split}/.')
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f'"{folder}" must hold a subfolder for each class; found none.')
    return classes


def _read(folder: Path, classes: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for label, name in enumerate(classes):
        entries = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        files = [path for path in entries if path.suffix.lower() in SUFFIXES]
        # a class may be absent from test/, where it only makes that class unmeasured, but not from train/
        if not files and folder.name == "train":
            raise DataError(f'"{folder / name}" must hold images ({", ".join(sorted(SUFFIXES))}); found none.')
        images += [_read_image(path, size) for path in files]
        labels += [label] * len(files)
    if not images:
        raise DataError(f'"{folder}" must hold images; found none.')
    return np.stack(images), np.array(labels)


def _read_image(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f'"{path}" must be an image; {error}.') from error
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
