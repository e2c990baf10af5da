"""Class weights against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from forgefront.trainers.class_balance import (
    effective_number,
    inverse,
    inverse_capped,
    none,
    repeat_counts,
    repeat_factor,
    scale_weights,
)

COUNTS = np.array([500, 200, 100, 50, 5])


@pytest.mark.parametrize("weighting", [none, inverse, inverse_capped, effective_number])
def test_weights_have_mean_one_and_never_fall_towards_rare_classes(weighting):
    weights = weighting(COUNTS)
    assert weights.mean() == pytest.approx(1.0)
    assert (np.diff(weights) >= 0).all()


@pytest.mark.parametrize("weighting", [none, inverse, inverse_capped, effective_number])
def test_balanced_classes_weigh_one(weighting):
    assert weighting(np.full(7, 30)) == pytest.approx(np.ones(7))


def test_inverse_is_the_inverse_root_of_frequency():
    weights = inverse(COUNTS)
    assert weights[4] / weights[0] == pytest.approx(np.sqrt(500 / 5))
    assert weights[2] / weights[1] == pytest.approx(np.sqrt(200 / 100))


def test_inverse_capped_leaves_classes_above_the_threshold_equal():
    weights = inverse_capped(COUNTS)
    # 1 / 5 of 855 images is 171: the first two classes are more frequent than that
    assert weights[0] == weights[1]
    assert weights[4] / weights[0] == pytest.approx(np.sqrt(171 / 5))


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.9999])
def test_effective_number_is_the_inverse_of_equation_5(beta):
    number = (1 - beta ** COUNTS.astype(float)) / (1 - beta)
    expected = (1 / number) / (1 / number).mean()
    assert effective_number(COUNTS, beta=beta) == pytest.approx(expected)


def test_effective_number_without_memory_is_equal_weights():
    assert effective_number(COUNTS, beta=0.0) == pytest.approx(np.ones(5))


def test_effective_number_towards_one_is_the_inverse_count():
    weights = effective_number(COUNTS, beta=1 - 1e-12)
    assert weights[4] / weights[0] == pytest.approx(100, rel=1e-3)


def test_repeat_factor_is_equation_2():
    assert repeat_factor(COUNTS, threshold=0.1) == pytest.approx(
        [max(1, np.sqrt(0.1 / (n / 855))) for n in COUNTS.tolist()]
    )


def test_default_threshold_repeats_only_classes_rarer_than_balanced():
    factors = repeat_factor(COUNTS)
    assert (factors[:2] == 1).all()
    assert (factors[2:] > 1).all()


@pytest.mark.parametrize("weighting", [inverse, inverse_capped, effective_number, repeat_factor])
def test_a_class_without_images_weighs_as_one_with_one(weighting):
    weights = weighting(np.array([10, 0, 1]))
    assert np.isfinite(weights).all()
    assert weights[1] == weights[2]


@pytest.mark.parametrize("counts", [[-1, 2], [], [[1, 2]]])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="`counts` must be"):
        inverse(np.array(counts))


def test_scale_zero_is_off_and_one_as_published():
    weights = inverse(COUNTS)
    assert scale_weights(weights, 0.0) == pytest.approx(np.ones(5))
    assert scale_weights(weights, 1.0) == pytest.approx(weights)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_scale_is_a_power_and_keeps_the_mean(scale):
    weights = scale_weights(inverse(COUNTS), scale)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[4] / weights[0] == pytest.approx(10**scale)


def test_repeat_counts_round_stochastically_to_their_factors():
    factors = np.repeat([1.0, 1.25, 3.5], 4000)
    counts = repeat_counts(factors, np.random.default_rng(0))
    assert set(counts[:4000]) == {1}
    assert set(counts[4000:8000]) == {1, 2}
    assert set(counts[8000:]) == {3, 4}
    assert counts.reshape(3, -1).mean(axis=1) == pytest.approx([1.0, 1.25, 3.5], abs=0.03)
