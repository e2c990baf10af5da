"""What an artefact weighs: its bytes, and its bytes inside a zip archive (Castro et al. measure the latter)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

__all__ = ["file_bytes", "zipped_bytes"]


def file_bytes(path: Path) -> int:
    """Size of the file in bytes."""
    return path.stat().st_size


def zipped_bytes(path: Path) -> int:
    """Size in bytes of a zip archive (DEFLATE as zip tools do it by default) that holds only this file.

    Name and time inside the archive are fixed, so the same content always gives the same number.
    """
    entry = zipfile.ZipInfo("model", date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as archived:
        archived.writestr(entry, path.read_bytes())
    return archive.tell()
