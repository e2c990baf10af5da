"""One sparsity over many layers: exact totals, the smallest wherever they lie, and nothing emptied."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.global_masks import global_channel_masks, global_magnitude_masks
from forgefront.spaces.plan import LayerPlan, Pruning, TrialPlan
from forgefront.studies.seeds import Seed


def random_weights(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = Seed(1).torch()
    return [torch.randn(shape, generator=generator) * (index + 1) for index, shape in enumerate(shapes)]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.29, 0.5, 0.9])
def test_the_floor_of_the_planned_share_of_all_goes_and_the_smallest(sparsity: float) -> None:
    weights = random_weights((8, 3, 3, 3), (10, 7), (5, 9))
    masks = global_magnitude_masks(weights, sparsity)
    kept = torch.cat([weight[keep].abs() for weight, keep in zip(weights, masks, strict=True)])
    gone = torch.cat([weight[~keep].abs() for weight, keep in zip(weights, masks, strict=True)])
    assert gone.numel() == int(sparsity * 331 + 1e-9)
    assert not gone.numel() or gone.max() < kept.min()


@pytest.mark.parametrize(
    "weights", [[torch.zeros(4, 5), torch.ones(20)], [torch.ones(6), torch.ones(2), torch.ones(9)]]
)
def test_no_layer_is_emptied_whatever_ties_and_zeros_there_are(weights: list[torch.Tensor]) -> None:
    total = sum(weight.numel() for weight in weights)
    for sparsity in (0.5, 0.8, 0.999):
        masks = global_magnitude_masks(weights, sparsity)
        assert all(keep.any() for keep in masks)
        removed = sum(int((~keep).sum()) for keep in masks)
        assert removed == min(int(sparsity * total + 1e-9), total - len(weights))


def test_one_layer_alone_is_masked_as_in_its_own_scope() -> None:
    from forgefront.compression.masks import magnitude_mask

    (weight,) = random_weights((20, 11))
    assert torch.equal(global_magnitude_masks([weight], 0.63)[0], magnitude_mask(weight, 0.63))


def test_channels_of_least_mean_magnitude_go_and_count_for_all_their_filters() -> None:
    magnitudes = [torch.tensor([0.1, 0.2, 0.9, 0.8]), torch.tensor([0.3, 0.4, 0.5, 0.6])]
    first, second = global_channel_masks(magnitudes, [3, 1], 0.5)
    # 8 of 16 filters: two channels of three filters each, then two of one
    assert first.tolist() == [False, False, True, True]
    assert second.tolist() == [False, False, True, True]


def test_a_channel_that_does_not_fit_waits_unless_the_rest_is_to_be_filled() -> None:
    magnitudes = [torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.3, 0.4, 0.5])]
    waiting = global_channel_masks(magnitudes, [5, 1], 0.5, fill=False)
    filled = global_channel_masks(magnitudes, [5, 1], 0.5)
    assert [int((~keep).sum()) for keep in waiting] == [1, 0]
    assert [int((~keep).sum()) for keep in filled] == [1, 2]


@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.99])
def test_groups_keep_multiples_and_never_nothing(round_to: int, sparsity: float) -> None:
    magnitudes = [torch.rand(count, generator=Seed(count).torch()) for count in (16, 10, 3, 24)]
    widths = [2, 1, 1, 3]
    masks = global_channel_masks(magnitudes, widths, sparsity, round_to=round_to)
    for values, keep in zip(magnitudes, masks, strict=True):
        kept = int(keep.sum())
        assert kept in (values.numel(), *range(round_to, values.numel() + 1, round_to))
        assert keep.all() or values[~keep].max() < values[keep].min()
    total = sum(values.numel() * width for values, width in zip(magnitudes, widths, strict=True))
    removed = sum(int((~keep).sum()) * width for keep, width in zip(masks, widths, strict=True))
    assert removed <= sparsity * total


def test_a_model_loses_exactly_the_planned_weights_and_its_layers_differ(case, uniform_plan) -> None:
    resnet = case("resnet20")
    plan = uniform_plan(resnet.layers, pruning=Pruning(0.8, scope="global"))
    attached = resnet.trained(plan, steps=5)
    weights = [attached.source.get_submodule(layer.name).weight for layer in resnet.layers]
    total = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == int(0.8 * total)
    shares = [float((weight == 0).float().mean()) for weight in weights]
    assert max(shares) - min(shares) > 0.2
    assert attached.deviations == []


def test_sparsities_are_pools_of_their_own(case) -> None:
    digits = case("digits_cnn")
    names = [layer.name for layer in digits.layers if layer.kind == "conv"]
    sparsities = [0.3, 0.6, 0.3, 0.6][: len(names)]
    plan = TrialPlan(
        {name: LayerPlan(Pruning(sparsity, scope="global")) for name, sparsity in zip(names, sparsities, strict=False)}
    )
    model = digits.model()
    attached = attach(model, plan, digits.layers, digits.images(1), seed=Seed(0))
    attached.set_progress(1.0)
    for wanted in (0.3, 0.6):
        weights = [model.get_submodule(name).weight for name, layer in plan.layers.items() if layer.sparsity == wanted]
        total = sum(weight.numel() for weight in weights)
        assert sum(int((weight == 0).sum()) for weight in weights) == int(wanted * total + 1e-9)


@pytest.mark.parametrize("round_to", [1, 8])
def test_global_filters_of_a_network_stay_within_the_plan_and_are_noted(case, uniform_plan, round_to) -> None:
    resnet = case("resnet20")
    plan = uniform_plan(resnet.layers, pruning=Pruning(0.4, "filter", scope="global"))
    attached = attach(resnet.model(), plan, resnet.layers, resnet.images(1), seed=Seed(0), round_to=round_to)
    for fraction in (0.1, 0.3, 1.0):
        attached.set_progress(fraction)
        widths = [len(mask.scored) for mask in attached.filter_masks]
        total = sum(mask.keep.numel() * width for mask, width in zip(attached.filter_masks, widths, strict=True))
        removed = sum(len(mask.removed()) * width for mask, width in zip(attached.filter_masks, widths, strict=True))
        assert removed <= 0.4 * total
        assert all(int(mask.keep.sum()) % round_to == 0 for mask in attached.filter_masks)
    assert removed > 0.4 * total - 7 * round_to
    noted = [line for line in attached.deviations if line.startswith("global filter sparsity")]
    assert len(noted) == (removed != int(0.4 * total))
