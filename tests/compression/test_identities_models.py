"""Whole networks: every simulator on the public ResNet-20, and the sixteen techniques attached, baked and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate, load_candidate, save_candidate
from forgefront.compression.pruning import masked_weight
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.spaces.plan import TrialPlan
from forgefront.spaces.techniques import CLUSTERS, SPARSITY, TECHNIQUES, technique
from forgefront.studies.seeds import Seed

# relative, in double precision: removal sums fewer zeros, in another order
REMOVAL_TOLERANCE = 1e-9


@pytest.mark.parametrize(
    "names",
    [
        ("weight mask",),
        ("2:4 mask",),
        ("filter mask",),
        ("global weight mask",),
        ("global filter mask",),
        ("learned weight mask",),
        ("learned filter mask",),
        ("clusters by layer",),
        ("clusters by channel",),
        ("1-bit weights",),
        ("4-bit weights",),
        ("4-bit outputs",),
        ("learned scales",),
        ("int8 after training",),
        ("2:4 mask", "clusters by layer", "4-bit weights"),
        ("global filter mask", "clusters by channel", "learned scales"),
        ("learned filter mask", "4-bit weights", "4-bit outputs"),
    ],
    ids="+".join,
)
def test_baked_is_simulated_on_the_public_resnet20(case, combined_plan, resnet20_state, names) -> None:
    resnet = case("resnet20")
    plan = combined_plan(resnet.layers, names)
    dtype = torch.float64 if any("filter" in name for name in names) else torch.float32
    attached = resnet.trained(plan, dtype=dtype, steps=2, state=resnet20_state)
    candidate = bake(attached, resnet.build, resnet.layers, resnet.images(1, dtype=dtype), integer_biases=False)
    images = resnet.images(4, dtype=dtype, seed=9)
    with torch.no_grad():
        expected, found = attached.model(images), candidate.model(images)
    if candidate.removed:
        assert (found - expected).abs().max() <= REMOVAL_TOLERANCE * expected.abs().max()
        return
    assert torch.equal(found, expected)
    for layer in resnet.layers:
        simulated = attached.source.get_submodule(layer.name).weight
        assert torch.equal(candidate.model.get_submodule(layer.name).weight, simulated)


def compressed(subject, plan: TrialPlan, state: dict[str, Tensor] | None) -> Candidate:
    """Attached, finalized and baked as a trial does it, but for its training."""
    attached = attach(subject.model(state=state), plan, subject.layers, subject.images(1), seed=Seed(0))
    attached.finalize([subject.images(8)])
    for layer in subject.layers:
        masked = masked_weight(attached.source.get_submodule(layer.name))
        if plan.layer(layer.name).pruning is not None:
            assert int((masked == 0).sum()) == int(SPARSITY * masked.numel())
    return bake(attached, subject.build, subject.layers, subject.images(1))


def assert_layers_follow(candidate: Candidate, plan: TrialPlan) -> None:
    for name, layer in plan.layers.items():
        weight = candidate.model.get_parameter(f"{name}.weight").detach()
        if layer.pruning is not None:
            assert int((weight == 0).sum()) >= int(SPARSITY * weight.numel())
        if layer.clustering is not None:
            assert len(torch.unique(weight)) <= CLUSTERS
        assert (name in candidate.codes) == (layer.weight_bits <= 8)
        if name in candidate.codes:
            assert torch.equal(candidate.codes[name].weight(), weight)


def assert_exports(candidate: Candidate, subject, folder: Path) -> None:
    """It runs in ONNX Runtime within the target's own gate on noise; random weights' logits have no meaningful order."""
    target = OnnxRuntimeCPU(minimum_agreement=0.0)
    artefact = target.export(candidate, folder, subject.images(1))
    images = subject.images(8, seed=9).numpy()
    parity = target.verify(candidate, artefact, images, predictions=lambda outputs: np.argmax(outputs, axis=1))
    assert parity.images == 8


@pytest.mark.parametrize("name", TECHNIQUES)
def test_each_technique_on_resnet20(case, public_resnet20, name, tmp_path) -> None:
    resnet = case("resnet20")
    plan = technique(name, resnet.layers, pretrained=True)
    candidate = compressed(resnet, plan, public_resnet20)
    assert_layers_follow(candidate, plan)
    assert_exports(candidate, resnet, tmp_path / "export")
    if name in ("technique-3", "technique-11", "technique-16"):
        save_candidate(candidate, tmp_path / "candidate")
        loaded = load_candidate(tmp_path / "candidate", resnet.build, resnet.images(1)).model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in candidate.model.state_dict().items())
    if name == "technique-1":
        images = resnet.images(4, seed=9)
        assert torch.equal(candidate.model(images), resnet.model(state=public_resnet20).eval()(images))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("mobilenetv2-cifar", "technique-16"),
        ("vgg19-cifar", "technique-12"),
        ("resnet50-cifar", "technique-10"),
    ],
)
def test_techniques_on_larger_networks(case, architecture, name, tmp_path) -> None:
    subject = case(architecture)
    plan = technique(name, subject.layers, pretrained=False)
    candidate = compressed(subject, plan, None)
    assert_layers_follow(candidate, plan)
    assert_exports(candidate, subject, tmp_path)
