"""Corrupted copies of a fixed set of images: made once, shared by all trials of a study, kept as uint8.

What an image becomes depends on the study's seed, the corruption, the severity and the image's position in the official
split, and on nothing else: a subset equals the same rows of the whole. Published archives are read in the same way.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..studies.atomic_file import published
from ..studies.registry import resolve, source_digest
from ..trainers.tasks.base import EvaluationSet, to_float
from .corruption_archive import open_archive, remove_stale_parts
from .corruptions.frost import load_textures
from .corruptions.randomness import Draws

__all__ = [
    "FOLDER_BYTES",
    "MEMORY_BYTES",
    "CorruptedSets",
    "corrupted",
    "corruption_code",
    "corruption_function",
    "textures_digest",
]

MEMORY_BYTES = 512 * 2**20
"""What one process keeps in memory, where there is no folder or images live on an accelerator."""
FOLDER_BYTES = 8 * 2**30
"""What the folder of a run grows to: CIFAR-10's 10,000 test images at 15 x 5 settings are 2.3 GB."""
FREE_BYTES = 512 * 2**20
"""What is left free on the disk, for a trial must still write its result."""

LAYOUT = 1
PIXELS = 500 * 32 * 32

CorruptionFunction = Callable[[Tensor, int, Draws], Tensor]
"""(images float32 in [0, 1] (N, 3, H, W), severity, draws) -> images of the same shape and range."""


class CorruptedSets:
    """Corrupted copies of one set of images, each made when first asked for.

    With a folder they are kept there, one .npy each, written atomically, and read back memory-mapped, so that the
    processes of a study share them. A folder that is full (`FOLDER_BYTES`) or cannot be written is warned of once and
    replaced by memory; what is beyond `MEMORY_BYTES` is made anew each time.

    Args:
        plain: The images.
        study_seed: The study's seed.
        folder: Where copies are kept; None keeps them in memory.
        archive: Folder of a published archive to read instead.
        frost: Folder of the user's textures for frost; None takes the built-in ones.

    Raises:
        DataError: `archive` or `frost` is no such folder.
    """

    def __init__(
        self,
        plain: EvaluationSet,
        *,
        study_seed: int,
        folder: Path | None,
        archive: Path | None = None,
        frost: Path | None = None,
    ) -> None:
        self.plain = plain
        self.study_seed = study_seed
        self.folder = folder
        self.archive = None if archive is None else open_archive(archive)
        self.frost = frost
        self._memory: dict[tuple[str, int], Tensor] = {}
        self._warned = False
        _LIVING.add(self)

    @functools.cached_property
    def content(self) -> str:
        """Digest of all that the copies depend on: images, indices, seed, archive and textures."""
        if self.frost is None:
            return self._untextured
        return hashlib.sha256((self._untextured + textures_digest(self.frost)).encode()).hexdigest()

    @functools.cached_property
    def _untextured(self) -> str:
        """The same without the textures, which matter to frost alone."""
        plain = self.plain
        digest = hashlib.sha256(f"{self.study_seed}/{tuple(plain.images.shape)}/".encode())
        digest.update(plain.images.cpu().numpy().tobytes())
        digest.update(plain.indices.cpu().numpy().tobytes())
        if self.archive is not None:
            digest.update(self.archive.identity().encode())
        return digest.hexdigest()

    def images(self, name: str, severity: int) -> Tensor:
        """The images under one corruption.

        Args:
            name: A registered corruption, or the user's own ``module:function``.
            severity: 1–5.

        Returns:
            (N, 3, H, W) uint8 on the device of the plain images, not to be written to.

        Raises:
            InputError: There is no such corruption.
            DataError: The archive does not have it, or is not of these images.
        """
        key, device = (name, severity), self.plain.images.device
        if key in self._memory:
            return self._memory[key]
        if self.archive is not None:
            images, kept = torch.from_numpy(self.archive.images(name, severity, self.plain)).to(device), False
        else:
            images, kept = self._made(name, severity)
        # memory-mapped files are in memory once for all processes; elsewhere what fits is kept. All sets are gone
        # through in one order, so that evicting the oldest would never hit: a full memory stays as it is.
        if not kept or device.type != "cpu":
            used = sum(held.nbytes for sets in _LIVING for held in sets._memory.values())
            if used + images.nbytes <= MEMORY_BYTES:
                self._memory[key] = images
        return images

    def identity(self, name: str, severity: int) -> str:
        """Digest of all that one of the copies depends on: its content's, and the source of what makes it.

        Args:
            name: A registered corruption, or the user's own ``module:function``.
            severity: 1–5.
        """
        if self.archive is not None:
            parts = [self._untextured, name, severity]
        else:
            content = self.content if name == "frost" else self._untextured
            parts = [content, name, severity, corruption_code(), _own_source(name)]
        return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()

    def kept(self, name: str, severity: int) -> bool:
        """Whether one of the copies lies in the folder, so that asking for it costs nothing."""
        if self.folder is None or self.archive is not None:
            return False
        return (self.folder / self._file(name, severity)).exists()

    def _made(self, name: str, severity: int) -> tuple[Tensor, bool]:
        """The copies, and whether they lie in the folder."""
        plain = self.plain
        path = None if self.folder is None else self.folder / self._file(name, severity)
        if path is not None:
            array = _mapped(path, tuple(plain.images.shape))
            if array is not None:
                return torch.from_numpy(array).to(plain.images.device), True
        function = corruption_function(name, frost=self.frost)
        images = torch.cat(list(corrupted(plain, name, severity, function=function, study_seed=self.study_seed)))
        return images, path is not None and self._keep(path, images)

    def _file(self, name: str, severity: int) -> str:
        content = self.content if name == "frost" else self._untextured
        digest = hashlib.sha256(f"{LAYOUT}/{content}/{name}/{severity}/{_own_source(name)}".encode())
        return f"{re.sub(r'[^A-Za-z0-9_]', '-', name)}-{severity}-{digest.hexdigest()[:24]}.{corruption_code()}.npy"

    def _keep(self, path: Path, images: Tensor) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            reason = _shortage(path.parent, images.nbytes)
            if reason is None:
                with published(path) as file:
                    np.save(file, images.cpu().numpy(), allow_pickle=False)
        except OSError as error:
            reason = error.strerror or str(error)
        if reason is not None and not self._warned:
            warnings.warn(f"corrupted images are not kept in {path.parent}: {reason}.", RuntimeWarning, stacklevel=4)
            self._warned = True
        return reason is None


