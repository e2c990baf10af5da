"""Corrupted images in the layout of CIFAR-10-C (Hendrycks & Dietterich 2019): one .npy a corruption, and labels.npy.

A file holds uint8 images, (S * n, H, W, 3), in one block for each severity, each block in the order of the images:
image i at severity s lies in row ``(s - 1) * n + i``. The published archives have all five severities of the whole test
split. One with other severities, or with some of the images, says so in ``archive.json`` beside the arrays.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..studies.atomic_file import PART, published
from ..studies.errors import DataError
from ..studies.faults import nearest
from ..trainers.tasks.base import EvaluationSet

__all__ = [
    "LABELS",
    "MANIFEST",
    "Archive",
    "array_file",
    "open_archive",
    "read_manifest",
    "remove_stale_parts",
    "write_blocks",
]

LABELS = "labels.npy"
MANIFEST = "archive.json"
ALL_SEVERITIES = (1, 2, 3, 4, 5)
SAMPLES, SAMPLE_BYTES = 16, 64 * 2**10
"""Pieces of a file that its digest is of: a published archive has 2.9 GB."""
STALE_SECONDS = 3600.0


def array_file(name: str) -> str:
    """Name of the file of a corruption, which may be the user's own ``module:function``."""
    return re.sub(r"[^\w.-]", "_", name) + ".npy"


@dataclass(frozen=True)
class Archive:
    """An archive on disk; nothing is kept open.

    Args:
        folder: Where its arrays are.
        severities: What its blocks are, in order.
        positions: int64, (n,); each row's position in the official split. None where row i is image i.
        split: Which images it states to hold; None where it does not say.
    """

    folder: Path
    severities: tuple[int, ...]
    positions: np.ndarray | None = None
    split: str | None = None

    def check(self, names: Iterable[str], severities: Iterable[int], split: str | None = None) -> None:
        """Find the array of each corruption, with all severities asked for, and of the split where one is asked for.

        Raises:
            DataError: One is missing, or is no such array, or the archive is of another split.
        """
        if split is not None and self.split is not None and split != self.split:
            # rows are found by their positions in a split, and those of another one are as good as any
            raise DataError(
                f"`archive` must hold the {split} split, which is scored; found the {self.split} split in "
                f"{self.folder}."
            )
        for severity in severities:
            if severity not in self.severities:
                held = ", ".join(map(str, self.severities))
                raise DataError(f"`archive` must hold severity {severity}; found severities {held} in {self.folder}.")
        for name in names:
            self._open(name)

    def images(self, name: str, severity: int, plain: EvaluationSet) -> np.ndarray:
        """The corrupted versions of `plain`: uint8, (N, 3, H, W).

        Raises:
            DataError: The archive is not of these images: their size, their number or their labels differ.
        """
        self.check((), (severity,))
        array = self._open(name)
        count = len(array) // len(self.severities)
        shape = tuple(plain.images.shape[2:])
        if array.shape[1:3] != shape:
            found = f"{array.shape[1]}x{array.shape[2]} in {self.folder / array_file(name)}"
            raise DataError(f"`archive` must hold images of {shape[0]}x{shape[1]} pixels; found {found}.")
        rows = self._rows(plain.indices.cpu().numpy(), count)
        self._check_labels(plain, rows, count)
        block = array[self.severities.index(severity) * count :][:count]
        return np.ascontiguousarray(block[rows].transpose(0, 3, 1, 2))

    def identity(self, names: Iterable[str] | None = None) -> str:
        """A digest of what the archive holds, wherever it lies: names and sizes of files and samples of their contents.

        Args:
            names: Corruptions; None takes all that are there.
        """
        arrays = self.folder.glob("*.npy") if names is None else (self.folder / array_file(name) for name in names)
        stated = f"{self.severities}/{None if self.positions is None else self.positions.tolist()}/{self.split}"
        digest = hashlib.sha256(stated.encode())
        for path in sorted({*arrays, self.folder / LABELS}):
            if path.exists():
                state = path.stat()
                digest.update(f"{path.name}/{_sampled(path, state.st_size, state.st_mtime_ns)}/".encode())
        return digest.hexdigest()

    def _open(self, name: str) -> np.ndarray:
        path = self.folder / array_file(name)
        array = _array(path)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or len(array) % len(self.severities):
            rule = f"uint8 of shape ({len(self.severities)} * n, H, W, 3)"
            raise DataError(f"`archive` must hold arrays of {rule}; found {array.dtype}{list(array.shape)} in {path}.")
        return array

    def _rows(self, indices: np.ndarray, count: int) -> np.ndarray:
        if self.positions is None:
            rows = indices
        else:
            order = np.argsort(self.positions)
            places = np.searchsorted(self.positions, indices, sorter=order).clip(max=len(order) - 1)
            rows = np.where(self.positions[order[places]] == indices, order[places], count)
        beyond = indices[rows >= count]
        if len(beyond):
            raise DataError(
                f"`archive` must hold every image that is scored; {len(beyond)} of {len(indices)}, such as number "
                f"{beyond[0]}, are not among the {count} in {self.folder}."
            )
        return rows

    def _check_labels(self, plain: EvaluationSet, rows: np.ndarray, count: int) -> None:
        targets = plain.targets
        if not (
            isinstance(targets, torch.Tensor) and targets.shape == (len(plain),) and not targets.is_floating_point()
        ):
            return
        labels = _array(self.folder / LABELS)
        if labels.shape not in ((count,), (count * len(self.severities),)):
            rule = f"one label an image, shape ({count * len(self.severities)},)"
            raise DataError(
                f"`archive` must have {rule} in {LABELS}; found shape {list(labels.shape)} in {self.folder}."
            )
        held, wanted = labels[:count][rows], targets.cpu().numpy()
        different = np.flatnonzero(held != wanted)
        if len(different):
            first = different[0]
            raise DataError(
                f"`archive` must hold the images that are scored; {len(different)} of {len(rows)} labels in "
                f"{self.folder / LABELS} differ (image {int(plain.indices[first])}: {held[first]}, in the data "
                f"{wanted[first]})."
            )


