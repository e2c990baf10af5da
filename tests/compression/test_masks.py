"""Magnitude and filter masks: counts are exact whatever ties and zeros there are."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.masks import (
    MaskWeight,
    broken_groups,
    filter_mask,
    filter_norms,
    magnitude_mask,
    pattern_mask,
)
from forgefront.studies.seeds import Seed


def random_weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=Seed(1).torch())


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.29, 0.5, 0.777, 0.99])
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (10, 10), (1, 7)])
def test_floor_of_the_planned_share_goes(shape: tuple[int, ...], sparsity: float) -> None:
    weight = random_weight(*shape)
    removed = int((~magnitude_mask(weight, sparsity)).sum())
    assert 0 <= sparsity * weight.numel() - removed + 1e-6 < 1 + 1e-6


def test_29_percent_of_100_are_29() -> None:
    assert int((~magnitude_mask(random_weight(10, 10), 0.29)).sum()) == 29


def test_the_smallest_go() -> None:
    weight = random_weight(16, 9)
    keep = magnitude_mask(weight, 0.4)
    assert weight[~keep].abs().max() < weight[keep].abs().min()


@pytest.mark.parametrize("weight", [torch.ones(5, 4), torch.zeros(5, 4), torch.tensor([[1.0, -1.0] * 10])])
def test_ties_and_zeros_give_exact_counts_and_the_same_mask_twice(weight: torch.Tensor) -> None:
    keep = magnitude_mask(weight, 0.45)
    assert int((~keep).sum()) == 9
    assert torch.equal(keep, magnitude_mask(weight.clone(), 0.45))


def test_masks_grow_with_sparsity_when_masked_weights_are_zero() -> None:
    weight = random_weight(20, 20)
    first = magnitude_mask(weight, 0.3)
    second = magnitude_mask(weight * first, 0.6)
    assert not (second & ~first).any()
    assert torch.equal(second, magnitude_mask(weight, 0.6))


def test_filters_of_least_l1_norm_go() -> None:
    weight = random_weight(10, 3, 3, 3)
    keep = filter_mask(filter_norms(weight), 0.35)
    norms = weight.abs().sum(dim=(1, 2, 3))
    assert int(keep.sum()) == 7
    assert norms[~keep].max() < norms[keep].min()


def test_coupled_layers_are_chosen_by_the_sum_of_their_norms() -> None:
    norms = [torch.tensor([1.0, 5.0, 2.0, 4.0]), torch.tensor([6.0, 1.0, 1.0, 4.0])]
    assert filter_mask(norms, 0.5).tolist() == [True, False, False, True]


def test_one_filter_survives_and_counts_round_up() -> None:
    norms = torch.arange(1.0, 33.0)
    assert int(filter_mask(norms, 0.999).sum()) == 1
    assert int(filter_mask(norms, 0.6, round_to=8).sum()) == 16
    assert int(filter_mask(norms[:5], 0.1, round_to=8).sum()) == 5


def test_masked_weights_are_positive_zeros_without_gradient() -> None:
    simulator = MaskWeight((2, 1))
    simulator.keep.copy_(torch.tensor([[True], [False]]))
    weight = torch.tensor([[1.0, -2.0], [-3.0, float("inf")]], requires_grad=True)
    masked = simulator(weight)
    masked.sum().backward()
    assert masked.tolist() == [[1.0, -2.0], [0.0, 0.0]]
    assert not torch.signbit(masked[1]).any()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (1, 2), (3, 8)])
@pytest.mark.parametrize("shape", [(6, 16, 3, 3), (5, 24), (3, 8, 1, 1)])
def test_a_pattern_keeps_exactly_the_largest_of_each_run_of_inputs(shape: tuple[int, ...], kept: int, of: int) -> None:
    weight = random_weight(*shape)
    keep = pattern_mask(weight, kept, of)
    assert keep.shape == weight.shape
    for mask, values in zip(keep.split(of, dim=1), weight.abs().split(of, dim=1), strict=True):
        assert (mask.sum(dim=1) == kept).all()
        least = values.masked_fill(~mask, torch.inf).amin(dim=1)
        assert (values.masked_fill(mask, 0.0).amax(dim=1) <= least).all()


def test_inputs_left_over_keep_their_share_rounded_up() -> None:
    keep = pattern_mask(random_weight(4, 11, 3, 3), 2, 4)
    assert (keep[:, :4].sum(dim=1) == 2).all()
    assert (keep[:, 8:].sum(dim=1) == 2).all()
    assert pattern_mask(torch.zeros(2, 5), 1, 4).tolist() == [[False, False, False, True, True]] * 2


def test_a_pattern_grows_from_its_smallest_and_never_leaves_itself() -> None:
    weight = random_weight(8, 12, 3, 3)
    final = pattern_mask(weight, 2, 4)
    keep = torch.ones_like(final)
    for share in (0.0, 0.3, 0.7, 0.95, 1.0):
        grown = pattern_mask(weight * keep, 2, 4, share=share)
        assert int((~grown).sum()) == int(share * 432 + 1e-9)
        assert not (final & ~grown).any()
        assert not (grown & ~keep).any()
        gone, left = weight.abs()[~grown & ~final], weight.abs()[grown & ~final]
        assert not gone.numel() or not left.numel() or gone.max() <= left.min()
        keep = grown
    assert torch.equal(keep, final)


def test_groups_that_are_not_of_a_pattern_are_counted() -> None:
    weight = random_weight(6, 11, 3, 3)
    assert broken_groups(weight, 2, 4) == (162, 162)
    masked = weight * pattern_mask(weight, 2, 4)
    assert broken_groups(masked, 2, 4) == (54, 162)
    assert broken_groups(masked[:, :8], 2, 4) == (0, 108)
    masked[0, :4, 0, 0] = masked[5, 5:8, 2, 2] = 1.0
    assert broken_groups(masked[:, :8], 2, 4) == (2, 108)
    assert broken_groups(weight[:, :3], 2, 4) == (54, 54)
