"""Corrupted sets: a subset equals the whole, kept on disk by their content, read from archives of the published layout."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from forgefront.objectives import corrupted_sets
from forgefront.objectives.base import Subject
from forgefront.objectives.corrupted_sets import CorruptedSets
from forgefront.objectives.corruption import MeanError
from forgefront.objectives.corruption_archive import MANIFEST, array_file, open_archive, write_blocks
from forgefront.studies.errors import DataError, InputError
from forgefront.trainers.tasks.base import EvaluationSet

DRAWN = ("gaussian_noise", "glass_blur", "snow", "fog", "jpeg_compression")


@pytest.fixture(scope="module")
def plain(photographs: np.ndarray) -> EvaluationSet:
    """24 photographs that are images 3, 10, 17, … of their split."""
    images = torch.from_numpy(photographs[:24].transpose(0, 3, 1, 2).copy())
    return EvaluationSet(images, torch.arange(24) % 5, torch.arange(24) * 7 + 3)


def part(plain: EvaluationSet, places: list[int]) -> EvaluationSet:
    return EvaluationSet(plain.images[places], plain.targets[places], plain.indices[places])


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


# what is made


@pytest.mark.parametrize("name", DRAWN)
def test_a_subset_equals_the_same_images_of_the_whole(plain: EvaluationSet, name: str) -> None:
    places = [20, 3, 11]
    whole = CorruptedSets(plain, study_seed=5, folder=None).images(name, 4)
    few = CorruptedSets(part(plain, places), study_seed=5, folder=None).images(name, 4)
    assert whole.shape == plain.images.shape
    assert whole.dtype == torch.uint8
    assert torch.equal(few, whole[places])
    assert not torch.equal(whole, plain.images)


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur", "snow"])
def test_pieces_of_bounded_memory_make_the_same_images(
    plain: EvaluationSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = CorruptedSets(plain, study_seed=5, folder=None).images(name, 2)
    for pixels in (5 * 32 * 32, 1):
        monkeypatch.setattr(corrupted_sets, "PIXELS", pixels)
        assert torch.equal(CorruptedSets(plain, study_seed=5, folder=None).images(name, 2), whole)


def test_other_seeds_severities_and_names_make_other_images(plain: EvaluationSet) -> None:
    made = [
        CorruptedSets(plain, study_seed=seed, folder=None).images(name, severity)
        for seed, name, severity in ((0, "snow", 1), (1, "snow", 1), (0, "snow", 2), (0, "frost", 1))
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])


def test_content_follows_images_indices_and_seed(plain: EvaluationSet) -> None:
    def content(plain: EvaluationSet, seed: int = 0) -> str:
        return CorruptedSets(plain, study_seed=seed, folder=None).content

    brighter = EvaluationSet(plain.images.clone().add_(1), plain.targets, plain.indices)
    moved = EvaluationSet(plain.images, plain.targets, plain.indices + 1)
    relabelled = EvaluationSet(plain.images, plain.targets + 1, plain.indices)
    assert content(plain) == content(relabelled) == content(part(plain, list(range(24))))
    others = [content(plain, 1), content(brighter), content(moved), content(part(plain, [0, 1]))]
    assert len({content(plain), *others}) == 5


def test_an_unknown_corruption_is_refused(plain: EvaluationSet) -> None:
    with pytest.raises(InputError, match="gaussian_noise"):
        CorruptedSets(plain, study_seed=0, folder=None).images("gausian_noise", 1)


def test_frost_takes_textures_of_ones_own(plain: EvaluationSet, photographs: np.ndarray, tmp_path: Path) -> None:
    for place in (0, 40):
        Image.fromarray(photographs[place]).resize((300, 200)).save(tmp_path / f"{place}.png")
    built_in = CorruptedSets(plain, study_seed=0, folder=None)
    own = CorruptedSets(plain, study_seed=0, folder=None, frost=tmp_path)
    again = CorruptedSets(plain, study_seed=0, folder=None, frost=tmp_path)
    assert torch.equal(own.images("frost", 3), again.images("frost", 3))
    assert not torch.equal(own.images("frost", 3), built_in.images("frost", 3))
    assert torch.equal(own.images("fog", 3), built_in.images("fog", 3))
    assert own.content == again.content != built_in.content
    Image.fromarray(photographs[0]).save(tmp_path / "1.png")
    assert CorruptedSets(plain, study_seed=0, folder=None, frost=tmp_path).content != own.content


def test_textures_of_ones_own_leave_other_corruptions_where_they_are(
    plain: EvaluationSet, photographs: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photographs[0]).resize((300, 200)).save(tmp_path / "one.png")
    for frost in (None, tmp_path):
        for name in ("fog", "frost"):
            CorruptedSets(plain, study_seed=0, folder=tmp_path / "kept", frost=frost).images(name, 1)
    assert sorted(path.name.split("-")[0] for path in files(tmp_path / "kept")) == ["fog", "frost", "frost"]


# on disk


def test_sets_are_made_once_for_all_that_share_a_folder(plain: EvaluationSet, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "corrupted"
    first = CorruptedSets(plain, study_seed=0, folder=folder)
    images = {(name, severity): first.images(name, severity) for name in DRAWN for severity in (1, 5)}
    kept = files(folder)
    assert len(kept) == 10
    # what is on disk is read, not made again
    stored = np.load(kept[0])
    np.save(kept[0], 255 - stored)
    second = CorruptedSets(plain, study_seed=0, folder=folder)
    again = {key: second.images(*key) for key in images}
    assert sum(not torch.equal(images[key], again[key]) for key in images) == 1
    assert files(folder) == kept
    assert not first._memory
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def test_each_content_seed_and_code_has_files_of_its_own(
    plain: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sets in (
        CorruptedSets(plain, study_seed=0, folder=tmp_path),
        CorruptedSets(plain, study_seed=1, folder=tmp_path),
        CorruptedSets(part(plain, [1, 2]), study_seed=0, folder=tmp_path),
    ):
        sets.images("fog", 1)
    assert len(files(tmp_path)) == 3
    monkeypatch.setattr(corrupted_sets, "corruption_code", lambda: "changed")
    CorruptedSets(plain, study_seed=0, folder=tmp_path).images("fog", 1)
    assert len(files(tmp_path)) == 4


def test_a_corruption_of_ones_own_is_made_anew_when_its_file_changes(
    plain: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "own_rain.py"
    source.write_text("def rain(images, severity, draws):\n    return images * 0.5\n")
    sets = CorruptedSets(plain, study_seed=0, folder=tmp_path / "corrupted")
    made = sets.images("own_rain:rain", 3)
    assert torch.equal(made, (plain.images.float() / 255.0 * 0.5 * 255.0).round().to(torch.uint8))
    (kept,) = files(tmp_path / "corrupted")
    assert kept.name.startswith("own_rain-rain-3-")
    source.write_text("def rain(images, severity, draws):\n    return images * 0.25\n")
    corrupted_sets._own_source.cache_clear()
    sys.modules.pop("own_rain")
    changed = CorruptedSets(plain, study_seed=0, folder=tmp_path / "corrupted").images("own_rain:rain", 3)
    assert changed.float().mean() < 0.6 * made.float().mean()


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "not an array"])
def test_a_damaged_file_is_made_anew(plain: EvaluationSet, tmp_path: Path, damage: str) -> None:
    images = CorruptedSets(plain, study_seed=0, folder=tmp_path).images("shot_noise", 2).clone()
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    if damage == "other shape":
        np.save(file, np.zeros((2, 3, 32, 32), np.uint8))
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "not an array": b"x" * len(whole)}[damage])
    assert torch.equal(CorruptedSets(plain, study_seed=0, folder=tmp_path).images("shot_noise", 2), images)
    assert file.read_bytes() == whole


def test_writing_to_what_was_read_leaves_the_file_alone(plain: EvaluationSet, tmp_path: Path) -> None:
    sets = CorruptedSets(plain, study_seed=0, folder=tmp_path)
    before = sets.images("fog", 1).clone()
    sets.images("fog", 1).zero_()
    assert torch.equal(sets.images("fog", 1), before)


def test_a_folder_that_cannot_be_written_is_replaced_by_memory(plain: EvaluationSet, tmp_path: Path) -> None:
    # a file where the folder should be cannot be written by anybody, the superuser included
    blocked = tmp_path / "corrupted"
    blocked.write_text("")
    sets = CorruptedSets(plain, study_seed=0, folder=blocked)
    with pytest.warns(RuntimeWarning, match="corrupted images are not kept in") as warned:
        made = [sets.images(name, 1) for name in DRAWN]
    assert len(warned) == 1
    assert [sets.images(name, 1).data_ptr() for name in DRAWN] == [images.data_ptr() for images in made]
    assert torch.equal(made[0], CorruptedSets(plain, study_seed=0, folder=None).images(DRAWN[0], 1))


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on a file's size stands for the disk's end: a write stops in the middle with an OSError.

    It holds for the whole process, so nothing else may be written meanwhile, the report of the tests included.
    """
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_fails_nothing_and_leaves_nothing(plain: EvaluationSet, tmp_path: Path) -> None:
    sets = CorruptedSets(plain, study_seed=0, folder=tmp_path)
    with full_disk(), pytest.warns(RuntimeWarning, match="corrupted images are not kept in") as warned:
        made = [sets.images("fog", severity) for severity in (1, 2)]
    assert len(warned) == 1
    assert not list(tmp_path.iterdir())
    assert torch.equal(made[1], CorruptedSets(plain, study_seed=0, folder=None).images("fog", 2))