# the bound on memory is of a process, which may have sets of several options
_LIVING: weakref.WeakSet[CorruptedSets] = weakref.WeakSet()


def corrupted(
    plain: EvaluationSet, name: str, severity: int, *, function: CorruptionFunction, study_seed: int
) -> Iterator[Tensor]:
    """Corrupt images in pieces of bounded memory.

    Args:
        plain: The images.
        name: What the random numbers are for: the corruption's name.
        severity: 1–5.
        function: The corruption.
        study_seed: The study's seed.

    Yields:
        uint8 (n, 3, H, W) on the images' device; together all of them in order.
    """
    height, width = plain.images.shape[-2:]
    # a piece fits a processor's cache, and is larger where launching kernels costs more than memory
    budget = PIXELS if plain.images.device.type == "cpu" else 8 * PIXELS
    size = max(1, budget // (height * width))
    for start in range(0, len(plain), size):
        part = slice(start, start + size)
        draws = Draws(study_seed, plain.indices[part].to(plain.images.device), f"{name}/{severity}")
        images = function(to_float(plain.images[part]), severity, draws)
        yield (images * 255.0).round_().to(torch.uint8)


def corruption_function(name: str, *, frost: Path | None = None) -> CorruptionFunction:
    """The function of a corruption, frost with the textures in the folder `frost` where one is given.

    Raises:
        InputError: There is no such corruption.
        DataError: `frost` holds no textures.
    """
    function = resolve("corruption", name)
    if name == "frost" and frost is not None:
        return functools.partial(function, textures=_textures(frost))
    return function


@functools.lru_cache(maxsize=2)
def _textures(folder: Path) -> tuple[Tensor, ...]:
    # the same tensors each time, for what is made of them is kept by their identity
    return load_textures(folder)


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A kept array, or None where there is none that is whole."""
    try:
        # private pages, so that torch gets an array it may call writable, and the file stays as it is
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _shortage(folder: Path, needed: int) -> str | None:
    """Why `needed` bytes more may not be kept in `folder`, None where they may.

    What an earlier version of the corruptions left is removed when the folder is full; parts of files that a killed
    process left are removed after an hour.
    """
    remove_stale_parts(folder)
    sizes: dict[Path, int] = {}
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            sizes[Path(entry.path)] = entry.stat().st_size
    if sum(sizes.values()) + needed > FOLDER_BYTES:
        current = f".{corruption_code()}.npy"
        for path in [path for path in sizes if path.name.endswith(".npy") and not path.name.endswith(current)]:
            path.unlink(missing_ok=True)
            del sizes[path]
    if sum(sizes.values()) + needed > FOLDER_BYTES:
        return f"it has reached {FOLDER_BYTES / 2**30:g} GiB"
    free = shutil.disk_usage(folder).free
    if free < needed + FREE_BYTES:
        return f"the disk has {free / 2**20:.0f} MiB left"
    return None


def textures_digest(folder: Path) -> str:
    """Digest of the user's textures for frost: names and contents of the files in a folder."""
    return _files_digest(folder, "*")


@functools.cache
def corruption_code() -> str:
    """Digest of the corruptions' own source: other code makes other images."""
    return _files_digest(Path(__file__).parent / "corruptions", "*.py")[:8]


@functools.cache
def _own_source(name: str) -> str:
    """Digest of the file that the user's own corruption is in; empty for a registered one."""
    return source_digest("corruption", name)


def _files_digest(folder: Path, pattern: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            digest.update(f"{path.name}/".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
