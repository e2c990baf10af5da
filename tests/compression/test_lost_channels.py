"""Weights beside removed channels: patterns, sparsities, scales and codebooks are those of the weights that survive."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.masks import broken_groups
from forgefront.compression.pruning import latent_weight
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed

FILTERS = {
    "by layer": Pruning(0.3, "filter"),
    "global": Pruning(0.3, "filter", scope="global"),
    "learned": Pruning(0.0, "filter", mask="learned", target=0.92, strength=1.0),
}
# conv1 feeds conv2 alone; conv2's own outputs meet the stem's in a sum
FEEDS, READS = "layer1.1.conv1", "layer1.1.conv2"


@pytest.fixture(params=FILTERS)
def filters(request: pytest.FixtureRequest) -> Pruning:
    return FILTERS[request.param]


def baked(subject, plan: TrialPlan, **options):
    attached = subject.trained(plan, **options)
    return attached, bake(attached, subject.build, subject.layers, subject.images(1))


@pytest.mark.parametrize("steps", [1, 8])
def test_patterns_are_those_of_the_surviving_inputs(case, filters, steps) -> None:
    resnet = case("resnet20")
    plan = TrialPlan({FEEDS: LayerPlan(filters), READS: LayerPlan(Pruning(0.5, "2:4"))})
    _, candidate = baked(resnet, plan, steps=steps)
    weight = candidate.model.get_parameter(f"{READS}.weight")
    left_over = weight.shape[1] % 4
    assert weight.shape[1] < 16
    whole = weight[:, : weight.shape[1] - left_over]
    assert broken_groups(whole, 2, 4)[0] == 0
    # what the pattern over all inputs took stays zero until training moves it
    assert 0.5 <= float((whole == 0).double().mean()) < (0.52 if steps > 1 else 0.6)
    noted = [line for line in candidate.achieved["deviations"] if "2:4" in line]
    groups = 144 * -(-weight.shape[1] // 4)
    rest = f"{READS}: 144 of {groups} groups are not 2:4, as {left_over} of {weight.shape[1]} inputs are left over"
    assert noted == ([rest] if left_over else [])


def test_patterns_of_inputs_that_do_not_divide_say_so(case) -> None:
    resnet = case("resnet20")
    plan = TrialPlan({FEEDS: LayerPlan(Pruning(1 - 3 / 7, "3:7"))})
    attached, candidate = baked(resnet, plan)
    line = f"{FEEDS}: 144 of 432 groups are not 3:7, as 2 of 16 inputs are left over"
    assert candidate.achieved["deviations"] == [line]
    assert attached.deviations == []
    assert ((candidate.model.get_parameter(f"{FEEDS}.weight") != 0).sum(dim=1) == 3 + 3 + 1).all()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_sparsity_is_that_of_the_surviving_weights(case, filters, scope) -> None:
    resnet = case("resnet20")
    # where the stem's group loses channels, they are outputs of conv2 too
    coupled = {"conv1": LayerPlan(filters)} if filters is FILTERS["by layer"] else {}
    plan = TrialPlan({FEEDS: LayerPlan(filters), READS: LayerPlan(Pruning(0.6, scope=scope)), **coupled})
    attached, candidate = baked(resnet, plan, steps=8)
    weight = candidate.model.get_parameter(f"{READS}.weight")
    assert weight.shape[1] < 16
    assert (weight.shape[0] < 16) == bool(coupled)
    assert int((weight == 0).sum()) == int(0.6 * weight.numel() + 1e-9)
    (mask,) = attached.weight_masks
    assert mask.simulator.surviving == weight.numel()
    assert float(mask.simulator.share) == pytest.approx(0.4, abs=1 / weight.numel())
    assert not any("weight sparsity" in line for line in candidate.achieved["deviations"])


def plain_and_loud(subject, plan: TrialPlan) -> list:
    """Finalized models: as they are, and with weights a hundred times larger where they read what is removed."""
    found, silent = [], torch.zeros(0, dtype=torch.int64)
    for factor in (1.0, 100.0):
        model = subject.model()
        with torch.no_grad():
            model.get_submodule(READS).weight[:, silent] *= factor
        attached = attach(model, plan, subject.layers, subject.images(1), seed=Seed(0))
        attached.finalize([subject.images(4)])
        found.append(attached)
        silent = torch.tensor(dict(attached.removed())[FEEDS])
    assert 0 < len(silent) < 16
    return found


@pytest.mark.parametrize("scales", ["range", "learned"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_scales_are_those_of_the_surviving_inputs(case, filters, scales, bits) -> None:
    resnet = case("resnet20")
    quantization = Quantization("aware", bits, 32, scales=scales)
    plan = TrialPlan({FEEDS: LayerPlan(filters), READS: LayerPlan(quantization=quantization)})
    plain, loud = (
        bake(attached, resnet.build, resnet.layers, resnet.images(1)).codes[READS]
        for attached in plain_and_loud(resnet, plan)
    )
    assert torch.equal(plain.scale, loud.scale)
    assert torch.equal(plain.codes, loud.codes)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_codebooks_are_those_of_the_surviving_inputs(case, filters, per) -> None:
    resnet = case("resnet20")
    plan = TrialPlan({FEEDS: LayerPlan(filters), READS: LayerPlan(clustering=Clustering(8, per))})
    plain, loud = plain_and_loud(resnet, plan)
    codebooks = [bake(one, resnet.build, resnet.layers, resnet.images(1)).codebooks[READS] for one in (plain, loud)]
    assert torch.equal(*codebooks)
    assert codebooks[0].shape == ((8,) if per == "layer" else (16, 8))
    # a mean gradient counts none of what is gone
    ((_, module, cluster),) = loud.clusters
    module.weight.sum().backward()
    assert torch.allclose(cluster.centroids.grad, torch.ones_like(cluster.centroids))


def test_what_reads_removed_channels_stays_zero_under_momentum_and_decay(case, uniform_plan) -> None:
    small = case("small_cnn")
    plan = uniform_plan(small.layers, pruning=Pruning(0.4, "filter"))
    attached = attach(small.model(), plan, small.layers, small.images(1), end=0.5, seed=Seed(0))
    optimizer = torch.optim.SGD(attached.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(8):
        attached.set_progress(step / 8)
        optimizer.zero_grad()
        attached.model(small.images(4, seed=step)).square().sum().backward()
        optimizer.step()
        attached.after_step()
    removed = dict(attached.removed())
    (pointwise,) = (layer.name for layer in small.layers if layer.name.startswith("pointwise"))
    assert removed[pointwise]
    linear = attached.source.linear
    assert not latent_weight(linear)[:, removed[pointwise]].any()
    kept = [index for index in range(16) if index not in removed[pointwise]]
    assert latent_weight(linear)[:, kept].all()
