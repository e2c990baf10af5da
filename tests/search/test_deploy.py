"""From a real run to a bundle: it loads elsewhere, reaches what it states, and never names code to run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from forgefront import load_bundle, load_run
from forgefront.compression.candidate import load_candidate, save_candidate
from forgefront.compression.layer_codes import LayerCodes
from forgefront.compression.packing import packed_sizes, read_packed
from forgefront.search.card import _augmentation
from forgefront.search.deploy import deploy
from forgefront.search.record import FINGERPRINT
from forgefront.search.trial import TrialContext
from forgefront.spaces.plan import Recipe
from forgefront.studies.errors import DataError, ParityError, RunError


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deployed") / "bundle"
    lines = deploy(load_run(finished_run), 2, out)
    assert lines[-1].startswith("deployed")
    return out


def test_a_bundle_holds_what_is_promised(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {"model.onnx", "model.safetensors", "plan.json", "metrics.json", "card.md"}


def test_the_onnx_file_reaches_its_stated_accuracy_with_numpy_and_onnxruntime_alone(
    finished_run: Path, bundle: Path, tmp_path: Path
) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text())["test"]
    test = TrialContext(finished_run, 1, load_run(finished_run).study).task.evaluation("test")
    place = {index: row for row, index in enumerate(test.indices.tolist())}
    rows = [place[index] for index in metrics["indices"]]
    np.savez(tmp_path / "images.npz", images=test.images[rows].numpy(), labels=test.targets[rows].numpy())
    script = (
        "import sys, numpy as np, onnxruntime\n"
        "data = np.load(sys.argv[2])\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "logits = session.run(None, {'images': data['images'].astype(np.float32) / 255})[0]\n"
        "assert 'torch' not in sys.modules and 'forgefront' not in sys.modules\n"
        "print((logits.argmax(1) == data['labels']).mean())"
    )
    command = [sys.executable, "-c", script, str(bundle / "model.onnx"), str(tmp_path / "images.npz")]
    reached = float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    assert reached == pytest.approx(metrics["accuracy"], abs=0.002)


def test_the_torch_module_is_the_candidate(finished_run: Path, bundle: Path) -> None:
    context = TrialContext(finished_run, 1, load_run(finished_run).study)
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(load_bundle(bundle)(images), context.candidate(2).model(images))


def test_the_onnx_file_is_integer_and_says_nothing_of_this_machine(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer)
    assert str(Path.home()).encode() not in (bundle / "model.onnx").read_bytes()
    assert not model.metadata_props


def test_the_card_states_the_test_accuracy(bundle: Path) -> None:
    accuracy = json.loads((bundle / "metrics.json").read_text())["test"]["accuracy"]
    card = (bundle / "card.md").read_text()
    assert f"{accuracy:.2%}" in card
    strength = json.loads((bundle / "plan.json").read_text())["plan"]["recipe"]["augmentation_strength"]
    assert ("no augmentation" in card) == (strength == 0.0)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (Recipe("naturalistic", 0.5, augmentation="augmix"), "augmentation augmix at strength 0.5"),
        (Recipe("adversarial", method="n-fgsm", epsilon=0.03), "no augmentation"),
    ],
)
def test_the_card_names_an_augmentation_where_there_was_one(recipe: Recipe, told: str) -> None:
    assert _augmentation(recipe) == told


def test_the_torch_side_is_packed_and_its_size_stated(finished_run: Path, bundle: Path) -> None:
    metrics, card = json.loads((bundle / "metrics.json").read_text()), (bundle / "card.md").read_text()
    sizes = packed_sizes(TrialContext(finished_run, 1, load_run(finished_run).study).candidate(2))
    assert metrics["packed_bytes"] == sizes.total_bytes == (bundle / "model.safetensors").stat().st_size
    assert metrics["shannon_bytes"] == round(sizes.shannon_bytes) < metrics["packed_bytes"]
    assert metrics["onnx_bytes"] == (bundle / "model.onnx").stat().st_size
    assert metrics["packed_bytes"] < metrics["onnx_zipped_bytes"]
    for key in ("packed_bytes", "onnx_zipped_bytes", "shannon_bytes"):
        assert f"| {metrics[key]:,} |" in card


def test_a_bundle_of_plain_weights_loads_as_before(bundle: Path, tmp_path: Path) -> None:
    plan = json.loads((bundle / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"version": 1}))
    save_file(read_packed(bundle / "model.safetensors").state, tmp_path / "model.safetensors")
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path)(images), load_bundle(bundle)(images))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"hello", lambda data: data[:-1] + b"~", None])
def test_damaged_weights_of_a_bundle_are_told_in_one_line(bundle: Path, tmp_path: Path, damage) -> None:
    (tmp_path / "plan.json").write_bytes((bundle / "plan.json").read_bytes())
    if damage is not None:
        (tmp_path / "model.safetensors").write_bytes(damage((bundle / "model.safetensors").read_bytes()))
    with pytest.raises(RunError, match=r"model\.safetensors") as caught:
        load_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_bundle_of_user_code_runs_none_of_it(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["architecture"]["name"] = "os:getcwd"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match="pass `build`"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("damage", ["{", "{}", '{"version": 99}'])
def test_a_damaged_bundle_is_told_in_one_line(bundle: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "plan.json").write_text(damage)
    with pytest.raises(RunError) as caught:
        load_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_bundle_that_disagrees_is_refused_and_leaves_nothing(finished_run: Path, tmp_path: Path) -> None:
    """The stored codes are not those of the stored weights, so that the exported file computes something else."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    task = TrialContext(finished_run, 1, load_run(finished_run).study).task
    candidate = load_candidate(run / "trials" / "2", task.build_model, task.example)
    assert candidate.codes
    flipped = {
        name: LayerCodes(torch.flip(one.codes, [0]), one.scale, one.bits) for name, one in candidate.codes.items()
    }
    save_candidate(dataclasses.replace(candidate, codes=flipped), run / "trials" / "2")
    with pytest.raises(ParityError, match="equal predictions"):
        deploy(load_run(run), 2, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_frames_hold_every_trial_and_only_the_front(finished_run: Path) -> None:
    run = load_run(finished_run)
    trials, front = run.trials(), run.front()
    assert trials["number"].tolist() == [0, 1, 2, 3]
    assert {"accuracy", "accuracy_se", "mce", "compression_ratio", "latency", "latency_ms", "macs"} <= set(trials)
    assert front["on_front"].all()
    assert front["accuracy"].is_monotonic_decreasing


def test_what_objectives_read_is_not_needed_for_a_bundle(finished_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "small"
    shutil.copytree(finished_run, moved)
    text = (moved / "study.toml").read_text()
    added = (
        f'[[metrics]]\nname = "mean_corruption_error"\narchive = "{tmp_path / "gone"}"\nfrost = "{tmp_path / "gone"}"\n'
    )
    (moved / "study.toml").write_text(f"{text}\n{added}")
    run = load_run(moved)
    context = TrialContext(moved, 1, run.study)
    fingerprint = context.problem(None).fingerprint
    assert context.agree(fingerprint, split=None) == []
    with pytest.raises(DataError, match="`archive` must be a folder"):
        context.agree(fingerprint)
    with pytest.raises(DataError, match="`archive` must be a folder"):
        TrialContext(moved, 1).problem()
    # as of a run that was scored on it
    read = {
        **fingerprint,
        "inputs": {**fingerprint["inputs"], "objectives": {"mean_corruption_error": {"archive": "abc"}}},
    }
    run.record.set_user_attr(FINGERPRINT, read)
    assert deploy(load_run(moved), 2, tmp_path / "bundle")[-1].startswith("deployed")
