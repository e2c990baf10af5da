"""Textures for the corruption frost: procedural ones that ship with Forgefront, or the user's photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ...studies.errors import DataError

__all__ = ["frost_canvas", "load_textures", "procedural_textures"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
# the published code counts six photographs and draws one of the first five
PUBLISHED = [f"frost{number}" for number in range(1, 7)]
SMALLEST_SIDE = 10


def load_textures(folder: Path) -> tuple[Tensor, ...]:
    """The images of a folder, in the order of their names, as textures for frost.

    In the published folder (frost1 to frost6 and nothing else) the sixth is left out, as in the published code.

    Args:
        folder: Holds PNG, JPEG, WebP, BMP, TIFF or PPM files, at best of at least 500 pixels a side.

    Returns:
        (3, h, w) uint8 tensors on the CPU, each of its own size, transparency dropped.

    Raises:
        DataError: There is no such folder, no image in it, or one that is damaged or smaller than 10 pixels.
    """
    if not folder.is_dir():
        raise DataError(f'`frost` must be a folder of images; found "{folder}", which is no folder.')
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f'`frost` must be a folder of images ({", ".join(sorted(SUFFIXES))}); found none in "{folder}".'
        )
    if [file.stem for file in files] == PUBLISHED:
        files = files[:-1]
    return tuple(_load(file) for file in files)


def _load(file: Path) -> Tensor:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f'`frost` must hold images that can be read; found "{file}" ({reason}).') from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DataError(f'`frost` must hold images of at least {SMALLEST_SIDE} pixels a side; found "{file}", {size}.')
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def frost_canvas(
    textures: Sequence[Tensor] | None, height: int, width: int, small: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Textures scaled for images of one size, side by side, and the number of places a crop of each may start at.

    Photographs take every fifth pixel for small images, as OpenCV's linear resizing to a fifth does, and are enlarged
    by a tenth (cubic) for large ones, as imagecorruptions does; both more where the image would not fit.

    Args:
        textures: As from `load_textures`; None takes `procedural_textures`.
        height: Of the images.
        width: Of the images.
        small: Whether the images take CIFAR-10-C's constants.
        device: Where to put the textures.

    Returns:
        (T, 3, h, w) uint8 and (T, 2) float32 rows and columns.

    Raises:
        ValueError: `textures` is empty or one is not (3, h, w) uint8.
    """
    return _canvas(None if textures is None else tuple(textures), height, width, small, device)


# a tuple of tensors is found again by the tensors' identity
@lru_cache(maxsize=4)
def _canvas(
    textures: tuple[Tensor, ...] | None, height: int, width: int, small: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    if textures is not None and not textures:
        raise ValueError("`textures` must be one or more; found none.")
    if textures is None:
        # they repeat at their edges, so a crop may start anywhere
        tiles = procedural_textures(1 if small else 5)
        size = tiles.shape[-1]
        rows, columns = torch.arange(size + height) % size, torch.arange(size + width) % size
        canvas = tiles[:, :, rows][..., columns].contiguous()
        return canvas.to(device), torch.full((len(tiles), 2), float(size)).to(device)
    scaled = [_scaled(texture, height, width, small) for texture in textures]
    tall, wide = (max(texture.shape[axis] for texture in scaled) for axis in (1, 2))
    canvas = torch.zeros(len(scaled), 3, tall, wide, dtype=torch.uint8)
    for plane, texture in zip(canvas, scaled, strict=True):
        plane[:, : texture.shape[1], : texture.shape[2]] = texture
    spans = torch.tensor([[texture.shape[1] - height, texture.shape[2] - width] for texture in scaled]).float()
    return canvas.to(device), spans.to(device)


def _scaled(texture: Tensor, height: int, width: int, small: bool) -> Tensor:
    if texture.ndim != 3 or texture.shape[0] != 3 or texture.dtype != torch.uint8:
        raise ValueError(f"`textures` must be uint8 of shape (3, h, w); found {texture.dtype}{list(texture.shape)}.")
    texture = texture.cpu()
    fifth = texture[:, 2::5, 2::5]
    if small and fifth.shape[1] > height and fifth.shape[2] > width:
        return fifth
    fitting = max(1.0, height / texture.shape[1], width / texture.shape[2])
    factor = 1.1 * (max(height / texture.shape[1], width / texture.shape[2]) if small else fitting)
    size = [max(math.ceil(texture.shape[axis] * factor), side + 1) for axis, side in ((1, height), (2, width))]
    cubic = F.interpolate(texture[None].float(), size=size, mode="bicubic", align_corners=False)[0]
    return cubic.round().clamp(0.0, 255.0).to(torch.uint8)


@lru_cache(maxsize=2)
def procedural_textures(scale: int) -> Tensor:
    """(5, 3, S, S) uint8: random fields that repeat at their edges.

    Each has the mean colour, contrast and power spectrum (power ~ frequency ** slope) measured on one of the five
    photographs that the published corruption draws from, at the fifth of their size that CIFAR-10-C uses.

    Args:
        scale: 1, or 5 for images at the photographs' own size.
    """
    looks = (
        ((78, 149, 166), 17, -2.0),
        ((201, 205, 214), 22, -1.4),
        ((201, 205, 214), 22, -1.4),
        ((138, 153, 166), 29, -1.1),
        ((112, 123, 135), 43, -1.3),
    )
    size = 128
    # the textures belong to the corruption, as the photographs do: the same in every study
    generator = np.random.default_rng(20190328)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    textures = []
    for colour, deviation, slope in looks:
        spectrum = np.fft.rfft2(generator.standard_normal((size, size))) * frequency ** (slope / 2)
        field = np.fft.irfft2(spectrum, s=(size, size))
        texture = np.array(colour)[:, None, None] + deviation * field / field.std()
        textures.append(np.clip(np.rint(texture), 0, 255))
    stack = torch.from_numpy(np.stack(textures).astype(np.float32))
    if scale > 1:
        # a margin of a pixel from the far edge, so that the enlarged texture repeats without a seam
        wrapped = F.pad(stack, (1, 1, 1, 1), mode="circular")
        stack = F.interpolate(wrapped, scale_factor=scale, mode="bilinear")[..., scale:-scale, scale:-scale].round()
    return stack.to(torch.uint8)
