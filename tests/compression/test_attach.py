"""Simulators on a model: what they do at each moment of training, and what the optimizer sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from forgefront.compression.attach import attach
from forgefront.compression.pruning import latent_weight
from forgefront.compression.quantizers import ActivationQuantizer, dequantize, quantize_weight
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Stages, TrialPlan
from forgefront.studies.seeds import Seed

EVERYTHING = {
    "pruning": Pruning(0.6),
    "clustering": Clustering(8),
    "quantization": Quantization("aware", 4, 8),
}


def test_the_optimizer_keeps_the_same_parameters(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    model = digits.model()
    before = dict(model.named_parameters())
    attached = attach(model, uniform_plan(digits.layers, **EVERYTHING), digits.layers, digits.images(1), seed=Seed(0))
    kept = {id(parameter) for parameter in attached.parameters()}
    assert all(id(parameter) in kept for parameter in before.values())
    for layer in digits.layers:
        assert latent_weight(model.get_submodule(layer.name)) is before[f"{layer.name}.weight"]


def test_a_dense_plan_changes_nothing(case) -> None:
    digits = case("digits_cnn")
    model, images = digits.model().eval(), digits.images(2)
    expected = model(images)
    attached = attach(model, TrialPlan(), digits.layers, digits.images(1), seed=Seed(0))
    attached.set_progress(1.0)
    attached.after_step()
    attached.finalize([])
    assert attached.model is model
    assert torch.equal(attached.model(images), expected)


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_sparsity_is_reached_within_one_weight_and_follows_the_schedule(case, uniform_plan, name) -> None:
    subject = case(name)
    plan = uniform_plan(subject.layers, pruning=Pruning(0.71))
    model = subject.model()
    attached = attach(model, plan, subject.layers, subject.images(1), start=0.2, end=0.6, seed=Seed(0))
    for fraction, expected in ((0.1, 0.0), (0.4, 0.71 * 7 / 8), (0.6, 0.71)):
        attached.set_progress(fraction)
        for layer in subject.layers:
            weight = model.get_submodule(layer.name).weight
            planned = expected if plan.layer(layer.name).pruning else 0.0
            assert abs(int((weight == 0).sum()) - planned * weight.numel()) <= 1


def test_at_the_end_values_are_few_zeros_are_kept_and_codes_in_range(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, **EVERYTHING))
    for layer in digits.layers:
        if layer.kind not in ("conv", "linear"):
            continue
        weight = attached.source.get_submodule(layer.name).weight.detach()
        assert len(torch.unique(weight)) <= 8
        assert int((weight == 0).sum()) >= int(0.6 * weight.numel())
        codes, scale = quantize_weight(weight, 4, per="layer")
        assert codes.abs().max() <= 7
        assert torch.equal(dequantize(codes, scale), weight)


@pytest.mark.parametrize("structure", ["weight", "filter"])
def test_masked_latents_stay_zero_under_momentum_and_decay(case, uniform_plan, structure) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, pruning=Pruning(0.5, structure))
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), end=0.5, seed=Seed(0))
    optimizer = torch.optim.SGD(attached.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    moved = False
    for step in range(6):
        attached.set_progress(step / 6)
        optimizer.zero_grad()
        attached.model(digits.images(4, seed=step)).square().sum().backward()
        optimizer.step()
        masks = [masked for mask in (*attached.weight_masks, *attached.filter_masks) for masked in mask.masked]
        outside = [masked.latent()[~masked.simulator.keep.expand_as(masked.latent())] for masked in masks]
        moved |= any(bool(values.any()) for values in outside)
        attached.after_step()
        for masked in masks:
            assert not masked.latent()[~masked.simulator.keep.expand_as(masked.latent())].any()
    assert moved


def test_dense_weights_and_codebooks_get_gradients(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = attach(
        digits.model(), uniform_plan(digits.layers, **EVERYTHING), digits.layers, digits.images(1), seed=Seed(0)
    )
    attached.set_progress(0.0)
    attached.model(digits.images(4)).square().sum().backward()
    assert all(cluster.centroids.grad is None for _, _, cluster in attached.clusters)
    attached.set_progress(1.0)
    attached.model(digits.images(4)).square().sum().backward()
    for _, module, cluster in attached.clusters:
        assert cluster.centroids.grad.any()
        weight = latent_weight(module)
        assert torch.isfinite(weight.grad).all()
        assert weight.grad.any()


def test_coupled_layers_share_one_mask_and_their_norms_are_masked_too(case, uniform_plan) -> None:
    resnet = case("resnet20")
    attached = resnet.trained(uniform_plan(resnet.layers, pruning=Pruning(0.4, "filter")))
    groups: dict[str, list[torch.Tensor]] = {}
    for layer in resnet.layers:
        if layer.coupled:
            weight = attached.source.get_submodule(layer.name).weight
            groups.setdefault(layer.coupled, []).append(weight.flatten(1).any(dim=1))
    assert len(groups) == 3
    for kept in groups.values():
        assert all(torch.equal(kept[0], other) for other in kept)
        assert int((~kept[0]).sum()) == int(0.4 * len(kept[0]))
    bn, conv = attached.source.bn1, attached.source.conv1
    assert torch.equal(bn.weight != 0, conv.weight.flatten(1).any(dim=1))
    assert not bn.bias[bn.weight == 0].any()


def test_unequal_sparsities_of_coupled_layers_are_recorded_as_a_deviation(case) -> None:
    resnet = case("resnet20")
    plan = TrialPlan({"conv1": LayerPlan(pruning=Pruning(0.5, "filter"))})
    attached = attach(resnet.model(), plan, resnet.layers, resnet.images(1), seed=Seed(0))
    assert len(attached.deviations) == 3
    assert "layer1.0.conv2: filter sparsity 0.5 instead of 0" in attached.deviations[0] + attached.deviations[-1]


MAGNITUDE, LEARNED = Pruning(0.5, "filter"), Pruning(0.0, "filter", mask="learned", target=0.6, strength=1.0)


@pytest.mark.parametrize(
    ("leading", "member", "line"),
    [
        (MAGNITUDE, LEARNED, "filter sparsity 0.5 instead of a learned mask"),
        (MAGNITUDE, Pruning(0.7), "filter sparsity 0.5 instead of 0"),
        (MAGNITUDE, dataclasses.replace(MAGNITUDE, scope="global"), "scope layer instead of global"),
        (
            MAGNITUDE,
            Pruning(0.3, "filter", scope="global"),
            "filter sparsity 0.5 instead of 0.3, scope layer instead of global",
        ),
        (LEARNED, MAGNITUDE, "a learned mask instead of filter sparsity 0.5"),
        (LEARNED, None, "a learned mask instead of filter sparsity 0"),
        (LEARNED, dataclasses.replace(LEARNED, target=0.4), "target 0.6 instead of 0.4"),
    ],
)
def test_coupled_layers_that_plan_otherwise_are_named(case, leading, member, line) -> None:
    resnet = case("resnet20")
    coupled = [layer.name for layer in resnet.layers if layer.coupled == "conv1"]
    plan = TrialPlan({name: LayerPlan(leading) for name in coupled} | {"layer1.0.conv2": LayerPlan(member)})
    attached = attach(resnet.model(), plan, resnet.layers, resnet.images(1), seed=Seed(0))
    assert attached.deviations == [f"layer1.0.conv2: {line}, as its channels are those of conv1"]
    assert (attached.learned is not None) == (leading is LEARNED)
    attached.finalize([])


def test_kept_filters_are_a_multiple_of_round_to(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, pruning=Pruning(0.6, "filter"))
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), seed=Seed(0), round_to=8)
    attached.set_progress(1.0)
    assert attached.filter_masks
    assert all(int(mask.keep.sum()) % 8 == 0 for mask in attached.filter_masks)


def test_extreme_sparsity_leaves_a_filter(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, pruning=Pruning(0.999, "filter")))
    assert all(int(mask.keep.sum()) == 1 for mask in attached.filter_masks)
    assert torch.isfinite(attached.model(digits.images(3))).all()


def test_aware_bits_start_after_a_tenth_and_post_bits_wait_for_the_end(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    for mode, during in (("aware", True), ("post", False)):
        plan = uniform_plan(digits.layers, quantization=Quantization(mode, 8, 8))
        attached = attach(digits.model(), plan, digits.layers, digits.images(1), seed=Seed(0))
        quantizers = [module for module in attached.model.modules() if isinstance(module, ActivationQuantizer)]
        simulators = [*quantizers, *(simulator for _, simulator in attached.weight_quantizers)]
        attached.set_progress(0.05)
        attached.model.train()
        attached.model(digits.images(4))
        assert not any(simulator.enabled for simulator in simulators)
        assert all(bool(quantizer.batches) == during for quantizer in quantizers)
        attached.set_progress(0.95)
        assert all(simulator.enabled == during for simulator in simulators)
        attached.finalize([digits.images(4)])
        assert all(simulator.enabled for simulator in simulators)
        assert all(float(quantizer.maximum) > 0 for quantizer in quantizers)


def test_ranges_wanted_without_images_are_refused(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, quantization=Quantization("post", 8, 8))
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), seed=Seed(0))
    with pytest.raises(ValueError, match="`calibration` must hold at least one batch"):
        attached.finalize([])


def test_equal_seeds_give_equal_models(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, **EVERYTHING)
    first, second = digits.trained(plan), digits.trained(plan)
    assert torch.equal(first.model(digits.images(3)), second.model(digits.images(3)))


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("nowhere", LayerPlan(), "`plan.layers` must name layers of the model; found 'nowhere'"),
        (
            "linear",
            LayerPlan(Pruning(0.0, "filter", "learned", target=0.5, strength=1.0)),
            "`structure` of linear must",
        ),
        ("linear", LayerPlan(Pruning(0.5, "filter")), "`structure` of linear must be weight"),
    ],
)
def test_plans_it_cannot_follow_are_refused_in_one_line(case, name, layer, message) -> None:
    resnet = case("resnet20")
    with pytest.raises(ValueError, match=message) as raised:
        attach(resnet.model(), TrialPlan({name: layer}), resnet.layers, resnet.images(1), seed=Seed(0))
    assert "\n" not in str(raised.value)


def test_start_after_end_is_refused(case) -> None:
    digits = case("digits_cnn")
    with pytest.raises(ValueError, match="`start` and `end`"):
        attach(digits.model(), TrialPlan(), digits.layers, digits.images(1), start=0.7, end=0.6, seed=Seed(0))


def test_modes_are_left_as_they_were(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    model = digits.model().train()
    model.get_submodule(digits.layers[0].name).eval()
    modes = {module: module.training for module in model.modules() if not isinstance(module, nn.Identity)}
    plan = uniform_plan(digits.layers, pruning=Pruning(0.5, "filter"), quantization=Quantization())
    attached = attach(model, plan, digits.layers, digits.images(1), seed=Seed(0))
    assert attached.model.training
    assert all(module.training == training for module, training in modes.items())


def test_stages_of_the_plan_come_before_the_studys(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    stages = Stages(prune_start=0.1, prune_end=0.3, cluster=0.5, quantize=0.7)
    plan = dataclasses.replace(uniform_plan(digits.layers, **EVERYTHING), stages=stages)
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), start=0.8, end=0.9, seed=Seed(0))
    optimizer = torch.optim.SGD(attached.parameters(), 0.05, momentum=0.9)
    (first, *_), (_, cluster), (_, bits) = (
        attached.weight_masks,
        attached.clusters[0][1:],
        attached.weight_quantizers[0],
    )
    seen = []
    for step in range(10):
        attached.set_progress(step / 10)
        removed = int((~first.masked[0].simulator.keep).sum())
        seen.append((removed, cluster.enabled, bits.enabled, first.masked[0].simulator.keep.clone()))
        optimizer.zero_grad()
        attached.model(digits.images(4, seed=step)).square().sum().backward()
        optimizer.step()
        attached.after_step()
    total = first.masked[0].latent().numel()
    assert [removed for removed, *_ in seen[:3]] == [0, 0, int(0.6 * total * 7 / 8)]
    assert all(removed == int(0.6 * total) for removed, *_ in seen[3:])
    assert all(torch.equal(keep, seen[3][3]) for *_, keep in seen[3:])
    assert [seeded for _, seeded, *_ in seen].index(True) == 5
    assert [simulated for *_, simulated, _ in seen].index(True) == 7


def test_bits_may_come_first_and_clusters_last(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = dataclasses.replace(uniform_plan(digits.layers, **EVERYTHING), stages=Stages(0.0, 0.5, 1.0, 0.0))
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), seed=Seed(0))
    attached.set_progress(0.0)
    assert all(simulator.enabled for _, simulator in attached.weight_quantizers)
    attached.set_progress(0.99)
    assert not any(cluster.enabled for _, _, cluster in attached.clusters)
    attached.finalize([digits.images(4)])
    assert all(cluster.enabled for _, _, cluster in attached.clusters)


@pytest.mark.parametrize("clusters", [None, Clustering(2), Clustering(5, "channel", "sum", 0)])
def test_patterns_are_exact_where_inputs_suffice_and_noted_where_not(case, uniform_plan, clusters) -> None:
    digits = case("digits_cnn")
    plan = TrialPlan({layer.name: LayerPlan(Pruning(0.5, "2:4"), clusters) for layer in digits.layers})
    attached = digits.trained(plan, steps=5)
    dense = {line.split(":")[0] for line in attached.deviations if "dense instead of 2:4" in line}
    assert dense == {layer.name for layer in digits.layers if layer.weight_shape[1] < 4}
    assert any(layer.kind == "depthwise" for layer in digits.layers if layer.name in dense)
    for layer in digits.layers:
        weight = attached.source.get_submodule(layer.name).weight.detach()
        if layer.name in dense:
            assert clusters is not None or (weight != 0).all()
            continue
        for group in weight.split(4, dim=1):
            assert ((group != 0).sum(dim=1) <= -(-2 * group.shape[1] // 4)).all()
            # clusters may put further weights to the pinned zero
            assert clusters is not None or ((group != 0).sum(dim=1) == -(-2 * group.shape[1] // 4)).all()
        if clusters is not None:
            rows = [weight] if clusters.per == "layer" else list(weight)
            assert max(len(torch.unique(row)) for row in rows) <= clusters.clusters


def test_the_plans_clustering_reaches_the_codebooks(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, clustering=Clustering(256, "channel", "sum", 3))
    attached = digits.trained(plan, steps=2)
    for _, module, cluster in attached.clusters:
        assert (cluster.clusters, cluster.per, cluster.gradient, cluster.lloyd_iterations) == (256, "channel", "sum", 3)
        assert torch.isfinite(module.weight).all()


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_two_clusters_with_a_zero_are_noted(case, per) -> None:
    digits = case("digits_cnn")
    name = digits.layers[2].name
    plan = TrialPlan({name: LayerPlan(Pruning(0.5), Clustering(2, per))})
    attached = digits.trained(plan, steps=1)
    assert attached.deviations == [f"{name}: two clusters, one of them zero, keep one sign only"]
    plan = TrialPlan({name: LayerPlan(None, Clustering(2, per))})
    assert digits.trained(plan, steps=1).deviations == []
