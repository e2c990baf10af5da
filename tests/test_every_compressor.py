"""Small real studies over every compressor and over techniques: each trial trains, exports, agrees and is scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from forgefront import load_run
from forgefront.search.launch import launch
from forgefront.spaces.plan import TrialPlan

STUDY = """
[study]
name = "small"
seed = 5

[task]
data = { name = "digits", train_images = 192, validation = { from = "train", count = 100 } }
model = { name = "digits-cnn" }

[training]
steps = 8
batch_size = 32
threads = 1

@SPACE@

[[objectives]]
name = "accuracy"

[[objectives]]
name = "compression_ratio"

[[metrics]]
name = "macs"

[search]
sampler = "random"
seeds = 3
trials = @TRIALS@
"""

EVERYTHING = """
[space]
granularity = "layer"
clusters = ["none", 16]
weight_bits = [8, 4]
activation_bits = [8]
quantization = ["aware", "post"]
scales = ["range", "learned"]

[space.sparsity]
high = 0.8
structure = ["weight", "filter", "2:4"]
structure_per = "group"
residual = "share"
mask = ["magnitude", "learned"]
target = { low = 0.3, high = 0.9 }
strength = { low = 1.0, high = 9.0 }
"""

TECHNIQUES = ["technique-16", "technique-7", "technique-9"]


def finished(folder: Path, space: str, trials: int) -> list[FrozenTrial]:
    """The trials of a study run in `folder`, the current directory; every one of them must be complete."""
    (folder / "small.toml").write_text(STUDY.replace("@SPACE@", space).replace("@TRIALS@", str(trials)))
    launch("small.toml")
    found = load_run(folder / "runs" / "small").optuna_trials()
    reasons = [trial.user_attrs.get("reason") for trial in found if trial.state != TrialState.COMPLETE]
    assert reasons == []
    return found


def test_every_compressor_in_one_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = finished(tmp_path, EVERYTHING, 9)
    assert len({str(trial.params) for trial in found}) == 9
    plans = [TrialPlan.from_dict(trial.user_attrs["plan"]) for trial in found]
    layers = [layer for plan in plans for layer in plan.layers.values()]
    pruned = [layer.pruning for layer in layers if layer.pruning]
    quantized = [layer.quantization for layer in layers if layer.quantization]
    assert {(part.structure, part.mask) for part in pruned} == {
        ("weight", "magnitude"),
        ("weight", "learned"),
        ("filter", "magnitude"),
        ("filter", "learned"),
        ("2:4", "magnitude"),
    }
    assert {(part.mode, part.scales) for part in quantized} == {
        ("aware", "range"),
        ("aware", "learned"),
        ("post", "range"),
    }
    # one plan holds several kinds side by side
    assert any(len({layer.pruning.structure for layer in plan.layers.values() if layer.pruning}) == 3 for plan in plans)


def test_a_study_of_techniques_tries_each_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = finished(tmp_path, f"[space]\ntechniques = {TECHNIQUES}", 4)
    assert [trial.params.get("technique") for trial in found] == [None, *TECHNIQUES]
    assert [trial.user_attrs["role"] for trial in found] == ["control", "seed", "seed", "seed"]
    # integers and clusters weigh less than simulated floats
    ratio = {trial.params.get("technique"): trial.values[1] for trial in found}
    assert ratio[None] == pytest.approx(1.0)
    assert ratio["technique-16"] > ratio["technique-9"] > 1.0
