import importlib.util
import sys
import types

import numpy as np
import pytest

from forgefront.search.samplers.age_moea2 import curvature, geodesic_distances, survival_scores
from forgefront.search.samplers.pymoo_algorithms import AGEMOEA2Survival, reference_directions


@pytest.fixture(scope="module")
def published():
    """pymoo's own code; where numba is not installed, interpreted rather than compiled."""
    stand_in = types.ModuleType("numba")
    stand_in.jit = lambda **options: lambda function: function
    stand_in.float64, stand_in.intp, stand_in.boolean = np.float64, np.intp, np.bool_
    missing = importlib.util.find_spec("numba") is None
    if missing:
        sys.modules["numba"] = stand_in
    try:
        from pymoo.algorithms.moo import age2
    finally:
        if missing:
            del sys.modules["numba"]
    return age2


def front(generator, count, objectives, power):
    """Points on the surface sum(f**power) = 1."""
    points = generator.random((count, objectives)) + 1e-3
    return points / (points**power).sum(axis=1, keepdims=True) ** (1 / power)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("objectives", [2, 4])
def test_the_curvature_of_a_known_surface_is_found(power, objectives):
    points = front(np.random.default_rng(0), 300, objectives, power)
    # near an axis all surfaces are alike
    assert curvature(points, points.min(axis=1) < 0.3 * points.max(axis=1)) == pytest.approx(power, rel=0.01)


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.ones((3, 2)), np.full((3, 2), 1e-300)])
def test_a_degenerate_front_has_a_curvature(points):
    assert 0.1 < curvature(points, np.zeros(3, dtype=bool)) <= 20


def test_distances_on_a_plane_are_straight():
    points = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert geodesic_distances(points, 1.0) == pytest.approx(np.sqrt([[0, 2, 0.5], [2, 0, 0.5], [0.5, 0.5, 0]]))
    # by way of the circle's middle, longer than the chord and shorter than the arc
    assert np.sqrt(2) < geodesic_distances(points, 2.0)[0, 1] < np.pi / 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [0.6, 1.0, 3.0])
def test_scores_equal_pymoos(published, seed, power):
    points = front(np.random.default_rng(seed), 25, 3, power) * [1.0, 10.0, 100.0]
    scores, normalization, exponent = survival_scores(points)
    theirs = published.AGEMOEA2Survival().survival_score(points.copy(), points.min(axis=0))
    np.testing.assert_allclose(scores, theirs[0], rtol=1e-3)
    assert exponent == pytest.approx(theirs[1], rel=1e-3)
    np.testing.assert_allclose(normalization, theirs[2], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_survivors_of_one_front_are_pymoos(published, seed):
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    generator = np.random.default_rng(seed)
    losses = front(generator, 60, 3, 2.0) * [1.0, 10.0, 100.0]
    survivors = []
    for survival in (AGEMOEA2Survival(), published.AGEMOEA2Survival()):
        population = Population.new(F=losses.copy(), index=np.arange(60))
        kept = survival.do(Problem(n_obj=3), population, n_survive=20)
        survivors.append(sorted(individual.get("index") for individual in kept))
    assert survivors[0] == survivors[1]
    assert len(survivors[0]) == 20


def test_a_later_front_is_cut_by_nearness():
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    first = front(np.random.default_rng(0), 10, 2, 1.0)
    later = [[2.0, 2.0], [1.9, 2.2], [1.5, 3.5]]
    population = Population.new(F=np.vstack([later, first]), index=np.arange(13))
    for keep, survivors in ((11, {0}), (12, {0, 1})):
        kept = AGEMOEA2Survival().do(Problem(n_obj=2), population, n_survive=keep)
        assert {individual.get("index") for individual in kept} == survivors | set(range(3, 13))


@pytest.mark.parametrize(
    ("objectives", "population", "count"), [(1, 20, 1), (2, 20, 20), (3, 20, 15), (4, 20, 20), (4, 60, 56)]
)
def test_as_many_directions_as_a_generation_holds(objectives, population, count):
    directions = reference_directions(objectives, population)
    assert directions.shape == (count, objectives)
    np.testing.assert_allclose(directions.sum(axis=1), 1.0)
    assert reference_directions(3, 20, divisions=2).shape == (6, 3)
