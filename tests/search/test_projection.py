"""Where a training would end that was stopped at a rung."""

import numpy as np
import pytest

from forgefront.search.projection import projected


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Losses at a rung and at the end, the latter half the former, with errors of 0.1."""
    generator = np.random.default_rng(seed)
    rungs = generator.uniform(0.0, 4.0, count)
    return rungs, 0.5 * rungs + 1.0 + 0.1 * generator.normal(size=count)


def test_of_the_same_line_the_end_and_its_deviation_are_found():
    means, deviations = projected(np.array([0.5, 2.0, 3.5]), *drawn(400))
    assert means == pytest.approx([1.25, 2.0, 2.75], abs=0.04)
    assert deviations == pytest.approx([0.1] * 3, rel=0.15)


def test_what_is_told_alike_at_the_rung_ends_there():
    values = np.array([3.0, 7.0, 4.0, 8.0])
    means, deviations = projected(values, values, values)
    assert means == pytest.approx(values)
    assert deviations == pytest.approx(np.zeros(4), abs=1e-9)


def test_few_that_collapse_do_not_bend_what_is_told_of_the_others():
    rungs, ends = drawn(40)
    collapsed = np.concatenate([rungs, [90.0, 95.0]]), np.concatenate([ends, [3.0, 80.0]])
    assert projected(np.array([1.0]), *collapsed)[0] == pytest.approx([1.5], abs=0.15)


def test_what_is_ahead_is_never_told_to_end_behind():
    rungs = np.arange(10.0)
    means, _ = projected(np.array([1.0, 9.0]), rungs, -rungs)
    assert means[0] <= means[1]


@pytest.mark.parametrize("known", [0, 1, 2])
def test_fewer_than_three_tell_nothing(known):
    rungs = np.array([1.0, 2.0, np.nan, 4.0])
    ends = np.array([1.0, 2.0, 3.0, np.inf])
    means, deviations = projected(np.array([1.0]), rungs[4 - 2 - known : 4], ends[4 - 2 - known : 4])
    assert np.isnan(means).all()
    assert np.isnan(deviations).all()


def test_a_value_that_is_no_number_ends_nowhere():
    means, _ = projected(np.array([np.nan, 1.0, np.inf]), *drawn(20))
    assert np.isfinite(means).tolist() == [False, True, False]


def test_equals_at_the_rung_end_at_their_mean():
    means, deviations = projected(np.array([2.0]), np.full(4, 2.0), np.array([1.0, 2.0, 3.0, 2.0]))
    assert means == pytest.approx([2.0])
    assert deviations == pytest.approx([1.0])
