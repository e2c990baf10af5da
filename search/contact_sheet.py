"""A contact sheet of corruptions: one row each, for a few images the plain one and every severity beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..studies.errors import InputError

__all__ = ["contact_sheet", "write_sheet"]

SMALLEST, LARGEST = 72, 144
"""Pixels of a thumbnail's shorter and longer side: small images are enlarged by whole factors, large ones reduced."""
GAP, GROUP_GAP, MARGIN = 3, 14, 12
FONT_SIZE = 13
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def contact_sheet(
    plain: np.ndarray, corrupted: Mapping[str, Mapping[int, np.ndarray]], titles: Sequence[str], heading: str
) -> Image.Image:
    """Draw the sheet.

    Args:
        plain: uint8, (N, H, W, 3).
        corrupted: For each corruption and severity the same images, corrupted.
        titles: What each image is called above its columns.
        heading: First line of the sheet.
    """
    width, height = _thumbnail_size(plain.shape[2], plain.shape[1])
    severities = list(next(iter(corrupted.values())))
    font = ImageFont.load_default(size=FONT_SIZE)
    left = MARGIN + max(_length(font, name) for name in corrupted) + 2 * GAP
    group = (1 + len(severities)) * (width + GAP) - GAP
    top = MARGIN + 3 * (FONT_SIZE + 5)
    size = (left + len(plain) * (group + GROUP_GAP), top + len(corrupted) * (height + GAP) + MARGIN)
    size = (max(size[0], 2 * MARGIN + _length(font, heading)), size[1])
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), heading, INK, font)
    for image, title in enumerate(titles):
        start = left + image * (group + GROUP_GAP)
        draw.text((start, MARGIN + FONT_SIZE + 5), _cut(font, title, group), INK, font)
        for column, text in enumerate(["plain", *map(str, severities)]):
            middle = start + column * (width + GAP) + (width - _length(font, text)) // 2
            draw.text((middle, MARGIN + 2 * (FONT_SIZE + 5)), text, FAINT, font)
    for row, (name, by_severity) in enumerate(corrupted.items()):
        y = top + row * (height + GAP)
        draw.text((MARGIN, y + (height - FONT_SIZE) // 2), name, INK, font)
        for image in range(len(plain)):
            start = left + image * (group + GROUP_GAP)
            for column, images in enumerate([plain, *by_severity.values()]):
                sheet.paste(_thumbnail(images[image], width, height), (start + column * (width + GAP), y))
    return sheet


def write_sheet(sheet: Image.Image, file: Path) -> None:
    """Write a sheet as PNG.

    Raises:
        InputError: `file` does not end in .png, or cannot be written.
    """
    check_sheet(file)
    try:
        sheet.save(file, format="PNG")
    except OSError as error:
        raise InputError(f"`--sheet` must be a file that can be written; found {file} ({error.strerror}).") from None


def check_sheet(file: Path) -> None:
    """See that `file` may be a sheet.

    Raises:
        InputError: It does not end in .png, or its folder does not exist.
    """
    if file.suffix.lower() != ".png":
        raise InputError(f"`--sheet` must end in .png; found {file}.")
    if not file.absolute().parent.is_dir():
        raise InputError(f"`--sheet` must lie in an existing folder; found {file}.")


def _thumbnail_size(width: int, height: int) -> tuple[int, int]:
    if max(width, height) > LARGEST:
        scale = LARGEST / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))
    factor = max(1, SMALLEST // min(width, height))
    factor = min(factor, max(1, LARGEST // max(width, height)))
    return width * factor, height * factor


def _thumbnail(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    # enlarged pixels stay square, so that noise and pixelation show as they are
    way = Image.Resampling.NEAREST if width >= pixels.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((width, height), way)


def _length(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return int(font.getlength(text)) + 1


def _cut(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int) -> str:
    while len(text) > 1 and _length(font, text) > width:
        text = f"{text[:-2]}…"
    return text
