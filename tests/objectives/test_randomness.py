"""Counter-based draws: subsets, streams, distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from forgefront.objectives.corruptions.poisson import poisson_counts
from forgefront.objectives.corruptions.randomness import Draws


def draws(stream: str = "a", seed: int = 0, count: int = 50) -> Draws:
    return Draws(seed, torch.arange(count), stream)


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers"])
def test_a_subset_of_images_gets_the_draws_of_the_whole(kind: str) -> None:
    chosen = torch.tensor([31, 4, 17])
    whole, part = draws(), Draws(0, chosen, "a")
    for shape in ((), (7,), (3, 5, 5)):
        arguments = (-3, 9, *shape) if kind == "integers" else shape
        assert torch.equal(getattr(whole, kind)(*arguments)[chosen], getattr(part, kind)(*arguments))


def test_calls_streams_seeds_and_images_do_not_repeat_each_other() -> None:
    first = draws()
    tables = [first.uniform(400), first.uniform(400), draws("b").uniform(400), draws(seed=1).uniform(400)]
    rows = torch.cat(tables)
    correlation = np.corrcoef(rows.numpy())
    np.fill_diagonal(correlation, 0.0)
    # 200 rows of 400: 19,900 pairs of correlations with deviation 1/20
    assert np.abs(correlation).max() < 5.0 / 20.0
    assert len(torch.unique(rows)) > 0.99 * rows.numel()


def test_uniform_draws_are_uniform_and_independent_along_a_row() -> None:
    values = draws(count=400).uniform(500).double()
    assert values.min() > 0.0
    assert values.max() < 1.0
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-3
    centred = values - 0.5
    for lag in (1, 2, 250):
        covariance = (centred[:, lag:] * centred[:, :-lag]).mean() * 12.0
        assert abs(float(covariance)) < 5.0 / (400 * (500 - lag)) ** 0.5
    # neighbouring images share consecutive indices and nothing else
    assert abs(float((centred[1:] * centred[:-1]).mean() * 12.0)) < 5.0 / (399 * 500) ** 0.5


def test_normal_draws_are_normal() -> None:
    values = draws(count=400).normal(501).double()
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    halves = values[:, :250] * values[:, 251:501]
    assert abs(float(halves.mean())) < 5.0 / halves.numel() ** 0.5


def test_integers_cover_their_range_evenly() -> None:
    counts = torch.bincount(draws().integers(-1, 4, 2000).flatten() + 1, minlength=6)
    assert counts[5] == 0
    assert stats.chisquare(counts[:5].numpy()).pvalue > 1e-3


def test_bounds_of_uniform_draws() -> None:
    values = draws().uniform(1000, low=-45.0, high=45.0)
    assert -45.0 < values.min() < -44.0
    assert 44.0 < values.max() < 45.0


@pytest.mark.parametrize("photons", [3.0, 5.0, 12.0, 25.0, 50.0, 60.0, 75.0, 100.0, 250.0, 500.0])
def test_poisson_counts_are_quantiles_of_the_distribution(photons: float) -> None:
    normal = torch.linspace(-5.75, 5.75, 5001)
    exact = normal.double().numpy()
    ranks = np.arange(1200)
    for level in (0, 1, 2, 60, 128, 200, 255):
        found = poisson_counts(torch.full_like(normal, level, dtype=torch.int64), normal.clone(), photons).numpy()
        rate = level / 255.0 * photons
        # each tail by the probability that is small there
        lower = np.searchsorted(stats.poisson.cdf(ranks, rate), stats.norm.cdf(exact))
        upper = np.searchsorted(-stats.poisson.sf(ranks, rate), -stats.norm.sf(exact))
        differs = found != np.where(exact > 0.0, upper, lower)
        # a number next to a step may fall on its other side in float32
        assert differs.mean() < 1e-3


@pytest.mark.parametrize("photons", [3.0, 60.0, 500.0])
@pytest.mark.parametrize("level", [1, 40, 255])
def test_poisson_counts_have_the_mean_and_the_variance_of_their_rate(photons: float, level: int) -> None:
    normal = draws(count=200).normal(500)
    values = poisson_counts(torch.full_like(normal, level, dtype=torch.int64), normal, photons).double()
    rate, count = level / 255.0 * photons, values.numel()
    assert float(values.mean()) == pytest.approx(rate, abs=5.0 * (rate / count) ** 0.5)
    deviation = ((rate + 2.0 * rate**2) / count) ** 0.5
    assert float(values.var()) == pytest.approx(rate, abs=5.0 * deviation)


def test_indices_must_be_whole_numbers() -> None:
    with pytest.raises(ValueError, match="`indices`"):
        Draws(0, torch.rand(3), "a")
