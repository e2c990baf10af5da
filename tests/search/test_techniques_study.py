"""A study of techniques evaluates each of them once, and its test-split table compares them with standard errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from forgefront import load_run
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.search.launch import launch
from forgefront.search.run_folder import RunFolder
from forgefront.search.tables import render
from forgefront.search.trial import TrialContext
from forgefront.search.validate import validate
from forgefront.search.validation.protocol import protocol_of
from forgefront.studies.errors import TargetError
from forgefront.studies.load import load_study, study_to_toml
from forgefront.trainers.models.digits_cnn import digits_cnn

STUDY = """
[study]
name = "compared"

[task]
data = { name = "digits", train_images = 64, validation = { from = "test", count = 60 } }
model = { name = "digits-cnn", weights = "start.safetensors" }

[training]
steps = 2
batch_size = 16
threads = 1

[space]
techniques = ["technique-2", "technique-1", "technique-7"]

[[objectives]]
name = "accuracy"

[[objectives]]
name = "mce"
severities = [3]
images = 32
corruptions = ["contrast"]
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished study of three techniques, from a checkpoint."""
    folder = tmp_path_factory.mktemp("techniques")
    save_file(digits_cnn(10).state_dict(), folder / "start.safetensors")
    (folder / "compared.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch("compared.toml")
    return folder / "runs" / "compared"


def problem_of(folder: Path, *overrides: str):
    study = load_study("digits-techniques", overrides=overrides)
    return TrialContext(RunFolder.create(folder / "run", study_to_toml(study)).path, 1, study).problem()


@pytest.mark.parametrize("search", [(), ("search.seeds=2",), ("search.sampler=tpe", "search.trials=5")])
def test_every_technique_is_a_seed_whatever_the_search_says(tmp_path: Path, search: tuple[str, ...]) -> None:
    assert problem_of(tmp_path, *search).seeds == [{"technique": f"technique-{code}"} for code in range(1, 17)]


def test_a_target_without_eight_bits_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(OnnxRuntimeCPU, "minimum_activation_bits", 32)
    with pytest.raises(TargetError, match="found 8"):
        problem_of(tmp_path)


def test_exactly_the_techniques_run_in_order(compared: Path) -> None:
    trials = load_run(compared).trials()
    assert trials["role"].tolist() == ["control", "seed", "seed", "seed"]
    assert trials["technique"].tolist()[1:] == ["technique-2", "technique-1", "technique-7"]


def test_validation_names_techniques_and_trains_no_control_twice(compared: Path) -> None:
    run, said = load_run(compared), list[str]()
    protocol = protocol_of(run.study, corruptions="none", attack="none")
    frame = validate(run, [1, 2, 3], protocol=protocol, say=said.append).frame
    # techniques 1 and 2 leave the checkpoint as it is, which needs no control of its own
    assert frame["role"].tolist() == ["control", "trial", "trial", "trial"]
    head, *rows = render(frame, run.metrics, "table").splitlines()
    assert head.split() == ["number", "technique", "accuracy", "±", "mCE", "±"]
    for row, title in zip(rows, ["control", "2 Quantization Int8", "1 Original", "7 Sparsity"], strict=True):
        assert title in row
