"""The GPU target on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate
from forgefront.compression.targets.torch_cuda import TorchCUDA
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.errors import TargetError
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

IMAGES = np.random.default_rng(0).random((128, 3, 32, 32), dtype=np.float32)


@pytest.fixture
def candidate() -> Candidate:
    torch.manual_seed(0)
    model = resnet20(10).eval().cuda()
    return Candidate(model, model, TrialPlan())


@pytest.fixture
def compressed() -> Candidate:
    """Half of the inner filters removed, eight bits everywhere."""
    torch.manual_seed(0)
    layers = inspect_layers(resnet20(10), (3, 32, 32))
    half = Pruning(0.5, "filter")
    inner = {layer.name for layer in layers if layer.prunable_filters and layer.coupled is None}
    plan = {layer.name: LayerPlan(half if layer.name in inner else None, None, Quantization()) for layer in layers}
    images = torch.from_numpy(IMAGES).cuda()
    attached = attach(resnet20(10).cuda(), TrialPlan(plan), layers, images[:1], seed=Seed(0))
    attached.finalize([images])
    return bake(attached, lambda: resnet20(10), layers, images[:1])


def test_a_compressed_candidate_agrees_is_timed_and_is_forgotten(candidate, compressed, tmp_path):
    target = TorchCUDA(rounds=20, maximum_seconds=0.5)
    example = torch.from_numpy(IMAGES[:1])
    reference = target.export(candidate, tmp_path / "reference", example)
    for trial in range(2):
        artefact = target.export(compressed, tmp_path / str(trial), example)
        target.verify(compressed, artefact, IMAGES, predictions=lambda outputs: outputs.argmax(axis=1))
        assert target.time(artefact, reference, seed=Seed(trial)).latency_ms > 0.0
        target.release(artefact)
        with pytest.raises(TargetError, match="restored"):
            target.run(artefact, IMAGES[:2])


def test_float16_on_the_gpu_agrees_with_the_candidate(candidate, tmp_path):
    target = TorchCUDA()
    artefact = target.export(candidate, tmp_path, torch.from_numpy(IMAGES[:1]))
    parity = target.verify(candidate, artefact, IMAGES, predictions=lambda outputs: outputs.argmax(axis=1))
    assert parity.snr_db > 40.0
    assert artefact.bytes < 0.6 * sum(4 * value.numel() for value in candidate.model.state_dict().values())


def test_a_captured_graph_is_timed_against_its_reference(candidate, tmp_path):
    target = TorchCUDA(rounds=20, maximum_seconds=0.5)
    artefact = target.export(candidate, tmp_path / "candidate", torch.from_numpy(IMAGES[:1]))
    reference = target.export(candidate, tmp_path / "reference", torch.from_numpy(IMAGES[:1]))
    found = target.time(artefact, reference, seed=Seed(0))
    assert found.latency_ms > 0.0
    assert found.speedup_iqr[0] <= found.speedup <= found.speedup_iqr[1]
    assert found.details["cache"] == "hot"


def test_an_artefact_of_another_process_must_be_restored(candidate, tmp_path):
    artefact = TorchCUDA().export(candidate, tmp_path, torch.from_numpy(IMAGES[:1]))
    fresh = TorchCUDA()
    with pytest.raises(TargetError, match="restored"):
        fresh.run(artefact, IMAGES[:2])
    fresh.restore(artefact, candidate)
    assert fresh.run(artefact, IMAGES[:2]).shape == (2, 10)
