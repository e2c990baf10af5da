"""Write a study's images, corrupted, in the layout of CIFAR-10-C, and a contact sheet to look at.

The images are those that the study's trials are scored on: the same seed gives the same bytes. A call that was stopped
goes on with the first file that is missing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..objectives.corrupted_sets import (
    CorruptedSets,
    CorruptionFunction,
    corrupted,
    corruption_code,
    corruption_function,
)
from ..objectives.corruption import corruption_names
from ..objectives.corruption_archive import (
    LABELS,
    MANIFEST,
    array_file,
    read_manifest,
    remove_stale_parts,
    write_blocks,
)
from ..studies.atomic_file import published
from ..studies.errors import InputError
from ..studies.faults import nearest
from ..studies.load import load_study
from ..studies.registry import names, resolve
from ..trainers.device import resolve_device
from ..trainers.tasks.base import EvaluationSet, SplitName, Task
from .contact_sheet import check_sheet, contact_sheet, write_sheet
from .display import duration
from .run_folder import RunFolder, write_json

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["corrupt", "parse_corruptions", "parse_severities"]

SHEET_IMAGES = 3
WORDS = ("published", "extra", "all")


def corrupt(
    source: str,
    out: Path | None,
    *,
    split: SplitName = "test",
    images: int | None = None,
    corruptions: str = "published",
    severities: str = "1,2,3,4,5",
    sheet: Path | None = None,
    seed: int | None = None,
    frost: Path | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None],
) -> list[Path]:
    """Corrupt the images of a split.

    Args:
        source: A study file, the name of a shipped study, or the folder of a run.
        out: Folder to write arrays to; None writes the sheet alone.
        split: ``"test"``, ``"validation"`` or ``"train"``.
        images: How many, None for all.
        corruptions: ``"published"``, ``"extra"``, ``"all"`` or names with commas.
        severities: Some of 1–5 with commas.
        sheet: PNG file of a contact sheet.
        seed: Of the random numbers; None takes the study's.
        frost: Folder of textures for the corruption frost; None takes the built-in ones.
        overrides: ``KEY=VALUE`` each, of the study file.
        say: Called with a line of progress.

    Returns:
        What is whole now: the folder of arrays, the sheet.

    Raises:
        InputError: Anything that the user gave is wrong, or the disk is full.
    """
    if out is None and sheet is None:
        raise InputError("`--out` must name a folder unless `--sheet` names a file; found neither.")
    if sheet is not None:
        check_sheet(sheet)
    chosen, levels = parse_corruptions(corruptions), parse_severities(severities)
    functions = {name: corruption_function(name, frost=frost) for name in chosen}
    study = _study(source, overrides)
    task: Task = resolve("task", study.task.type)(study, resolve_device(study.training.device))
    plain = task.evaluation(split, images)
    seed = study.study.seed if seed is None else seed
    written: list[Path] = []
    if out is not None:
        stated = {"study": study.study.name, "split": split, "images": len(plain), "severities": levels, "seed": seed}
        _write_archive(out, _in_order(plain), stated, functions, frost, say)
        written.append(out)
    if sheet is not None:
        shown = _chosen(plain, _various(plain, SHEET_IMAGES))
        height, width = plain.images.shape[-2:]
        heading = (
            f"{study.study.name}, {split} split, {width}x{height} pixels, seed {seed}: severities of each corruption"
        )
        made = {
            name: {level: np.concatenate(list(_blocks(shown, name, [level], function, seed))) for level in levels}
            for name, function in functions.items()
        }
        write_sheet(contact_sheet(_pixels(shown.images), made, _titles(task, shown), heading), sheet)
        written.append(sheet)
    return written


def parse_corruptions(text: str) -> list[str]:
    """Names of corruptions from ``"published"``, ``"extra"``, ``"all"`` or names with commas.

    Raises:
        InputError: There is no such corruption.
    """
    if text in WORDS:
        return corruption_names(text)
    given = [name.strip() for name in text.split(",") if name.strip()]
    known = names("corruption")
    for name in given:
        if name not in known and ":" not in name:
            match = nearest(name, [*WORDS, *known])
            hint = f" Did you mean {match}?" if match else ""
            rule = f"{', '.join(WORDS)} or names of corruptions with commas"
            raise InputError(f'`--corruptions` must be {rule}; found "{name}".{hint}')
    if not given:
        raise InputError(f'`--corruptions` must name at least one corruption; found "{text}".')
    return corruption_names(given)


def parse_severities(text: str) -> list[int]:
    """Severities in order from numbers with commas.

    Raises:
        InputError: One is not 1–5, or there is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or any(part not in ("1", "2", "3", "4", "5") for part in parts):
        raise InputError(f'`--severities` must be some of 1–5 with commas, such as 1,3,5; found "{text}".')
    return sorted({int(part) for part in parts})


def _study(source: str, overrides: Sequence[str]) -> Study:
    if Path(source).expanduser().is_dir():
        return load_study(RunFolder.open(Path(source).expanduser()).study_file, overrides=overrides)
    return load_study(source, overrides=overrides)


def _in_order(plain: EvaluationSet) -> EvaluationSet:
    """The images in the order of the official split, as the published archives have them."""
    return _chosen(plain, plain.indices.argsort().tolist())


