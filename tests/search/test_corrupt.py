"""`forgefront corrupt`: arrays in the published layout that its own reader takes, a contact sheet, going on after a stop."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from forgefront.objectives.corrupted_sets import CorruptedSets
from forgefront.objectives.corruption_archive import MANIFEST
from forgefront.search.cli import app
from forgefront.search.contact_sheet import contact_sheet
from forgefront.search.corrupt import corrupt, parse_corruptions, parse_severities
from forgefront.studies.errors import DataError, InputError
from forgefront.studies.load import load_study
from forgefront.studies.registry import names
from forgefront.trainers.tasks.classification import ClassificationTask

OPTIONS = {"images": 12, "corruptions": "fog,pixelate", "severities": "2,5"}


@pytest.fixture(scope="module")
def task() -> ClassificationTask:
    return ClassificationTask(load_study("digits"), torch.device("cpu"))


def made(out: Path | None, **changes) -> list[str]:
    told: list[str] = []
    corrupt(**{"source": "digits", "out": out, "say": told.append, **OPTIONS, **changes})
    return told


def test_what_is_written_is_what_trials_are_scored_on(task: ClassificationTask, tmp_path: Path) -> None:
    out = tmp_path / "made" / "digits-c"
    told = made(out)
    plain = task.evaluation("test", 12)
    own = CorruptedSets(plain, study_seed=load_study("digits").study.seed, folder=None)
    read = CorruptedSets(plain, study_seed=99, folder=None, archive=out)
    for name in ("fog", "pixelate"):
        array = np.load(out / f"{name}.npy")
        assert array.shape == (2 * 12, 32, 32, 3)
        assert array.dtype == np.uint8
        for severity in (2, 5):
            assert torch.equal(read.images(name, severity), own.images(name, severity))
    # rows are in the order of the official split, labels likewise, in every block
    order = plain.indices.argsort()
    labels = np.load(out / "labels.npy")
    assert labels.dtype == np.uint8
    assert labels.tolist() == plain.targets[order].tolist() * 2
    stated = json.loads((out / MANIFEST).read_text())
    assert stated["indices"] == plain.indices[order].tolist()
    assert (stated["split"], stated["severities"]) == ("test", [2, 5])
    assert [line.partition(",")[0] for line in told] == ["fog: 1 of 2", "pixelate: 2 of 2"]
    # images of another split are not among them
    validation = task.evaluation("validation", 12)
    with pytest.raises(DataError, match="`archive` must hold"):
        CorruptedSets(validation, study_seed=0, folder=None, archive=out).images("fog", 2)


def test_a_stopped_call_goes_on_with_the_first_missing_file(tmp_path: Path) -> None:
    made(tmp_path)
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "fog.npy").write_bytes(b"half")
    kept = (tmp_path / "pixelate.npy").stat().st_mtime_ns
    assert made(tmp_path)[0] == "1 of 2 files are there already"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole
    assert (tmp_path / "pixelate.npy").stat().st_mtime_ns == kept
    # further corruptions may come later
    made(tmp_path, corruptions="contrast")
    assert (tmp_path / "contrast.npy").exists()
    assert made(tmp_path, corruptions="fog,contrast") == ["2 of 2 files are there already"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "seed 0, here 7"),
        ({"images": 11}, "images 12, here 11"),
        ({"split": "validation"}, "split test, here validation"),
        ({"severities": "1"}, "severities [2, 5], here [1]"),
    ],
)
def test_a_folder_of_other_images_is_left_alone(tmp_path: Path, changes: dict, message: str) -> None:
    made(tmp_path, corruptions="contrast")
    with pytest.raises(InputError) as caught:
        made(tmp_path, **{"corruptions": "contrast", **changes})
    assert message in str(caught.value)


def test_images_of_other_corruption_code_are_not_mixed(tmp_path: Path) -> None:
    made(tmp_path, corruptions="contrast")
    stated = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**stated, "code": "0123abcd"}))
    with pytest.raises(InputError, match=r"one that this version of the corruptions began; found .*which another one"):
        made(tmp_path, corruptions="contrast")


def test_parts_that_a_killed_call_left_go_after_an_hour(tmp_path: Path) -> None:
    made(tmp_path, corruptions="contrast")
    old, new = tmp_path / ".fog.npy.abc.part", tmp_path / ".fog.npy.def.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    made(tmp_path, corruptions="contrast")
    assert [part.exists() for part in (old, new)] == [False, True]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(
        InputError, match=r"`--out` must be a new folder or one that this command began; found thesis\.tex"
    ):
        made(tmp_path)
    with pytest.raises(InputError, match="`--out` must be a folder that can be written"):
        made(tmp_path / "thesis.tex" / "digits-c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_sheet_shows_what_is_written(task: ClassificationTask, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    made(tmp_path / "c", sheet=sheet, severities="1,5")
    picture = np.asarray(Image.open(sheet).convert("RGB"))
    # two rows of three images, each plain and at two severities, enlarged twice
    assert picture.shape[0] > 2 * 64
    assert picture.shape[1] > 3 * 3 * 64
    plain = task.evaluation("test", 12)
    array = np.load(tmp_path / "c" / "fog.npy")
    order = plain.indices.argsort().tolist()
    enlarged = array[12 + order.index(0)].repeat(2, axis=0).repeat(2, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(picture[:, :, 0], (64, 64))
    found = (windows[:, :, ::21, ::21] == enlarged[::21, ::21, 0]).all(axis=(2, 3))
    assert any(np.array_equal(windows[row, column], enlarged[:, :, 0]) for row, column in np.argwhere(found))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (64, 96), (100, 300), (600, 400)])
def test_thumbnails_of_any_size_keep_their_shape(height: int, width: int) -> None:
    plain = np.zeros((2, height, width, 3), np.uint8)
    sheet = contact_sheet(
        plain, {"fog": {1: plain, 3: plain}}, ["a", "a title much longer than its columns" * 9], "heading"
    )
    dark = np.asarray(sheet).max(axis=2) == 0
    rows, columns = dark.sum(axis=0).max(), dark.sum(axis=1).max()
    assert 36 <= rows <= 144
    assert rows / (columns / 6) == pytest.approx(height / width, rel=0.05)


def test_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    arguments = ["--images", "4", "--corruptions", "extra", "--severities", "3", "--split", "validation"]
    arguments += ["--set", "study.seed=5"]
    done = CliRunner().invoke(app, ["corrupt", str(finished_run), "--out", str(tmp_path / "c"), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0
    assert done.stdout.split() == [str(tmp_path / "c")]
    assert "speckle_noise: 1 of 4" in done.stderr
    assert json.loads((tmp_path / "c" / MANIFEST).read_text())["seed"] == 5
    assert sorted(file.stem for file in (tmp_path / "c").glob("*.npy")) == sorted(
        ["speckle_noise", "gaussian_blur", "spatter", "saturate", "labels"]
    )


def test_names_and_severities_with_commas() -> None:
    assert parse_corruptions("all") == names("corruption")
    assert parse_corruptions("snow, fog,snow") == ["snow", "fog"]
    assert parse_severities(" 5,1,1 ") == [1, 5]


BAD = [
    ({"out": None}, "`--out` must name a folder unless `--sheet` names a file; found neither"),
    ({"corruptions": "foggy"}, 'found "foggy". Did you mean fog?'),
    ({"corruptions": "publishd"}, "Did you mean published?"),
    ({"corruptions": ","}, "must name at least one corruption"),
    ({"corruptions": "nowhere:rain"}, "must be importable"),
    ({"severities": "0"}, "`--severities` must be some of 1–5"),
    ({"severities": "1-5"}, "`--severities` must be some of 1–5"),
    ({"severities": ""}, "`--severities` must be some of 1–5"),
    ({"sheet": Path("sheet.jpeg")}, "`--sheet` must end in .png"),
    ({"sheet": Path("nowhere/sheet.png")}, "`--sheet` must lie in an existing folder"),
    ({"source": "digit"}, "Did you mean digits?"),
    ({"source": "."}, "without study.toml"),
    ({"frost": Path("nowhere"), "corruptions": "frost"}, "nowhere"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_wrong_arguments_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        made(**{"out": tmp_path / "c", **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
