"""Masked channels and removed channels give the same network, in double precision, on every kind of architecture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.pruning import masked_weight
from forgefront.spaces.plan import LayerPlan, Pruning, TrialPlan
from forgefront.studies.seeds import Seed

# relative; what was measured is 1e-15 to 1e-16
TOLERANCE = 1e-9
ARCHITECTURES = ["resnet20", "resnet18-cifar", "resnet50-cifar", "vgg19-cifar", "mobilenetv2-cifar"]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def removed_and_masked(subject, plan: TrialPlan, state: dict[str, Tensor] | None = None):
    """(candidate, attached, error): what is baked, what was simulated, and how far their outputs are apart."""
    model = subject.model(dtype=torch.float64, state=state)
    example, images = subject.images(1, dtype=torch.float64), subject.images(2, dtype=torch.float64, seed=9)
    with torch.no_grad():
        dense = model.eval()(images)
    attached = attach(model, plan, subject.layers, example, seed=Seed(0))
    attached.finalize([])
    candidate = bake(attached, subject.build, subject.layers, example)
    with torch.no_grad():
        masked, removed = attached.model(images), candidate.model(images)
    # masking must do something, or equality would mean nothing
    assert relative_error(masked, dense) > 1e-3
    return candidate, attached, relative_error(removed, masked)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_is_removed_on_random_weights(case, uniform_plan, name) -> None:
    subject = case(name)
    plan = uniform_plan(subject.layers, pruning=Pruning(0.4, "filter"))
    candidate, attached, error = removed_and_masked(subject, plan)
    assert error <= TOLERANCE
    removed, silent = dict(candidate.removed), {}
    for layer in subject.layers:
        if not layer.prunable_filters:
            continue
        # coupled layers have one mask, and lose the filters that it names
        masked = ~masked_weight(attached.source.get_submodule(layer.name)).detach().flatten(1).any(dim=1)
        shared = silent.setdefault(layer.coupled or layer.name, masked)
        assert torch.equal(masked, shared)
        gone = removed[layer.coupled or layer.name]
        assert torch.nonzero(masked).flatten().tolist() == gone
        assert len(gone) == int(0.4 * layer.weight_shape[0])
        assert candidate.model.get_submodule(layer.name).out_channels == layer.weight_shape[0] - len(gone)
    totals = candidate.achieved["totals"]
    assert totals["macs"] < 0.5 * totals["macs_before"]


@pytest.mark.parametrize(
    "pruning", [Pruning(0.4, "filter"), Pruning(0.4, "filter", scope="global")], ids=["layer", "global"]
)
def test_masked_is_removed_on_the_public_weights(case, uniform_plan, resnet20_state, pruning) -> None:
    subject = case("resnet20")
    _, _, error = removed_and_masked(subject, uniform_plan(subject.layers, pruning=pruning), resnet20_state)
    assert error <= TOLERANCE


def test_masked_is_removed_where_every_layer_loses_another_share(case) -> None:
    subject = case("resnet20")
    names = [layer.name for layer in subject.layers if layer.prunable_filters]
    plans = {name: LayerPlan(Pruning(0.1 + 0.8 * index / len(names), "filter")) for index, name in enumerate(names)}
    candidate, attached, error = removed_and_masked(subject, TrialPlan(plans))
    assert error <= TOLERANCE
    # a group goes by its first layer's share, and the others' are recorded as deviations
    assert attached.deviations
    for leader, gone in candidate.removed:
        assert len(gone) == int(plans[leader].sparsity * subject.model().get_submodule(leader).out_channels)