def _various(plain: EvaluationSet, count: int) -> list[int]:
    """Places of `count` images (or all, if fewer), of different classes where there are labels."""
    labels = _labels(plain)
    if labels is None:
        return list(range(min(count, len(plain))))
    first = dict(zip(labels[::-1].tolist(), range(len(plain) - 1, -1, -1), strict=True))
    others = [place for place in range(len(plain)) if place not in first.values()]
    return [*sorted(first.values()), *others][:count]


def _chosen(plain: EvaluationSet, places: list[int]) -> EvaluationSet:
    targets = plain.targets
    targets = targets[places] if isinstance(targets, Tensor) else [targets[place] for place in places]
    return EvaluationSet(plain.images[places], targets, plain.indices[places])


def _write_archive(
    out: Path,
    plain: EvaluationSet,
    stated: dict[str, Any],
    functions: dict[str, CorruptionFunction],
    frost: Path | None,
    say: Callable[[str], None],
) -> None:
    levels = stated["severities"]
    labels = _labels(plain)
    content = CorruptedSets(plain, study_seed=stated["seed"], folder=None, frost=frost).content
    manifest = {**stated, "content": content, "code": corruption_code(), "indices": plain.indices.tolist()}
    _, channels, height, width = plain.images.shape
    shape = (len(levels) * len(plain), height, width, channels)
    files = {name: out / array_file(name) for name in functions}
    try:
        _begin(out, manifest)
        missing = [name for name, file in files.items() if not _whole(file, shape)]
        _check_room(out, len(missing) * int(np.prod(shape)))
        if labels is not None and not (out / LABELS).exists():
            with published(out / LABELS) as file:
                np.save(file, np.tile(labels, len(levels)), allow_pickle=False)
        if len(missing) < len(files):
            say(f"{len(files) - len(missing)} of {len(files)} files are there already")
        began = time.monotonic()
        for place, name in enumerate(missing):
            started = time.monotonic()
            write_blocks(files[name], shape, _blocks(plain, name, levels, functions[name], stated["seed"]))
            now = time.monotonic()
            left = (now - began) / (place + 1) * (len(missing) - place - 1)
            rest = f"; about {duration(left)} left" if place + 1 < len(missing) else ""
            say(f"{name}: {place + 1} of {len(missing)}, {duration(now - started)}{rest}")
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"`--out` must be a folder that can be written; found {out} ({reason}).") from None


def _begin(out: Path, manifest: dict[str, Any]) -> None:
    """Create the folder with what it will hold, or find that it holds a part of just that."""
    # as it is read back
    manifest = json.loads(json.dumps(manifest))
    out.mkdir(parents=True, exist_ok=True)
    held = read_manifest(out)
    if held is None:
        foreign = next((entry.name for entry in out.iterdir() if not entry.name.startswith(".")), None)
        if foreign is not None:
            raise InputError(f"`--out` must be a new folder or one that this command began; found {foreign} in {out}.")
        write_json(out / MANIFEST, manifest)
        return
    remove_stale_parts(out)
    keys = ("split", "images", "severities", "seed", "content")
    different = [key for key in keys if held.get(key) != manifest[key]]
    # a digest says nothing that the rest does not
    different = [key for key in different if key != "content"] or different
    if not different and held.get("code") != manifest["code"]:
        rule = "`--out` must be a new folder or one that this version of the corruptions began"
        raise InputError(f"{rule}; found {out}, which another one did. Did you mean another folder?")
    if different:
        found = ", ".join(f"{key} {str(held.get(key))[:24]}, here {str(manifest[key])[:24]}" for key in different)
        raise InputError(f"`--out` must be a new folder or hold the same images; found {out} with others ({found}).")


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        rule = f"`--out` must be on a disk with {needed / 2**20:.0f} MiB left"
        raise InputError(f"{rule}; found {free / 2**20:.0f} MiB at {out}.")


def _whole(file: Path, shape: Sequence[int]) -> bool:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == tuple(shape) and array.dtype == np.uint8


def _labels(plain: EvaluationSet) -> np.ndarray | None:
    """One label an image, in the published archives' type where it fits; None where a task has no such thing."""
    targets = plain.targets
    if not isinstance(targets, Tensor) or targets.shape != (len(plain),) or targets.is_floating_point():
        return None
    labels = targets.cpu().numpy()
    return labels.astype(np.uint8) if labels.min() >= 0 and labels.max() < 256 else labels


def _blocks(
    plain: EvaluationSet, name: str, levels: Sequence[int], function: CorruptionFunction, seed: int
) -> Iterator[np.ndarray]:
    for level in levels:
        for piece in corrupted(plain, name, level, function=function, study_seed=seed):
            yield _pixels(piece)


def _pixels(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) as a NumPy array (N, H, W, 3)."""
    pixels: np.ndarray = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _titles(task: Task, shown: EvaluationSet) -> list[str]:
    labels = _labels(shown)
    indices = [f"image {index}" for index in shown.indices.tolist()]
    if labels is None:
        return indices
    return [f"{title}: {task.class_names[label]}" for title, label in zip(indices, labels, strict=True)]
