"""Objectives measured on a really trained network, and the identities of what is derived."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from forgefront.objectives.accuracy import Accuracy, WorstClassAccuracy
from forgefront.objectives.adversarial import PGDAccuracy
from forgefront.objectives.base import Objective, Subject
from forgefront.objectives.corruption import MeanCorruptionError
from forgefront.objectives.latency import Latency
from forgefront.objectives.score import derive_all, measure_all
from forgefront.objectives.size import CompressionRatio, MACs, count_macs
from forgefront.studies.errors import InputError, RunError, StudyFileError
from forgefront.studies.registry import names, resolve, validate_options


def test_measured_numbers_survive_json_and_score_alike(subject: Subject) -> None:
    objectives: list[Objective] = [
        Accuracy(),
        WorstClassAccuracy(),
        MeanCorruptionError(severities=(1, 4), images=60, corruptions=["gaussian_noise", "fog", "pixelate"]),
        PGDAccuracy(images=40, steps=3, epsilon=4 / 255),
        MACs(),
    ]
    raws = measure_all(objectives, subject)
    restored = json.loads(json.dumps(raws, allow_nan=False))
    assert restored == raws
    scores = derive_all(objectives, restored, restored)
    assert list(scores) == ["accuracy", "worst_class_accuracy", "mce", "pgd_accuracy", "macs"]
    json.dumps([score.to_dict() for score in scores.values()], allow_nan=False)
    assert scores["mce"].value == pytest.approx(100.0, abs=1e-9)
    assert scores["worst_class_accuracy"].value <= scores["accuracy"].value
    assert scores["pgd_accuracy"].value <= scores["accuracy"].value + 0.1


def test_macs_of_layers_counted_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 16 * 16, 10),
    )
    expected = 8 * 16 * 16 * 27 + 8 * 8 * 8 * 9 + 8 * 8 * 8 * 4 * 4 + 4 * 16 * 16 * 10
    network.train()
    assert count_macs(network, torch.zeros(1, 3, 16, 16)) == expected
    assert network.training
    assert not network[0]._forward_hooks


def test_macs_ignore_zeros_and_are_compared_with_the_control(subject: Subject) -> None:
    raw = MACs().measure(subject)
    score = MACs().derive({"macs": raw["macs"] // 2}, raw)
    assert isinstance(raw["macs"], int)
    assert score.value == raw["macs"] // 2
    assert score.details["fraction_of_control"] == pytest.approx(0.5, abs=1e-3)


def test_compression_ratio_is_control_over_candidate() -> None:
    control = {"target": "onnxruntime-cpu", "bytes": 1000, "zipped_bytes": 900}
    trial = {"target": "onnxruntime-cpu", "bytes": 400, "zipped_bytes": 90}
    assert CompressionRatio().derive(control, control).value == 1.0
    score = CompressionRatio().derive(trial, control)
    assert score.value == 10.0
    assert score.details["unzipped_ratio"] == 2.5
    assert score.details["packed_ratio"] is None


def test_compression_ratio_of_packed_candidates() -> None:
    control = {
        "target": "onnxruntime-cpu",
        "bytes": 1000,
        "zipped_bytes": 900,
        "packed_bytes": 990,
        "shannon_bytes": 960.0,
    }
    trial = {"target": "onnxruntime-cpu", "bytes": 400, "zipped_bytes": 90, "packed_bytes": 66, "shannon_bytes": 48.0}
    ratios = {"zipped_ratio": 10.0, "unzipped_ratio": 2.5, "packed_ratio": 15.0, "shannon_ratio": 20.0}
    sizes = {"zipped_bytes": 90, "packed_bytes": 66, "shannon_bytes": 48.0}
    for of, value in (("zipped", 10.0), ("packed", 15.0)):
        assert CompressionRatio(of=of).derive(control, control).value == 1.0
        score = CompressionRatio(of=of).derive(trial, control)
        assert score.value == value
        assert score.details == ratios | sizes
    without = {"target": "onnxruntime-cpu", "bytes": 400, "zipped_bytes": 90}
    assert CompressionRatio().derive(without, control).details["packed_ratio"] is None
    with pytest.raises(RunError, match="`of` must be zipped"):
        CompressionRatio(of="packed").derive(without, control)
    with pytest.raises(InputError, match="`of` must be zipped or packed; found 'tar'"):
        CompressionRatio(of="tar")


def latency_raw(speedup: float, low: float, high: float, *, against_itself: bool = False) -> dict[str, Any]:
    times = {"latency_ms": 2.0 / speedup, "reference_ms": 2.0, "speedup": speedup, "speedup_iqr": [low, high]}
    return {**times, "rounds": 25, "target": "onnxruntime-cpu", "against_itself": against_itself}


def test_latency_is_the_inverse_of_the_paired_speedup() -> None:
    score = Latency().derive(latency_raw(4.0, 3.8, 4.2), {})
    assert score.value == 0.25
    assert score.details["latency_ms"] == 0.5
    assert score.standard_error is not None
    assert 0.0 < score.standard_error < 0.025
    assert Latency().derive(latency_raw(1.03, 0.9, 1.1, against_itself=True), {}).value == 1.0


def test_an_unknown_target_is_named(subject: Subject) -> None:
    for objective in (CompressionRatio(target="onxruntime-cpu"), Latency(target="onxruntime-cpu")):
        with pytest.raises(InputError, match="`target` must be one of the study's targets"):
            objective.measure(subject)


@pytest.mark.parametrize("name", names("objective"))
def test_every_objective_names_itself_and_bounds_its_values(name: str) -> None:
    objective = resolve("objective", name)(**validate_options("objective", name, {}))
    assert objective.name == name
    assert objective.direction in ("minimize", "maximize")
    control = {"mce": 100.0, "relative_mce": 100.0, "macs": 1e6, "latency": 1.0}.get(name, 0.9)
    worst = objective.worst(control)
    assert worst > control if objective.direction == "minimize" else worst < control


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mce", {"severities": []}),
        ("mce", {"severities": [0]}),
        ("mce", {"severities": [1, 6]}),
        ("mce", {"severities": 3}),
        ("mce", {"images": 0}),
        ("mce", {"corruptions": []}),
        ("mce", {"baseline": 3}),
        ("mce", {"severity": [3]}),
        ("mce", {"corruptions": "unseen"}),
        ("mce", {"archive": 3}),
        ("relative_mce", {"frost": True}),
        ("mean_corruption_error", {"baseline": "alexnet"}),
        ("worst_class_corrupted_accuracy", {"baseline": "alexnet"}),
        ("accuracy", {"images": -1}),
        ("pgd_accuracy", {"epsilon": 8}),
        ("pgd_accuracy", {"steps": 0}),
        ("pgd_accuracy", {"restarts": 0}),
        ("pgd_accuracy", {"epsilon": "8-255"}),
        ("macs", {"target": "onnxruntime-cpu"}),
        ("latency", {"target": 1}),
    ],
)
def test_wrong_options_are_refused_with_one_line_each(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(StudyFileError) as caught:
        validate_options("objective", name, options, "objectives[0]")
    assert len(caught.value.lines) == 1
    assert next(iter(options)) in caught.value.lines[0]


def test_options_of_a_study_file_reach_the_objective() -> None:
    options = validate_options("objective", "pgd_accuracy", {"epsilon": "4/255", "steps": 5})
    assert PGDAccuracy(**options).step_size == pytest.approx(2 / 255)
    options = validate_options("objective", "mce", {"severities": [3, 1, 3]})
    assert MeanCorruptionError(**options).severities == [1, 3]