def test_the_folder_has_a_bound(plain: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = plain.images.numel()
    monkeypatch.setattr(corrupted_sets, "FOLDER_BYTES", 2 * size + 1000)
    sets = CorruptedSets(plain, study_seed=0, folder=tmp_path)
    with pytest.warns(RuntimeWarning, match="it has reached"):
        made = [sets.images(name, 1) for name in DRAWN]
    assert len(files(tmp_path)) == 2
    assert len(sets._memory) == 3
    assert all(torch.equal(sets.images(name, 1), images) for name, images in zip(DRAWN, made, strict=True))
    # what other code has made gives way
    monkeypatch.setattr(corrupted_sets, "corruption_code", lambda: "changed")
    CorruptedSets(plain, study_seed=0, folder=tmp_path).images("fog", 1)
    (file,) = files(tmp_path)
    assert file.name.endswith(".changed.npy")


def test_a_disk_with_little_left_is_left_alone(
    plain: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrupted_sets, "FREE_BYTES", 2**62)
    with pytest.warns(RuntimeWarning, match="the disk has .* MiB left"):
        CorruptedSets(plain, study_seed=0, folder=tmp_path).images("fog", 1)
    assert not files(tmp_path)


def test_memory_has_a_bound(plain: EvaluationSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrupted_sets, "MEMORY_BYTES", 3 * plain.images.numel())
    monkeypatch.setattr(corrupted_sets, "_LIVING", weakref.WeakSet())
    # of all the sets of a process together
    other = CorruptedSets(plain, study_seed=1, folder=None)
    other.images("fog", 1)
    sets = CorruptedSets(plain, study_seed=0, folder=None)
    made = [sets.images(name, 1) for name in DRAWN]
    assert len(sets._memory) == 2
    assert len(other._memory) == 1
    assert all(torch.equal(sets.images(name, 1), images) for name, images in zip(DRAWN, made, strict=True))


WORKER = """
import sys, torch
from pathlib import Path
from forgefront.objectives.corrupted_sets import CorruptedSets
from forgefront.trainers.tasks.base import EvaluationSet
torch.set_num_threads(1)
images = (torch.arange(600 * 3 * 32 * 32) % 251).to(torch.uint8).reshape(600, 3, 32, 32)
plain = EvaluationSet(images, torch.zeros(600), torch.arange(600))
print("ready", flush=True)
for seed in range(1000):
    for severity in (1, 2, 3, 4, 5):
        CorruptedSets(plain, study_seed=seed, folder=Path(sys.argv[1])).images("brightness", severity)
"""


def test_processes_share_a_folder_and_a_killed_one_harms_nobody(tmp_path: Path) -> None:
    doomed = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == "ready\n"
    images = (torch.arange(600 * 3 * 32 * 32) % 251).to(torch.uint8).reshape(600, 3, 32, 32)
    plain = EvaluationSet(images, torch.zeros(600), torch.arange(600))
    # both make the same sets at the same time, until one is killed
    made = [CorruptedSets(plain, study_seed=0, folder=tmp_path).images("brightness", s) for s in (1, 2, 3, 4, 5)]
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    for severity, expected in enumerate(made, 1):
        sets = CorruptedSets(plain, study_seed=0, folder=None)
        assert torch.equal(sets.images("brightness", severity), expected)
        assert torch.equal(CorruptedSets(plain, study_seed=0, folder=tmp_path).images("brightness", severity), expected)
    # whatever has a name is whole
    assert all(np.load(file).shape == (600, 3, 32, 32) for file in files(tmp_path))
    # parts that a killed process left go when they are an hour old
    left = tmp_path / ".brightness.abc.part"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    few = EvaluationSet(plain.images[:2], plain.targets[:2], plain.indices[:2])
    CorruptedSets(few, study_seed=0, folder=tmp_path).images("fog", 1)
    assert not left.exists()


def test_objectives_keep_their_images_in_the_folder_of_the_run(subject: Subject, tmp_path: Path) -> None:
    options = {"severities": (2,), "images": 30, "corruptions": ["fog", "contrast"]}
    alone = MeanError(**options).measure(subject)
    shared = dataclasses.replace(subject, corrupted=tmp_path, cache={})
    assert MeanError(**options).measure(shared) == alone
    assert len(files(tmp_path)) == 2
    assert MeanError(**options).measure(dataclasses.replace(shared, cache={})) == alone


# archives


def write_archive(folder: Path, sets: CorruptedSets, total: int, severities: tuple[int, ...] = (1, 2, 3, 4, 5)) -> None:
    """The published layout of a split of `total` images, those of `sets` in their places and grey ones elsewhere."""
    plain = sets.plain
    labels = np.full(total, 99, np.uint8)
    labels[plain.indices.numpy()] = plain.targets.numpy()
    np.save(folder / "labels.npy", np.tile(labels, len(severities)))
    for name in ("fog", "shot_noise"):
        blocks = np.full((len(severities), total, 32, 32, 3), 128, np.uint8)
        for place, severity in enumerate(severities):
            blocks[place, plain.indices.numpy()] = sets.images(name, severity).numpy().transpose(0, 2, 3, 1)
        np.save(folder / f"{name}.npy", blocks.reshape(-1, 32, 32, 3))


@pytest.fixture
def archive(plain: EvaluationSet, tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    write_archive(folder, CorruptedSets(plain, study_seed=0, folder=None), 200)
    return folder


def test_an_archive_of_the_published_layout_gives_its_rows(plain: EvaluationSet, archive: Path, tmp_path: Path) -> None:
    made = CorruptedSets(plain, study_seed=0, folder=None)
    read = CorruptedSets(plain, study_seed=99, folder=tmp_path / "corrupted", archive=archive)
    for name, severity in (("fog", 1), ("fog", 5), ("shot_noise", 3)):
        assert torch.equal(read.images(name, severity), made.images(name, severity))
    few = CorruptedSets(part(plain, [20, 4]), study_seed=99, folder=None, archive=archive)
    assert torch.equal(few.images("fog", 2), made.images("fog", 2)[[20, 4]])
    # an archive is on disk already
    assert not (tmp_path / "corrupted").exists()
    assert read.content != CorruptedSets(plain, study_seed=99, folder=None).content


def test_an_archive_of_some_images_and_severities_says_which(plain: EvaluationSet, tmp_path: Path) -> None:
    made = CorruptedSets(plain, study_seed=0, folder=None)
    places = [9, 2, 5, 17]
    levels = (2, 4)
    indices = plain.indices[places].tolist()
    (tmp_path / MANIFEST).write_text(json.dumps({"severities": levels, "indices": indices}))
    np.save(tmp_path / "labels.npy", np.tile(plain.targets[places].numpy(), 2))
    blocks = [made.images("fog", level)[places].numpy().transpose(0, 2, 3, 1) for level in levels]
    write_blocks(tmp_path / "fog.npy", (8, 32, 32, 3), blocks)
    read = CorruptedSets(part(plain, [17, 9]), study_seed=0, folder=None, archive=tmp_path)
    assert torch.equal(read.images("fog", 4), made.images("fog", 4)[[17, 9]])
    with pytest.raises(DataError, match="`archive` must hold severity 1; found severities 2, 4"):
        read.images("fog", 1)
    beyond = CorruptedSets(part(plain, [9, 0]), study_seed=0, folder=None, archive=tmp_path)
    with pytest.raises(DataError, match="1 of 2, such as number 3, are not among the 4"):
        beyond.images("fog", 2)


def test_an_objective_scores_on_an_archive(subject: Subject, tmp_path: Path) -> None:
    plain = subject.task.evaluation("validation", 30)
    write_archive(tmp_path, CorruptedSets(plain, study_seed=7, folder=None), int(plain.indices.max()) + 1)
    options = {"severities": (1, 4), "images": 30, "corruptions": ["fog", "shot_noise"]}
    read = MeanError(archive=tmp_path, **options).measure(subject)
    assert read == MeanError(**options).measure(dataclasses.replace(subject, study_seed=7, cache={}))


def test_an_archive_is_known_by_its_content(plain: EvaluationSet, archive: Path, tmp_path: Path) -> None:
    objective = MeanError(archive=archive, corruptions=["fog"])
    before = objective.inputs("validation")
    assert list(before) == ["archive"]
    moved = tmp_path / "moved"
    shutil.copytree(archive, moved, copy_function=shutil.copyfile)
    assert MeanError(archive=moved, corruptions=["fog"]).inputs("test") == before
    np.save(moved / "shot_noise.npy", np.zeros((1000, 32, 32, 3), np.uint8))
    assert MeanError(archive=moved, corruptions=["fog"]).inputs("test") == before
    np.save(moved / "fog.npy", 255 - np.load(moved / "fog.npy"))
    assert MeanError(archive=moved, corruptions=["fog"]).inputs("test") != before


def test_an_archive_of_another_split_is_refused_by_name(subject: Subject, archive: Path) -> None:
    manifest = {"severities": [1, 2, 3, 4, 5], "indices": list(range(200)), "split": "test"}
    (archive / MANIFEST).write_text(json.dumps(manifest))
    objective = MeanError(archive=archive, corruptions=["fog"])
    objective.inputs("test")
    rule = "`archive` must hold the validation split, which is scored; found the test split in"
    with pytest.raises(DataError, match=rule):
        objective.inputs("validation")
    with pytest.raises(DataError, match=rule):
        objective.measure(dataclasses.replace(subject, cache={}))


def cut(folder: Path) -> None:
    file = folder / "fog.npy"
    file.write_bytes(file.read_bytes()[:1000])


BAD_ARCHIVES = [
    (
        "missing array",
        lambda f: (f / "fog.npy").rename(f / "fogg.npy"),
        "`archive` must hold fog.npy; found no such file in",
    ),
    ("nearest match", lambda f: (f / "fog.npy").rename(f / "fogg.npy"), "Did you mean fogg?"),
    ("missing labels", lambda f: (f / "labels.npy").unlink(), "must hold labels.npy"),
    ("cut array", cut, "must hold whole .npy arrays"),
    ("floats", lambda f: np.save(f / "fog.npy", np.zeros((1000, 32, 32, 3), np.float32)), "must hold arrays of uint8"),
    ("channels first", lambda f: np.save(f / "fog.npy", np.zeros((1000, 3, 32, 32), np.uint8)), "(5 * n, H, W, 3)"),
    ("not five blocks", lambda f: np.save(f / "fog.npy", np.zeros((999, 32, 32, 3), np.uint8)), "(5 * n, H, W, 3)"),
    (
        "other size",
        lambda f: np.save(f / "fog.npy", np.zeros((1000, 24, 32, 3), np.uint8)),
        "must hold images of 32x32 pixels; found 24x32",
    ),
    (
        "too few images",
        lambda f: np.save(f / "fog.npy", np.zeros((50, 32, 32, 3), np.uint8)),
        "every image that is scored",
    ),
    (
        "too few labels",
        lambda f: np.save(f / "labels.npy", np.zeros(7, np.uint8)),
        "must have one label an image, shape (1000,)",
    ),
    ("other labels", lambda f: np.save(f / "labels.npy", np.zeros(1000, np.uint8)), "(image 10: 0, in the data 1)"),
    ("damaged manifest", lambda f: (f / MANIFEST).write_text("{"), "must be a JSON file"),
    ("manifest of a list", lambda f: (f / MANIFEST).write_text("[]"), "must be a JSON object"),
    (
        "manifest without indices",
        lambda f: (f / MANIFEST).write_text('{"severities": [1]}'),
        "must state severities and indices",
    ),
    (
        "pickles",
        lambda f: np.save(f / "fog.npy", np.array([{}], object), allow_pickle=True),
        "must hold whole .npy arrays",
    ),
]


@pytest.mark.parametrize(("fault", "change", "message"), BAD_ARCHIVES, ids=[case[0] for case in BAD_ARCHIVES])
def test_an_archive_that_does_not_fit_is_one_clear_line(
    plain: EvaluationSet, archive: Path, fault: str, change, message: str
) -> None:
    change(archive)
    with pytest.raises(DataError) as caught:
        CorruptedSets(plain, study_seed=0, folder=None, archive=archive).images("fog", 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_once_are_as_good_as_labels_of_every_block(plain: EvaluationSet, archive: Path) -> None:
    labels = np.load(archive / "labels.npy")
    np.save(archive / "labels.npy", labels[:200])
    open_archive(archive).images("fog", 1, plain)


def test_arrays_written_in_pieces_are_whole_or_not_there(tmp_path: Path) -> None:
    pixels = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    write_blocks(tmp_path / "a.npy", pixels.shape, [pixels[:4], pixels[4:]])
    assert np.array_equal(np.load(tmp_path / "a.npy"), pixels)

    def interrupted():
        yield pixels[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_blocks(tmp_path / "b.npy", pixels.shape, interrupted())
    with pytest.raises(ValueError, match="`parts` must have 6 rows together; found 4"):
        write_blocks(tmp_path / "b.npy", pixels.shape, [pixels[:4]])
    with pytest.raises(ValueError, match="`parts` must be uint8 rows"):
        write_blocks(tmp_path / "b.npy", pixels.shape, [pixels.astype(float)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]
    assert array_file("own.module:rain") == "own.module_rain.npy"
