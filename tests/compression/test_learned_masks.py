"""Learned masks: the published rule, the hinge on coupled channels, freezing at the target, exact removal."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.hardware_loss import Operations, Parameters, binarize, hardware_loss
from forgefront.compression.learned_masks import LARGEST_GROWTH, TOLERANCE
from forgefront.objectives.size import count_macs
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Stages, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

EXAMPLE = torch.zeros(1, 3, 32, 32)


def build(kind=digits_cnn):
    torch.manual_seed(3)
    return kind(10).eval()


def randomised(kind=digits_cnn):
    """A model whose batch norms do something, so that removal must be exact in every part."""
    model = build(kind)
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


def plan_for(model, *, structure="filter", target=0.5, cost="operations", coupled=True, **parts):
    layers = inspect_layers(model, (3, 32, 32))
    pruning = Pruning(0.0, structure, mask="learned", target=target, strength=5.0, cost=cost)
    names = [
        layer.name
        for layer in layers
        if layer.kind != "depthwise"
        and (structure == "weight" or (layer.prunable_filters and (coupled or layer.coupled is None)))
    ]
    return TrialPlan({name: LayerPlan(pruning=pruning, **parts) for name in names}), layers


def attached_to(model, plan, layers, **options):
    example = EXAMPLE.to(next(model.parameters()).dtype)
    return attach(model, plan, layers, example, seed=Seed(1), start=0.0, end=0.5, **options)


def shaken(attached, seed=0):
    """Scores as some training might leave them."""
    generator = torch.Generator().manual_seed(seed)
    attached.set_progress(0.4)
    with torch.no_grad():
        for scores in attached.learned.parameters():
            scores.copy_(torch.randn(scores.shape, generator=generator))
    return attached


def test_the_mask_is_the_rounded_half_tanh_and_its_gradient_goes_straight_through():
    scores = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 3.0], requires_grad=True)
    mask = binarize(scores)
    assert mask.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    (mask * torch.arange(1.0, 6.0)).sum().backward()
    expected = torch.arange(1.0, 6.0) * 0.5 * (1.0 - torch.tanh(scores.detach()).square())
    torch.testing.assert_close(scores.grad, expected)


@pytest.mark.parametrize(("share", "loss"), [(1.0, 0.6), (0.5, 0.1), (0.4, 0.0), (0.2, 0.0)])
def test_the_hardware_loss_is_a_one_sided_hinge(share, loss):
    assert float(hardware_loss(torch.tensor(share), 0.4)) == pytest.approx(loss)


def test_costs_couple_both_sides_of_a_layer():
    layers = inspect_layers(build(), (3, 32, 32))
    names = [layer.name for layer in layers]
    outputs = torch.tensor([float(layer.weight_shape[0]) for layer in layers])
    depthwise = torch.tensor([layer.kind == "depthwise" for layer in layers])
    inputs = torch.where(depthwise, outputs, torch.tensor([float(layer.weight_shape[1]) for layer in layers]))
    operations, parameters = Operations(layers), Parameters(layers)
    macs = torch.tensor([float(layer.macs) for layer in layers])
    torch.testing.assert_close(operations.costs(names, inputs, outputs), macs)
    torch.testing.assert_close(
        operations.costs(names, inputs / 2, outputs / 2), macs / torch.where(depthwise, 2.0, 4.0)
    )
    sizes = torch.tensor([float(torch.Size(layer.weight_shape).numel()) for layer in layers])
    torch.testing.assert_close(parameters.costs(names, inputs, outputs), sizes)
    assert [parameters.dense_cost(name) for name in names] == sizes.tolist()


@pytest.mark.parametrize("structure", ["filter", "weight"])
@pytest.mark.parametrize("cost", ["operations", "parameters"])
@pytest.mark.parametrize("target", [0.7, 0.3])
def test_freezing_reaches_the_target_within_its_tolerance(structure, cost, target):
    model = build(resnet20)
    attached = shaken(attached_to(model, *plan_for(model, structure=structure, target=target, cost=cost)))
    attached.set_progress(0.5)
    assert attached.learned.frozen
    report = attached.learned.report()
    assert report["target"] == target
    assert target - TOLERANCE <= report["reached"] <= target
    assert not any("keep" in line for line in attached.deviations)


def test_the_share_of_operations_is_what_the_baked_model_computes():
    model = randomised(resnet20)
    dense = count_macs(model, EXAMPLE)
    plan, layers = plan_for(model, target=0.4)
    attached = shaken(attached_to(model, plan, layers))
    attached.finalize([])
    candidate = bake(attached, lambda: build(resnet20), layers, EXAMPLE)
    reached = attached.learned.report()["reached"]
    assert count_macs(candidate.model, EXAMPLE) / dense == pytest.approx(reached, abs=1e-6)


@pytest.mark.parametrize("kind", [digits_cnn, resnet20])
def test_a_masked_model_equals_the_removed_one(kind):
    model = randomised(kind).double()
    plan, layers = plan_for(model.float(), target=0.5)
    attached = shaken(attached_to(model.double(), plan, layers))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    attached.finalize([])
    masked = attached.model(images)
    candidate = bake(attached, lambda: build(kind), layers, EXAMPLE.double())
    assert sum(len(indices) for _, indices in candidate.removed) > 0
    torch.testing.assert_close(candidate.model(images), masked, rtol=1e-5, atol=1e-8)


def test_masking_where_channels_are_read_gives_the_outputs_of_masked_filters():
    model = randomised()
    attached = shaken(attached_to(model, *plan_for(model)))
    attached.model.eval()
    images = torch.rand(4, 3, 32, 32)
    live = attached.model(images)
    keeps = [binarize(scores).bool() for scores in attached.learned.parameters()]
    for unit, keep in zip(attached.learned._units, keeps, strict=True):
        for _, _, mask in unit.masks:
            mask.freeze(keep)
    torch.testing.assert_close(attached.model(images), live, rtol=1e-4, atol=1e-4)


def test_a_channel_that_is_off_still_feels_the_loss():
    model = randomised()
    attached = shaken(attached_to(model, *plan_for(model)))
    attached.model.train()
    attached.model(torch.rand(8, 3, 32, 32)).square().sum().backward()
    for scores in attached.learned.parameters():
        off = scores.detach() < 0
        assert scores.grad is not None
        assert (scores.grad[off] != 0).float().mean() >= 0.5


def test_the_target_falls_from_one_to_its_value_and_stays():
    model = build()
    attached = attached_to(model, *plan_for(model, target=0.3))
    learned = attached.learned
    seen = []
    for fraction in (0.0, 0.04, 0.1, 0.2, 0.3, 0.4, 0.49):
        learned.set_progress(fraction)
        seen.append(learned._now)
    assert seen[0] == seen[1] == 1.0
    assert seen == sorted(seen, reverse=True)
    assert seen[-2] == pytest.approx(0.3)
    assert seen[-1] == pytest.approx(0.3)


def test_importance_orders_the_scores():
    model = build()
    attached = attached_to(model, *plan_for(model))
    learned = attached.learned
    attached.set_progress(0.0)
    for scores in learned.parameters():
        scores.grad = torch.arange(scores.numel(), dtype=torch.float32).reshape(scores.shape)
    learned.observe()
    attached.set_progress(0.2)
    assert learned.moving
    for scores in learned.parameters():
        assert torch.equal(scores.argsort(), torch.arange(scores.numel()))


def test_weights_of_learned_masks_stay_zero_after_every_step():
    model = build()
    plan, layers = plan_for(model, structure="weight", target=0.2)
    attached = shaken(attached_to(model, plan, layers))
    attached.set_progress(0.5)
    optimizer = torch.optim.SGD(attached.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    attached.model.train()
    for _ in range(3):
        attached.model(torch.rand(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        attached.after_step()
        optimizer.zero_grad()
    for name in plan.layers:
        module = attached.source.get_submodule(name)
        mask = module.parametrizations["weight"][0].keep
        assert not mask.all()
        assert (module.weight[~mask] == 0).all()
        assert (module.parametrizations["weight"].original[~mask] == 0).all()


@pytest.mark.parametrize("structure", ["filter", "weight"])
def test_learned_masks_compose_with_clusters_and_bits(structure):
    model = randomised()
    parts = {"clustering": Clustering(8), "quantization": Quantization("aware", 4, 8)}
    plan, layers = plan_for(model, structure=structure, target=0.4, **parts)
    attached = shaken(attached_to(model, plan, layers))
    attached.model.train()
    attached.set_progress(0.6)
    attached.model(torch.rand(8, 3, 32, 32))
    attached.finalize([torch.rand(8, 3, 32, 32)])
    candidate = bake(attached, build, layers, EXAMPLE, integer_biases=False)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(candidate.model(images), attached.model(images), rtol=1e-4, atol=1e-4)
    for name in plan.layers:
        values = candidate.model.get_parameter(f"{name}.weight").detach().unique()
        assert len(values) <= 8
        if structure == "weight":
            assert (values == 0).any()


def test_channels_are_kept_in_multiples_and_the_target_is_kept_to():
    model = build(resnet20)
    plan, layers = plan_for(model, target=0.5, coupled=False)
    attached = shaken(attached_to(model, plan, layers, round_to=8))
    attached.finalize([])
    candidate = bake(attached, lambda: build(resnet20), layers, EXAMPLE)
    kept = [candidate.achieved["layers"][name]["channels"] for name in plan.layers]
    assert all(channels % 8 == 0 for channels in kept)
    assert attached.learned.report()["reached"] <= 0.5


def test_stages_of_the_plan_say_when_masks_move():
    model = build()
    plan, layers = plan_for(model)
    plan = TrialPlan(plan.layers, plan.recipe, Stages(0.2, 0.8, 0.8, 0.9))
    attached = attached_to(model, plan, layers)
    attached.set_progress(0.1)
    assert not attached.learned.moving
    attached.set_progress(0.5)
    assert attached.learned.moving
    attached.set_progress(0.8)
    assert attached.learned.frozen


def test_layers_must_agree_on_target_and_strength():
    model = build()
    plan, layers = plan_for(model)
    first, *_ = plan.layers
    other = Pruning(0.0, "filter", mask="learned", target=0.9, strength=5.0)
    with pytest.raises(ValueError, match="must agree"):
        attached_to(model, TrialPlan({**plan.layers, first: LayerPlan(pruning=other)}), layers)


def test_latency_needs_its_table():
    model = build()
    plan, layers = plan_for(model, cost="latency")
    with pytest.raises(ValueError, match="`cost_table` must be given"):
        attached_to(model, plan, layers)


def test_a_hinge_that_was_not_met_in_training_is_a_deviation():
    model = build(resnet20)
    plan, layers = plan_for(model, target=0.5, coupled=False)
    attached = attached_to(model, plan, layers)
    attached.set_progress(0.5)
    assert attached.learned.report()["reached"] <= 0.5
    assert any("left learned masks at 1.000" in line for line in attached.deviations)


def test_magnitude_masks_beside_learned_ones_count_as_well():
    model = build(resnet20)
    plan, layers = plan_for(model, target=0.5, coupled=False)
    mixed = dict(plan.layers)
    for name in list(mixed)[::2]:
        mixed[name] = LayerPlan(pruning=Pruning(0.5, "filter"))
    attached = shaken(attached_to(model, TrialPlan(mixed), layers))
    attached.finalize([])
    candidate = bake(attached, lambda: build(resnet20), layers, EXAMPLE)
    totals = candidate.achieved["totals"]
    assert attached.learned.report()["reached"] == pytest.approx(totals["macs"] / totals["macs_before"], abs=1e-6)
    assert totals["macs"] / totals["macs_before"] <= 0.5


def test_magnitude_masks_over_weights_count_where_weights_are_counted():
    model = build()
    plan, layers = plan_for(model, structure="weight", target=0.5, cost="parameters")
    mixed = dict(plan.layers)
    names = list(mixed)
    mixed[names[-2]] = LayerPlan(pruning=Pruning(0.8, "weight"))
    attached = shaken(attached_to(model, TrialPlan(mixed), layers))
    attached.finalize([])
    weights = [attached.source.get_submodule(layer.name).weight for layer in layers]
    kept = sum(int((weight != 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert attached.learned.report()["reached"] == pytest.approx(kept, abs=2e-4)


def test_strength_stays_bounded_where_the_target_is_out_of_reach():
    model = build()
    plan, layers = plan_for(model, target=0.01)
    only = TrialPlan({"stage2.dense.conv": plan.layers["stage2.dense.conv"]})
    attached = attached_to(model, only, layers)
    attached.set_progress(0.45)
    for _ in range(200):
        attached.learned._now = 0.01
        attached.learned.tighten()
    assert float(attached.learned._growth) == LARGEST_GROWTH
    attached.set_progress(0.5)
    assert any("their target is 0.010" in line for line in attached.deviations)


def test_asking_for_the_loss_changes_nothing():
    model = build()
    attached = attached_to(model, *plan_for(model, target=0.3))
    attached.set_progress(0.4)
    first = attached.learned.loss().detach()
    assert first == attached.learned.loss().detach() > 0.0


def test_weights_that_read_removed_channels_are_zero():
    model = build(resnet20)
    attached = shaken(attached_to(model, *plan_for(model, target=0.5)))
    attached.set_progress(0.5)
    removed = dict(attached.removed())
    assert removed
    for unit in attached.learned._units:
        off = set(removed.get(unit.layer, ()))
        for member in unit.group.consumers:
            module = attached.source.get_submodule(member.name)
            gone = [own for own, root in zip(member.own, member.root, strict=True) if root in off]
            if hasattr(module, "weight"):
                assert (module.weight[:, gone] == 0).all()


def test_rounding_of_learned_channels_is_a_deviation():
    model = build(resnet20)
    attached = shaken(attached_to(model, *plan_for(model, target=0.4, coupled=False), round_to=8))
    attached.set_progress(0.5)
    assert any("a multiple of 8" in line for line in attached.deviations)
