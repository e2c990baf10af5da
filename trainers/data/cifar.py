"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official binary layout or torchvision's python layout."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...studies.errors import DataError
from .base import ImageData, image_data

__all__ = ["cifar10", "cifar100", "read_binary", "read_python"]

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """Where one of the two data sets keeps its files, and what a record holds."""

    name: str
    title: str
    folders: tuple[str, str]
    binary: tuple[tuple[str, ...], tuple[str, ...]]
    python: tuple[tuple[str, ...], tuple[str, ...]]
    records: tuple[int, int]
    label_bytes: int
    names: tuple[str, ...]


_CIFAR10 = _Layout(
    name="cifar10",
    title="CIFAR10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    binary=(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    python=(tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
    records=(10_000, 10_000),
    label_bytes=1,
    names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100 = _Layout(
    name="cifar100",
    title="CIFAR100",
    folders=("cifar-100-binary", "cifar-100-python"),
    binary=(("train.bin",), ("test.bin",)),
    python=(("train",), ("test",)),
    records=(50_000, 10_000),
    label_bytes=2,
    names=(),
)


def cifar10(*, root: str = "data", download: bool = False) -> ImageData:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

    Args:
        root: The folder that holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.
        download: Whether to fetch the python layout into `root` (170 MB, checked) when neither is there.

    Raises:
        DataError: Neither folder is there, a file is missing, of another size, or holds a label above 9.
    """
    data = _load(_CIFAR10, Path(root), download, column=0, key="labels")
    return image_data(*data, class_names=_CIFAR10.names, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def cifar100(*, root: str = "data", download: bool = False, labels: Literal["fine", "coarse"] = "fine") -> ImageData:
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 classes (or 20 superclasses).

    Args:
        root: The folder that holds ``cifar-100-binary`` or ``cifar-100-python``.
        download: Whether to fetch the python layout into `root` (169 MB, checked) when neither is there.
        labels: The 100 fine or the 20 coarse labels.

    Raises:
        DataError: Neither folder is there, a file is missing, of another size, or holds a label out of range.
    """
    root_folder, fine = Path(root), labels == "fine"
    data = _load(_CIFAR100, root_folder, download, column=int(fine), key=f"{labels}_labels")
    names = _cifar100_names(root_folder, labels, 100 if fine else 20)
    return image_data(*data, class_names=names, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _load(layout: _Layout, root: Path, download: bool, *, column: int, key: str) -> Arrays:
    binary, python = (root / folder for folder in layout.folders)
    if not binary.is_dir() and not python.is_dir():
        if not download:
            raise DataError(
                f'`task.data.root` "{root}" must hold {binary.name}/ or {python.name}/; found neither. '
                "Set `task.data.download = true` to fetch it, or unpack www.cs.toronto.edu/~kriz/cifar.html there."
            )
        _download(layout, root)
    limit = _label_limit(layout, column)
    read: Callable[[Path, int], tuple[np.ndarray, np.ndarray]]
    if binary.is_dir():
        folder, files = binary, layout.binary

        def read(path: Path, records: int) -> tuple[np.ndarray, np.ndarray]:
            return read_binary(path, records=records, label_bytes=layout.label_bytes, column=column, classes=limit)
    else:
        folder, files = python, layout.python

        def read(path: Path, records: int) -> tuple[np.ndarray, np.ndarray]:
            return read_python(path, records=records, key=key, classes=limit)

    splits = []
    for names, records in zip(files, layout.records, strict=True):
        parts = [read(folder / name, records) for name in names]
        splits += [np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])]
    return splits[0], splits[1], splits[2], splits[3]


def _label_limit(layout: _Layout, column: int) -> int:
    return 10 if layout.label_bytes == 1 else (20, 100)[column]


def read_binary(
    path: Path, *, records: int, label_bytes: int = 1, column: int = 0, classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """One file of the official binary layout: per record its label bytes, then 3072 pixel bytes (R, G, B planes).

    Args:
        path: The file.
        records: How many records it must hold.
        label_bytes: 1 in CIFAR-10; 2 in CIFAR-100, coarse before fine.
        column: Which label byte to return.
        classes: Labels must be below this.

    Returns:
        Images, uint8, (records, 3, 32, 32), and labels, int64, (records,).

    Raises:
        DataError: The file is missing, of another size, or holds a label out of range.
    """
    expected = records * (label_bytes + PIXELS)
    if not path.is_file():
        raise DataError(f'"{path}" must be there, {expected:,} bytes; found no such file.')
    found = path.stat().st_size
    if found != expected:
        raise DataError(
            f'"{path}" must have {expected:,} bytes ({records:,} records); found {found:,}. Unpack it again.'
        )
    table = np.fromfile(path, dtype=np.uint8).reshape(records, label_bytes + PIXELS)
    images = np.ascontiguousarray(table[:, label_bytes:]).reshape(records, 3, 32, 32)
    return images, _labels(path, table[:, column], classes)


def read_python(path: Path, *, records: int, key: str, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """One file of the python layout, a pickled dict of arrays, read without running any code from it.

    Args:
        path: The file.
        records: How many records it must hold.
        key: Which list of labels to return.
        classes: Labels must be below this.

    Returns:
        Images, uint8, (records, 3, 32, 32), and labels, int64, (records,).

    Raises:
        DataError: The file is missing, damaged, names anything but arrays, or holds a label out of range.
    """
    content = _load_arrays(path)
    pixels, labels = content.get("data"), content.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (records, PIXELS):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f'"{path}" must hold `data`, uint8 of shape ({records}, {PIXELS}); found {found}.')
    if not isinstance(labels, list | np.ndarray) or len(labels) != records:
        found = f"{len(labels)}" if isinstance(labels, list | np.ndarray) else type(labels).__name__
        raise DataError(f'"{path}" must hold `{key}`, a list of {records} labels; found {found}.')
    return pixels.reshape(records, 3, 32, 32), _labels(path, np.asarray(labels), classes)


def _labels(path: Path, labels: np.ndarray, classes: int) -> np.ndarray:
    labels = labels.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        found = f"{labels[wrong[0]]} in record {wrong[0]}"
        raise DataError(f'"{path}" must hold labels 0–{classes - 1}; found {found}.')
    return labels


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds dicts, lists, strings and NumPy arrays; any other name in the stream is refused, so no code can run."""

    ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _load_arrays(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f'"{path}" must be there, a batch of the python layout; found no such file.')
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    # a damaged stream can make the unpickler raise nearly anything
    except Exception as error:
        raise DataError(f'"{path}" must be a pickled dict of arrays; {error}. Unpack it again.') from error
    if not isinstance(content, dict):
        raise DataError(f'"{path}" must be a pickled dict of arrays; found {type(content).__name__}.')
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _cifar100_names(root: Path, labels: str, classes: int) -> Sequence[str]:
    """Class names from the files beside the data; numbers where they are absent."""
    text, meta = root / "cifar-100-binary" / f"{labels}_label_names.txt", root / "cifar-100-python" / "meta"
    names: list[str] = []
    if text.is_file():
        names = text.read_text().split()
    elif meta.is_file():
        found = _load_arrays(meta).get(f"{labels}_label_names", [])
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in found]
    return names if len(names) == classes else [str(number) for number in range(classes)]


def _download(layout: _Layout, root: Path) -> None:
    """torchvision's archive, checked by its MD5 and unpacked; nothing in it is unpickled here."""
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    source = getattr(datasets, layout.title)
    try:
        download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DataError(f'`download` of {source.url} failed: {error}. Unpack it into "{root}" by hand.') from error
