"""Clustering: few values, nearest ones, zeros kept, gradients to both the dense weight and the codebook."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgefront.compression.clustering import ClusterWeight, assign, look_up, seed_codebook
from forgefront.studies.seeds import Seed


def random_weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=Seed(2).torch())


@pytest.mark.parametrize("clusters", [2, 5, 16])
@pytest.mark.parametrize("rows", [1, 6])
def test_assignment_is_the_nearest_of_a_full_distance_table(rows: int, clusters: int) -> None:
    values, codebook = random_weight(rows, 200), random_weight(rows, clusters + 3)[:, :clusters]
    nearest = (values[:, :, None] - codebook[:, None, :]).abs().argmin(dim=2)
    found = assign(values, codebook)
    assert torch.equal(torch.gather(codebook, 1, found), torch.gather(codebook, 1, nearest))


def test_lloyd_iterations_lower_the_squared_error() -> None:
    values = random_weight(4000).double().numpy()
    errors = []
    for iterations in (0, 1, 10):
        codebook = seed_codebook(values, 8, np.random.default_rng(0), lloyd_iterations=iterations)
        errors.append(np.square(values[:, None] - codebook).min(axis=1).sum())
    assert errors[0] > errors[1] > errors[2]


def test_seeding_draws_values_themselves() -> None:
    values = random_weight(300).double().numpy()
    codebook = seed_codebook(values, 6, np.random.default_rng(0), lloyd_iterations=0)
    assert np.isin(codebook, values).all()
    assert len(set(codebook)) == 6


def test_a_pinned_zero_leaves_the_signs_their_share() -> None:
    values = np.concatenate([np.zeros(500), np.linspace(0.1, 1, 300), np.linspace(-1, -0.1, 100)])
    codebook = seed_codebook(values, 9, np.random.default_rng(0), zero=True)
    assert codebook[0] == 0.0
    assert (codebook < 0).sum() == 2
    assert (codebook > 0).sum() == 6


def test_one_value_beside_a_pinned_zero_has_the_sign_of_the_larger_sum() -> None:
    values = np.concatenate([np.zeros(5), np.full(30, 0.1), np.full(10, -0.5)])
    assert seed_codebook(values, 2, np.random.default_rng(0), zero=True).tolist() == [0.0, -0.5]
    np.testing.assert_allclose(seed_codebook(-values, 2, np.random.default_rng(0), zero=True), [0.0, 0.5])


def test_of_many_values_seeds_come_from_an_even_sample_and_means_from_all() -> None:
    values = random_weight(3 * 2**16).double().numpy()
    seeds = seed_codebook(values, 64, np.random.default_rng(0), lloyd_iterations=0)
    assert np.isin(seeds, np.sort(values)[1::3]).all()
    means = seed_codebook(values, 64, np.random.default_rng(0), lloyd_iterations=1)
    nearest = np.abs(values[:, None] - seeds).argmin(axis=1)
    np.testing.assert_allclose(means, [values[nearest == index].mean() for index in range(64)], rtol=1e-6)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(9), np.full(7, 0.5), np.array([-0.5, 0.5, 0.5])])
@pytest.mark.parametrize("zero", [True, False])
def test_fewer_distinct_values_than_clusters_give_a_full_finite_codebook(values: np.ndarray, zero: bool) -> None:
    codebook = seed_codebook(values, 4, np.random.default_rng(0), zero=zero)
    assert codebook.shape == (4,)
    assert np.isfinite(codebook).all()
    assert set(np.unique(values)) <= set(codebook)


def test_gradients_reach_weights_unchanged_and_codebooks_summed() -> None:
    rows = torch.tensor([[0.1, 0.2, 0.9, -1.0]], requires_grad=True)
    for gradient, expected in (("sum", [[3.0, 4.0, 0.0, 3.0]]), ("mean", [[1.5, 4.0, 0.0, 3.0]])):
        codebook = torch.tensor([[0.0, -0.8, 7.0, 1.0]], requires_grad=True)
        rows.grad = None
        look_up(rows, codebook, gradient=gradient).mul(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
        assert rows.grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]
        assert codebook.grad.tolist() == expected


@pytest.mark.parametrize("zeros", ["pinned", "kept"])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_zeros_survive_any_step_of_the_codebook(zeros: str, per: str) -> None:
    weight = random_weight(6, 4, 3, 3)
    weight[weight.abs() < 0.6] = 0.0
    weight[2] = 0.0
    cluster = ClusterWeight(weight, 5, per=per, zeros=zeros)
    cluster.seed(weight, Seed(3))
    for step in range(3):
        simulated = cluster(weight)
        assert (simulated[weight == 0] == 0).all()
        groups = [simulated] if per == "layer" else list(simulated)
        assert max(len(torch.unique(group[group != 0])) for group in groups) <= (4 if zeros == "pinned" else 5)
        with torch.no_grad():
            cluster.centroids += random_weight(step + 1).mean() * 0.3


def test_it_passes_weights_until_seeded_and_repeats_for_a_seed() -> None:
    weight = random_weight(8, 9)
    first, second, other = (ClusterWeight(weight, 4) for _ in range(3))
    assert first(weight) is weight
    first.seed(weight, Seed(5))
    second.seed(weight, Seed(5))
    other.seed(weight, Seed(6))
    assert torch.equal(first(weight), second(weight))
    assert len(torch.unique(first(weight))) == 4
    assert not torch.equal(first.codebook(), other.codebook())


@pytest.mark.parametrize("clusters", [2, 3, 256])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_a_pinned_zero_counts_among_any_number_of_values(clusters: int, per: str) -> None:
    for weight in (random_weight(4, 9), torch.zeros(4, 9), torch.ones(4, 9), -random_weight(4, 9).abs()):
        weight[:, ::2] = 0.0
        cluster = ClusterWeight(weight, clusters, per=per, zeros="pinned")
        cluster.seed(weight, Seed(3))
        simulated = cluster(weight)
        assert torch.isfinite(simulated).all()
        assert (simulated[weight == 0] == 0).all()
        for row in [simulated] if per == "layer" else list(simulated):
            assert len(torch.unique(row)) <= clusters


def test_the_codebooks_gradient_is_the_derivative_where_assignments_stay() -> None:
    rows, codebook = random_weight(2, 40).double(), random_weight(2, 5).double().requires_grad_()
    torch.autograd.gradcheck(lambda entries: look_up(rows, entries).square(), codebook)
    sizes = torch.zeros(2, 5, dtype=torch.float64).scatter_add_(1, assign(rows, codebook), torch.ones_like(rows))
    summed, mean = (
        torch.autograd.grad(look_up(rows, codebook, gradient=kind).square().sum(), codebook)[0]
        for kind in ("sum", "mean")
    )
    assert torch.allclose(mean * sizes, summed)
