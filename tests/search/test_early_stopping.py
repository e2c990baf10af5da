"""Who goes on at a rung: rank first, spread among equals, nobody before there is enough to compare with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forgefront.search.early_stopping import goes_on, joins_front, promotion_order
from forgefront.search.engines.base import Standing
from forgefront.search.feasibility import meets, score_numbers
from forgefront.search.non_dominated import non_dominated
from forgefront.search.rung_values import rung_deviations
from forgefront.studies.conditions import parse_condition

DIRECTIONS = {"accuracy": "maximize", "macs": "minimize"}


def point(accuracy, macs):
    return {"accuracy": accuracy, "macs": macs}


LINE = [point(0.5 + 0.1 * step, 1.0 + step) for step in range(5)]
WORSE = [point(0.3, 9.0), point(0.2, 9.5), point(0.1, 9.9), point(0.05, 10.0)]


@pytest.mark.parametrize(
    ("values", "others", "keep", "warm_up", "expected"),
    [
        (WORSE[0], [], 0.1, 1, True),
        (WORSE[0], LINE, 0.1, 6, True),
        (WORSE[0], LINE, 0.1, 5, False),
        (point(1.0, 0.5), LINE, 0.1, 5, True),
        # six on one front, of which two or three go on, none beside another
        (point(1.0, 5.0), LINE, 0.5, 5, True),
        (point(0.701, 3.05), LINE, 0.3, 5, False),
        # rank counts before spread
        (point(0.71, 2.9), WORSE, 0.2, 4, True),
        (point(0.01, 11.0), [*LINE[:1], *WORSE], 0.9, 4, True),
        (point(0.01, 11.0), [*LINE[:1], *WORSE], 0.8, 4, False),
        # keep of all, itself included; one at least
        (point(0.31, 8.9), [point(0.9, 1.0)], 0.5, 1, False),
        (point(0.31, 8.9), [point(0.9, 1.0)], 0.51, 1, True),
        # nothing that all of them have
        ({"macs": 9.0}, [{"accuracy": 0.4}], 0.5, 1, True),
        ({}, LINE, 0.5, 1, True),
        # one objective in common decides
        ({"macs": 9.0}, LINE, 0.5, 1, False),
        ({"macs": 0.5}, LINE, 0.5, 1, True),
        (point(math.nan, math.nan), WORSE, 0.5, 1, False),
        (point(math.inf, 1.0), LINE, 0.5, 1, False),
        # None is worse than anything, and takes nothing away from the others' comparison
        (point(None, 1.0), LINE, 0.5, 1, False),
        (point(0.1, 9.0), [*LINE, point(None, 99.0)], 0.5, 1, False),
        (point(0.1, 9.0), [point(None, 99.0)], 0.5, 1, True),
    ],
)
def test_who_goes_on(values, others, keep, warm_up, expected):
    assert goes_on(values, others, DIRECTIONS, keep=keep, warm_up=warm_up) is expected


def test_units_do_not_matter():
    generator = np.random.default_rng(0)
    for _ in range(30):
        losses = generator.normal(size=(12, 3))
        scaled = losses * [1e6, 1e-6, 1.0] + [5.0, 0.0, -7.0]
        assert promotion_order(losses) == promotion_order(scaled)


def test_the_order_is_by_rank_and_every_point_is_in_it_once():
    losses = np.random.default_rng(1).normal(size=(40, 2))
    order = promotion_order(losses)
    assert sorted(order) == list(range(40))
    ranks, left = np.zeros(40, dtype=int), np.arange(40)
    while len(left):
        front = non_dominated(losses[left])
        left = left[~front]
        ranks[left] += 1
    assert [int(rank) for rank in ranks[order]] == sorted(ranks.tolist())


def test_each_point_of_a_front_lies_farthest_from_those_before_it():
    angle = np.linspace(0.0, np.pi / 2, 17)
    losses = np.stack([1.0 - np.cos(angle), 1.0 - np.sin(angle)], axis=1)
    order = promotion_order(losses)
    for place in range(1, len(order)):
        gaps = [min(np.linalg.norm(losses[one] - losses[before]) for before in order[:place]) for one in order[place:]]
        assert gaps[0] == pytest.approx(max(gaps))
    # the ends come before what lies between them and the middle
    assert {0, 16} <= set(order[:3])


@pytest.mark.parametrize("losses", [np.zeros((5, 2)), np.full((4, 3), np.inf), np.ones((1, 2))])
def test_equals_keep_their_order(losses):
    assert promotion_order(losses) == list(range(len(losses)))


def test_none_of_none():
    assert promotion_order(np.zeros((0, 2))) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (point(0.95, 2.9), True),
        (LINE[2], True),
        (point(0.6, 3.0), False),
        (point(0.4, 0.5), True),
        (point(math.nan, 0.5), False),
    ],
)
def test_who_would_be_on_the_front(values, expected):
    assert joins_front(values, Standing(front=tuple(LINE)), DIRECTIONS) is expected
    assert joins_front(values, Standing(), DIRECTIONS) is math.isfinite(values["accuracy"])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("accuracy >= 0.8", True),
        ("accuracy > control", False),
        ("accuracy >= control - 0.1", True),
        ("mce_worst <= 2", True),
        ("mce_worst <= control * 0.5", False),
        ("mce <= 10", False),
        ("latency <= 10", False),
        ("mce_best <= control", False),
    ],
)
def test_what_meets_a_condition(condition, expected):
    found = {
        "accuracy": {"value": 0.8, "standard_error": None, "details": {}},
        "mce": {"value": math.nan, "standard_error": 0.1, "details": {"worst": 2, "best": 1, "name": "x"}},
    }
    control = {"accuracy": 0.9, "mce": 1.0, "mce_worst": 3.0}
    assert meets([parse_condition(condition)], score_numbers(found), control) is expected
    assert meets([], {}, {})


def test_a_look_says_where_it_went_otherwise():
    rungs = [{"fraction": 0.25}, {"fraction": 0.5, "deviations": ["slower"]}]
    assert rung_deviations(rungs) == ["rung at 50 %: slower"]
