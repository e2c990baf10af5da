"""Checkpoints: what loads, and the one line that says why a file does not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from forgefront.studies.errors import ModelError
from forgefront.trainers.models import load_weights, with_normalization
from forgefront.trainers.models.digits_cnn import DigitsCNN, digits_cnn


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (os.environ["FORGEFRONT_TEST_MARK"],)


@pytest.fixture
def source() -> DigitsCNN:
    torch.manual_seed(1)
    return digits_cnn(10, width=4)


def normalization(value: float) -> dict[str, torch.Tensor]:
    return {f"normalize.{name}": torch.full((1, 3, 1, 1), value) for name in ("mean", "std")}


WRAPPINGS: dict[str, Callable[[dict], object]] = {
    "plain": dict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "data parallel": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "whole classifier": lambda state: {f"network.{key}": value for key, value in state.items()} | normalization(0.5),
    "wrapped classifier": lambda state: {
        f"module.{key}": value
        for key, value in ({f"network.{key}": value for key, value in state.items()} | normalization(0.5)).items()
    },
    "no counters": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("wrapped_model", [False, True])
def test_what_loads(tmp_path: Path, source: DigitsCNN, wrapping: str, wrapped_model: bool) -> None:
    torch.save(WRAPPINGS[wrapping](source.state_dict()), tmp_path / "weights.pt")
    network = digits_cnn(10, width=4)
    load_weights(
        with_normalization(network, (0.5,) * 3, (0.5,) * 3) if wrapped_model else network, tmp_path / "weights.pt"
    )
    for key, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("mean", "found"), [((0.5, 0.5, 0.4), r"found mean \[0.5, 0.5, 0.4\], std \[0.5, 0.5, 0.5\]"), (None, "found none")]
)
def test_weights_trained_behind_another_normalisation_are_refused(
    tmp_path: Path, source: DigitsCNN, prefix: str, mean: tuple[float, float, float] | None, found: str
) -> None:
    torch.manual_seed(2)
    classifier = with_normalization(source, (0.25,) * 3, (0.5,) * 3)
    torch.save({f"{prefix}{key}": value for key, value in classifier.state_dict().items()}, tmp_path / "weights.pt")
    model = with_normalization(digits_cnn(10, width=4), mean, mean and (0.5,) * 3)
    before = model.network.linear.weight.clone()
    with pytest.raises(ModelError, match=rf"normalisation they were trained with; {found}. Set") as caught:
        load_weights(model, tmp_path / "weights.pt")
    assert "`task.model.mean = [0.25, 0.25, 0.25]` and `task.model.std = [0.5, 0.5, 0.5]`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.network.linear.weight, before)


def test_safetensors_loads(tmp_path: Path, source: DigitsCNN) -> None:
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = digits_cnn(10, width=4)
    load_weights(network, tmp_path / "weights.safetensors")
    assert torch.equal(network.linear.weight, source.linear.weight)


def _save(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def _pickle(path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump({"weight": RunsCode()}, file, protocol=2)


def _truncate(path: Path) -> None:
    torch.save(digits_cnn(10).state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])


FAULTS: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("absent", "a.pt", lambda path: None, "must be a file; found none at"),
    ("folder", "a.pt", lambda path: path.mkdir(), "must be a file"),
    ("empty", "a.pt", lambda path: path.write_bytes(b""), "could not be read"),
    ("junk", "a.pt", lambda path: path.write_bytes(b"not a checkpoint"), "must"),
    ("cut off", "a.pt", _truncate, "could not be read"),
    ("junk safetensors", "a.safetensors", lambda path: path.write_bytes(b"123"), "must be a safetensors file"),
    ("torch file named safetensors", "a.safetensors", _truncate, "must be a safetensors file"),
    ("a pickled model", "a.pt", _save(digits_cnn(10)), "must hold only tensors; found pickled objects"),
    ("code", "a.pt", _save({"state_dict": RunsCode()}), "must hold only tensors; found pickled objects"),
    ("code in a plain pickle", "a.pkl", _pickle, "must hold only tensors; found pickled objects"),
    ("a list", "a.pt", _save([1, 2]), "must hold named tensors; found list"),
    ("no tensors", "a.pt", _save({"epoch": 1}), "must hold named tensors; found a mapping with the keys epoch"),
    ("other width", "a.pt", _save(digits_cnn(10, width=8).state_dict()), r"of another shape \(stem.conv.weight is"),
    (
        "other classes",
        "a.pt",
        _save(digits_cnn(7, width=4).state_dict()),
        r"2 of another shape \(linear.weight is \(7,",
    ),
    (
        "renamed",
        "a.pt",
        _save({key.replace("linear", "linea"): value for key, value in digits_cnn(10, width=4).state_dict().items()}),
        r"2 missing \(linear.weight, linear.bias\); 2 unexpected .*the model has linear.weight",
    ),
    ("half", "a.pt", _save({"linear.weight": torch.zeros(10, 12)}), r"\d+ missing \(stem.conv.weight, .*, …\)"),
]


@pytest.mark.parametrize(("name", "make", "reason"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], None], reason: str
) -> None:
    mark = tmp_path / "executed"
    monkeypatch.setenv("FORGEFRONT_TEST_MARK", str(mark))
    make(tmp_path / name)
    model = digits_cnn(10, width=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=reason) as caught:
        load_weights(model, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
