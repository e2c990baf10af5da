"""Size and latency of really exported files, in ONNX Runtime."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from forgefront.compression.candidate import Candidate
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.objectives.base import Subject
from forgefront.objectives.latency import Latency
from forgefront.objectives.score import derive_all, measure_all
from forgefront.objectives.size import CompressionRatio, MACs
from forgefront.spaces.plan import TrialPlan


@pytest.fixture
def sparse(subject: Subject) -> Candidate:
    """The trained network with nine tenths of every weight set to zero."""
    network = copy.deepcopy(subject.candidate.model)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight[weight.abs() < weight.abs().flatten().quantile(0.9)] = 0.0
    return Candidate(model=network, latent=network, plan=TrialPlan())


def test_a_sparse_file_is_several_times_smaller_and_timed_beside_its_control(
    subject: Subject, sparse: Candidate, tmp_path: Path
) -> None:
    target = OnnxRuntimeCPU(rounds=4, maximum_seconds=0.2)
    example = subject.task.example
    control = {target.name: target.export(subject.candidate, tmp_path / "control", example)}
    trial = {target.name: target.export(sparse, tmp_path / "trial", example)}
    as_control = dataclasses.replace(subject, targets=[target], artefacts=control, control_artefacts=control)
    as_trial = dataclasses.replace(as_control, candidate=sparse, artefacts=trial)
    objectives = [CompressionRatio(), Latency()]
    control_raws, raws = measure_all(objectives, as_control), measure_all(objectives, as_trial)
    json.dumps([control_raws, raws], allow_nan=False)

    scores = derive_all(objectives, control_raws, control_raws)
    assert {name: score.value for name, score in scores.items()} == {"compression_ratio": 1.0, "latency": 1.0}
    assert control_raws["latency"]["latency_ms"] > 0.0

    scores = derive_all(objectives, raws, control_raws)
    assert scores["compression_ratio"].value > 3.0
    assert scores["compression_ratio"].details["unzipped_ratio"] == pytest.approx(1.0, abs=0.01)

    packed = CompressionRatio(of="packed").derive(raws["compression_ratio"], control_raws["compression_ratio"])
    assert packed.value == scores["compression_ratio"].details["packed_ratio"] > 3.0
    assert raws["compression_ratio"]["packed_bytes"] < raws["compression_ratio"]["zipped_bytes"]
    assert MACs().measure(as_trial) == MACs().measure(as_control)

    assert scores["latency"].value == pytest.approx(1.0 / raws["latency"]["speedup"])
    assert scores["latency"].details["latency_ms"] == raws["latency"]["latency_ms"]