def open_archive(folder: str | Path) -> Archive:
    """An archive on disk, published or written by ``forgefront corrupt``.

    Raises:
        DataError: There is no such folder, or what it states of itself is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"`archive` must be a folder of .npy arrays; found no folder {folder}.")
    stated = read_manifest(folder)
    if stated is None:
        return Archive(folder, ALL_SEVERITIES)
    try:
        severities = tuple(int(severity) for severity in stated["severities"])
        positions = np.array(stated["indices"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{folder / MANIFEST} must state severities and indices; found {reason}.") from None
    split = stated.get("split")
    return Archive(folder, severities, positions, split if isinstance(split, str) else None)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What an archive states of itself; None where it states nothing, as the published ones.

    Raises:
        DataError: The file is there and cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a JSON file; found one that cannot be read ({error}).") from None
    if not isinstance(stated, Mapping):
        raise DataError(f"{path} must be a JSON object; found {type(stated).__name__}.")
    return dict(stated)


def write_blocks(path: Path, shape: Sequence[int], parts: Iterable[np.ndarray]) -> None:
    """Write an array piece by piece, under its name only once it is whole.

    Args:
        path: The .npy file.
        shape: Of the whole array.
        parts: Its rows in order, uint8.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
        ValueError: The parts are not of that shape together.
    """
    with published(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        rows = 0
        for part in parts:
            if part.dtype != np.uint8 or part.shape[1:] != tuple(shape[1:]):
                raise ValueError(f"`parts` must be uint8 rows of {list(shape)}; found {part.dtype}{list(part.shape)}.")
            # plain writes, for a memory-mapped file on a full disk kills the process
            file.write(np.ascontiguousarray(part).data)
            rows += len(part)
        if rows != shape[0]:
            raise ValueError(f"`parts` must have {shape[0]} rows together; found {rows}.")


def remove_stale_parts(folder: Path) -> None:
    """Remove the parts of files that a killed process left in a folder, an hour after it last wrote to them."""
    now = time.time()
    for path in folder.glob(f".*{PART}"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


@functools.lru_cache(maxsize=256)
def _sampled(path: Path, size: int, modified: int) -> str:
    """Digest of a file's size and of pieces spread evenly over it, its first and last bytes among them."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({max(size - SAMPLE_BYTES, 0) * place // (SAMPLES - 1) for place in range(SAMPLES)}):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        held = [entry.stem for entry in path.parent.glob("*.npy") if entry.name != LABELS]
        match = nearest(path.stem, held)
        hint = f" Did you mean {match}?" if match else ""
        raise DataError(f"`archive` must hold {path.name}; found no such file in {path.parent}.{hint}") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"`archive` must hold whole .npy arrays; found {path}, which is none ({error}).") from None
