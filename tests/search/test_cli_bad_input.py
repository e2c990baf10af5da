"""Everything that a person can get wrong on the command line: exit code 2, one clear line, no traceback."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from forgefront.search.cli import main


def forgefront(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["forgefront", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def settings(*items: str) -> list[str]:
    return [part for item in items for part in ("--set", item)]


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def arrays(**changes: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pixels = np.zeros((8, 32, 32, 3), np.uint8)
        labels = np.arange(8) % 2
        content = {
            "train_images": pixels,
            "train_labels": labels,
            "test_images": pixels,
            "test_labels": labels,
            **changes,
        }
        np.savez(folder / "data.npz", **{key: value for key, value in content.items() if value is not None})

    return make


def nothing(folder: Path) -> None:
    """The fault lies in the arguments alone."""


ARRAYS = settings("task.data.name=arrays", "task.data.path=data.npz", "task.data.validation.count=2")
RESNET = settings(
    "task.model.name=resnet20",
    "task.model.weights=weights.safetensors",
    'task.data.validation={from="test", count=100}',
)

CASES: list[tuple[str, Callable[[Path], object], list[str], str]] = [
    # the command line itself
    ("no such command", nothing, ["rum", "digits"], "Did you mean"),
    ("no study named", nothing, ["run"], "STUDY"),
    ("no such option", nothing, ["run", "digits", "--trails", "3"], "--trails"),
    ("zero trials", nothing, ["run", "digits", "--trials", "0"], "--trials"),
    ("trials not a number", nothing, ["run", "digits", "--trials", "many"], "--trials"),
    ("negative timeout", nothing, ["run", "digits", "--timeout", "-1"], "--timeout"),
    ("zero workers", nothing, ["run", "digits", "--workers", "0"], "--workers"),
    ("unknown engine", nothing, ["run", "digits", "--engine", "serail"], "serial"),
    ("unknown table format", nothing, ["front", "runs/digits", "--format", "xml"], "--format"),
    ("deploy without a folder", nothing, ["deploy", "runs/digits", "--trial", "1"], "--out"),
    # study files
    ("unknown study", nothing, ["run", "digit"], "Did you mean digits"),
    ("missing file", nothing, ["run", "nowhere.toml"], "nowhere.toml"),
    ("a folder as study", lambda f: (f / "s.toml").mkdir(), ["run", "s.toml"], "s.toml"),
    ("not TOML", write("s.toml", "a = = 3"), ["run", "s.toml"], "line 1"),
    ("not text", lambda f: (f / "s.toml").write_bytes(b"\xff\xfe\x00"), ["run", "s.toml"], "s.toml"),
    ("unknown key", nothing, ["run", "digits", *settings("training.epoch=3")], "epochs"),
    ("wrong type", nothing, ["run", "digits", *settings('training.epochs="three"')], "training.epochs"),
    ("bits that no runtime has", nothing, ["run", "digits", *settings("space.weight_bits=[8, 12]")], "found 12"),
    ("one cluster", nothing, ["run", "digits", *settings("space.clusters=[1]")], "space.clusters"),
    ("range upside down", nothing, ["run", "digits", *settings("space.augmentation_strength={low=1, high=0}")], "high"),
    ("epsilon without an attack", nothing, ["run", "digits", *settings('training.epsilon="8/255"')], "epsilon"),
    ("unknown sampler option", nothing, ["run", "digits", *settings("search.startups=3")], "startup"),
    ("a sampler that refuses its options", nothing, ["run", "digits", *settings('search={sampler = "nsga2", population = 2, crossover = "spx", seeds = 3, trials = 9}')], "population size"),
    ("unknown objective option", nothing, ["run", "digits", *settings("objectives[1].severity=[3]")], "severities"),
    ("unknown objective", nothing, ["run", "digits", *settings("objectives[1].name=mcee")], "mce"),
    ("four-bit outputs on a GPU", nothing, ["run", "digits", *settings("target[0].name=torch-cuda", "space.activation_bits=[4]")], "torch-cuda"),
    ("unknown sampler", nothing, ["run", "digits", *settings("search.sampler=nsga4")], "nsga2"),
    ("unknown model", nothing, ["run", "digits", *settings("task.model.name=resnet21")], "resnet20"),
    ("unknown torchvision model", nothing, ["run", "digits", *settings("task.model.name=torchvision:resnet19")], "resnet1"),
    ("no such module", nothing, ["run", "digits", *settings("task.model.name=nowhere:model")], "nowhere"),
    ("override without a value", nothing, ["run", "digits", "--set", "training.epochs"], "--set"),
    ("init over a file", write("s.toml", ""), ["init", "s.toml"], "must not exist"),
    ("init into nowhere", nothing, ["init", "no/where/s.toml"], "does not exist"),
    # device, data, checkpoint, model
    ("a device that is none", nothing, ["run", "digits", *settings("training.device=tpu")], "training.device"),
    ("missing CIFAR-10", nothing, ["run", "digits", *settings("task.data.name=cifar10", "task.data.root=empty")], "cifar-10-batches-bin"),
    ("missing arrays", nothing, ["run", "digits", *ARRAYS], "data.npz"),
    ("arrays that are no archive", write("data.npz", "hello"), ["run", "digits", *ARRAYS], "data.npz"),
    ("arrays without labels", arrays(train_labels=None), ["run", "digits", *ARRAYS], "train_labels"),
    ("more labels than images", arrays(train_labels=np.arange(9) % 2), ["run", "digits", *ARRAYS], "train_labels"),
    ("labels that are pickles", arrays(train_labels=np.array([{}] * 8)), ["run", "digits", *ARRAYS], "data.npz"),
    ("validation larger than the data", nothing, ["run", "digits", *settings("task.data.validation.count=99999")], "count"),
    ("missing weights", nothing, ["run", "digits", *RESNET], "weights.safetensors"),
    ("damaged weights", write("weights.safetensors", "hello"), ["run", "digits", *RESNET], "weights.safetensors"),
    ("weights of another model", lambda f: _save(f, {"conv.weight": torch.zeros(1)}), ["run", "digits", *RESNET], "conv"),
    ("a model that is not a CNN", write("mlp.py", "import torch\ndef net(n): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, n))"), ["run", "digits", *settings("task.model.name=mlp:net")], "must be a CNN"),
    ("inspect a shape that is none", nothing, ["inspect", "resnet20", "--input", "32"], "--input"),
    ("inspect what is no model", nothing, ["inspect", "json:dumps"], "must return a torch.nn.Module"),
    ("inspect nothing known", nothing, ["inspect", "resnet2O"], "resnet20"),
    # runs
    ("no run there", nothing, ["status", "runs/none"], "runs/none"),
    ("resume nothing", nothing, ["resume", "runs/none"], "runs/none"),
    ("a folder that is no run", lambda f: (f / "runs").mkdir(), ["front", "runs"], "runs"),
]  # fmt: skip


def _save(folder: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / "weights.safetensors")


def told_once(code: int, out: str, err: str, expected: str) -> None:
    assert code == 2, err
    assert out == ""
    assert expected in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("forgefront: ")


@pytest.mark.parametrize(
    ("prepare", "arguments", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_wrong_input_is_told_in_one_line(
    prepare: Callable[[Path], object],
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    told_once(*forgefront(capsys, monkeypatch, *arguments), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("changes", [["training.device=cuda"], ["target[0].name=torch-cuda"]])
def test_a_gpu_where_there_is_none(
    changes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told_once(*forgefront(capsys, monkeypatch, "run", "digits", *settings(*changes)), "CUDA")


def overwrite(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / file).write_bytes(content) and None


def foreign_database(run: Path) -> None:
    (run / "study.db").unlink()
    with sqlite3.connect(run / "study.db") as connection:
        connection.execute("create table notes (line text)")


RUN_CASES: list[tuple[str, Callable[[Path], object], list[str], str]] = [
    ("a database that is none", overwrite("study.db", b"not a database, but long enough to be read as one" * 9), ["status"], "study.db"),
    ("a foreign database", foreign_database, ["front"], "study.db"),
    ("no database", lambda run: (run / "study.db").unlink(), ["front"], "study.db"),
    ("no database, resumed", lambda run: (run / "study.db").unlink(), ["resume"], "another URL"),
    ("no control, more trials", lambda run: shutil.rmtree(run / "trials" / "0"), ["resume", "--trials", "6"], "control"),
    ("a damaged candidate", overwrite("trials/1/packed.safetensors", b"hello"), ["deploy", "--trial", "1", "--out", "bundle"], "damaged"),
    ("a damaged description", overwrite("trials/1/candidate.json", b"{}"), ["deploy", "--trial", "1", "--out", "bundle"], "damaged"),
    ("no study file", lambda run: (run / "study.toml").unlink(), ["resume"], "study.toml"),
    ("a damaged study file", overwrite("study.toml", b"[study"), ["resume"], "study.toml"),
    ("a damaged database, resumed", overwrite("study.db", b"not a database, but long enough" * 9), ["resume"], "study.db"),
    ("no such trial to deploy", nothing, ["deploy", "--trial", "77", "--out", "bundle"], "77"),
    ("no such trial to validate", nothing, ["validate", "--trial", "77"], "77"),
    ("a condition on nothing known", nothing, ["pick", "--where", "acuracy >= 0.5"], "Did you mean accuracy"),
    ("a condition that is none", nothing, ["pick", "--where", "accuracy is good"], "accuracy is good"),
    ("a condition that nothing meets", nothing, ["pick", "--where", "accuracy >= 2"], "leaves no member"),
    ("a preference that is none", nothing, ["pick", "--prefer", "nice"], "--prefer"),
    ("a plot of no known kind", nothing, ["front", "--plot", "front.xyz"], "front.xyz"),
    ("a plot into nowhere", nothing, ["front", "--plot", "no/where/front.png"], "no/where"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "arguments", "expected"), [case[1:] for case in RUN_CASES], ids=[case[0] for case in RUN_CASES]
)
def test_wrong_runs_are_told_in_one_line(
    damage: Callable[[Path], object],
    arguments: list[str],
    expected: str,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished_run, tmp_path / "runs" / "small")
    monkeypatch.chdir(tmp_path)
    damage(tmp_path / "runs" / "small")
    command, *options = arguments
    told_once(*forgefront(capsys, monkeypatch, command, "runs/small", *options), expected)


def test_a_bundle_is_never_written_over(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    arguments = ["deploy", str(finished_run), "--trial", "1", "--out", str(tmp_path / "out")]
    told_once(*forgefront(capsys, monkeypatch, *arguments), "--out")


def test_a_changed_study_is_refused_with_its_difference(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "runs" / "small")
    monkeypatch.chdir(tmp_path)
    study = (finished_run / "study.toml").read_text()
    assert "batch_size = 32" in study
    (tmp_path / "changed.toml").write_text(study.replace("batch_size = 32", "batch_size = 16"))
    told_once(*forgefront(capsys, monkeypatch, "run", "changed.toml"), "training.batch_size: 32 -> 16")
    assert (tmp_path / "runs" / "small" / "study.toml").read_text() == study


def test_all_faults_of_a_study_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = settings('training.epochs="three"', "objectives[0].name=acuracy", "space.weight_bits=[12]")
    code, _, err = forgefront(capsys, monkeypatch, "run", "digits", *changes)
    assert code == 2
    assert len(err.strip().splitlines()) == 3
    assert all(key in err for key in ("training.epochs", "objectives[0]", "space.weight_bits[0]"))
