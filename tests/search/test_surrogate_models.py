import math

import numpy as np
import pytest
from scipy.stats import norm

from forgefront.search.hypervolume import hypervolume
from forgefront.search.surrogate.expected_improvement import dominated, undominated_points
from forgefront.search.surrogate.gaussian_process import (
    GaussianProcess,
    Inputs,
    Prior,
    concatenated,
    fit_gaussian_process,
    log_posterior,
)
from forgefront.search.surrogate.models import Measured, below, fit_shape, normal_cdf
from forgefront.search.surrogate.warp import Warp, fit_warp, inverse_yeo_johnson, yeo_johnson


def generator(seed=0):
    return np.random.default_rng(seed)


def inputs_of(points):
    linear = np.concatenate([points - 0.5, np.ones((len(points), 1))], axis=1)
    return Inputs(linear, (points[:, :2], points))


def prior_of(size, smooth=(2, 4)):
    groups = np.array([0] * size + [1])
    count = 2 + sum(1 + width for width in smooth) + 1
    return Prior(groups, np.full(count, -0.7), np.full(count, 1.3))


def toy(count=30, noise=0.05, seed=0):
    draws = generator(seed)
    points = draws.random((count, 4))
    values = np.sin(4 * points[:, 0]) + points[:, 1] ** 2 - points[:, 2] + noise * draws.standard_normal(count)
    return points, (values - values.mean()) / values.std()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(seed):
    points, values = toy(seed=seed)
    inputs, prior = inputs_of(points), prior_of(4)
    known = generator(seed).random(len(points)) * 0.01
    theta = prior.mean + 0.4 * generator(seed + 9).standard_normal(len(prior.mean))
    _, gradient = log_posterior(theta, inputs, values, known, prior)
    for index in range(len(theta)):
        step = np.zeros_like(theta)
        step[index] = 1e-5
        up = log_posterior(theta + step, inputs, values, known, prior)[0]
        down = log_posterior(theta - step, inputs, values, known, prior)[0]
        assert gradient[index] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_the_marginal_likelihood_is_the_normal_density():
    points, values = toy(12)
    inputs, prior = inputs_of(points), prior_of(4)
    known = np.full(len(points), 0.02)
    process = GaussianProcess(prior, prior.mean)
    matrix = process.covariance(inputs, inputs) + np.diag(known + process.noise + 1e-8)
    sign, determinant = np.linalg.slogdet(matrix)
    wanted = -0.5 * values @ np.linalg.solve(matrix, values) - 0.5 * determinant
    assert sign > 0
    assert log_posterior(prior.mean, inputs, values, known, prior)[0] == pytest.approx(wanted, rel=1e-9)


def test_fitting_climbs_and_predicts_what_it_has_not_seen():
    points, values = toy(80)
    prior = prior_of(4)
    train, test = np.arange(60), np.arange(60, 80)
    inputs = inputs_of(points)
    known = np.zeros(len(points))
    process = fit_gaussian_process(inputs.rows(train), values[train], known[train], prior)
    before = log_posterior(prior.mean, inputs.rows(train), values[train], known[train], prior)[0]
    assert log_posterior(process.theta, inputs.rows(train), values[train], known[train], prior)[0] > before
    mean, deviation = process.condition(inputs.rows(train), values[train], known[train]).predict(inputs.rows(test))
    error = mean - values[test]
    assert np.sqrt((error**2).mean()) < 0.25
    assert np.abs(error / np.hypot(deviation, math.sqrt(process.noise))).max() < 5


def test_predictions_are_those_of_the_textbook():
    points, values = toy(15)
    prior = prior_of(4)
    process = GaussianProcess(prior, prior.mean)
    known = np.full(15, 0.1)
    inputs, others = inputs_of(points), inputs_of(generator(3).random((6, 4)))
    mean, deviation = process.condition(inputs, values, known).predict(others)
    matrix = process.covariance(inputs, inputs) + np.diag(known + process.noise + 1e-8)
    cross = process.covariance(others, inputs)
    assert mean == pytest.approx(cross @ np.linalg.solve(matrix, values), rel=1e-8)
    full = process.covariance(others, others) - cross @ np.linalg.solve(matrix, cross.T)
    assert deviation**2 == pytest.approx(np.diag(full), rel=1e-6)
    assert process.prior_variance(others) == pytest.approx(np.diag(process.covariance(others, others)), rel=1e-9)


def test_expected_points_make_surer_and_move_no_mean():
    points, values = toy(20)
    prior = prior_of(4)
    posterior = GaussianProcess(prior, prior.mean).condition(inputs_of(points), values, np.zeros(20))
    more, others = inputs_of(generator(5).random((3, 4))), inputs_of(generator(6).random((7, 4)))
    expecting = posterior.expecting(more)
    told = np.concatenate([values, posterior.predict(more)[0]])
    direct = posterior.process.condition(concatenated([inputs_of(points), more]), told, np.zeros(23))
    for one, wanted in zip(expecting.predict(others), direct.predict(others), strict=True):
        assert one == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert (expecting.predict(others)[1] < posterior.predict(others)[1]).all()


def test_repeated_points_do_not_break_the_factor():
    points = np.repeat(generator().random((3, 4)), 8, axis=0)
    process = fit_gaussian_process(inputs_of(points), np.repeat([1.0, 0.0, -1.0], 8), np.zeros(24), prior_of(4))
    mean, _ = process.condition(inputs_of(points), np.repeat([1.0, 0.0, -1.0], 8), np.zeros(24)).predict(
        inputs_of(points[[0, 8, 16]])
    )
    assert mean == pytest.approx([1.0, 0.0, -1.0], abs=0.1)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 1.7, 2.0])
def test_yeo_johnson_has_an_inverse_and_rises(power):
    values = np.linspace(-6, 6, 101)
    warped = yeo_johnson(values, power)
    assert (np.diff(warped) > 0).all()
    assert inverse_yeo_johnson(warped, power) == pytest.approx(values, abs=1e-9)
    assert yeo_johnson(np.zeros(1), power)[0] == 0.0


@pytest.mark.parametrize(("logarithmic", "sign"), [(False, 1.0), (True, 1.0), (True, -1.0)])
def test_a_warp_is_undone_and_carries_errors(logarithmic, sign):
    values = sign * np.array([0.1, 0.4, 1.0, 9.0])
    warp = Warp(0.2, 1.5, 0.4, logarithmic, sign)
    assert warp.inverse(warp(values)) == pytest.approx(values)
    step = 1e-5
    slope = (warp(values + step) - warp(values)) / step
    assert warp.errors(values, np.full(4, 0.01)) == pytest.approx(0.01 * slope, rel=1e-3)


def skewness(values):
    centred = values - values.mean()
    return (centred**3).mean() / centred.std() ** 3


def test_a_warp_bends_what_is_skewed_and_leaves_what_is_not():
    draws = generator().standard_normal(400)
    assert fit_warp(draws).power == pytest.approx(1.0, abs=0.2)
    skewed = np.exp(draws)
    assert skewness(fit_warp(skewed)(skewed)) < 0.4 * skewness(skewed)
    assert fit_warp(np.full(5, 3.0))(np.full(5, 3.0)) == pytest.approx(np.zeros(5))


def test_the_fast_normal_distribution_function():
    values = np.linspace(-8, 8, 4001)
    assert normal_cdf(values.copy()) == pytest.approx(norm.cdf(values), abs=2e-4)
    chances = below(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert chances == pytest.approx(np.array([[0.5, norm.cdf(1.0)], [0.0, 0.5]]), abs=3e-4)


@pytest.mark.parametrize("seed", range(4))
def test_improvement_without_doubt_is_the_hypervolume_gained(seed):
    draws = generator(seed)
    front = draws.random((12, 3))
    candidates = 0.8 * draws.random((5, 3))
    reference = np.ones(3)
    bounds, volume = undominated_points(
        draws, front, candidates.min(axis=0), reference, candidates, count=10**6, draws=400_000
    )
    gained = (candidates[:, None, :] <= bounds[None, :, :]).all(axis=2).sum(axis=1) * volume
    wanted = [hypervolume(np.vstack([front, one]), reference) - hypervolume(front, reference) for one in candidates]
    assert gained == pytest.approx(wanted, abs=0.01)


def test_expected_improvement_in_one_dimension_is_the_closed_form():
    mean, deviation, best, reference = 0.3, 0.2, 0.35, 1.0
    bounds, volume = undominated_points(
        generator(), np.array([[best]]), np.array([-1.0]), np.array([reference]), np.array([[-1.0]]), count=10**6
    )
    found = float(below(bounds[:, 0], np.array([mean]), np.array([deviation])).sum() * volume)
    score = (best - mean) / deviation
    assert found == pytest.approx(deviation * (score * norm.cdf(score) + norm.pdf(score)), rel=0.02)


def test_dominated_is_what_it_says():
    draws = generator()
    points, others = draws.random((300, 3)), draws.random((70, 3))
    wanted = (others[:, None, :] <= points[None, :, :]).all(axis=2).any(axis=0)
    assert (dominated(points, others) == wanted).all()
    assert not dominated(points, np.zeros((0, 3))).any()


@pytest.mark.parametrize(("positive", "known"), [(True, True), (True, False), (False, True), (False, False)])
def test_an_estimate_that_is_nearly_right_is_worth_many_points(positive, known):
    draws = generator(1)
    points = draws.random((60, 4))
    truth = 0.2 + points @ np.array([1.0, 0.5, 0.2, 0.1]) + 0.3 * np.sin(9 * points[:, 0] * points[:, 3])
    truth = truth if positive else truth - 3.0
    estimates = truth + 0.02 * np.cos(5 * points[:, 1])
    inputs = inputs_of(points)
    measured = Measured(inputs, truth, np.zeros(60), estimates if known else None)
    head, rest = np.arange(12), np.arange(12, 60)
    model = fit_shape(measured.rows(head), prior_of(4)).given(measured.rows(head))
    mean, deviation = model.predict(inputs.rows(rest), estimates[rest] if known else None)
    error = np.abs(model.losses(mean) - truth[rest]).mean()
    assert (error < 0.02) == known
    assert (deviation > 0).all()


def test_what_is_maximised_has_the_mirrored_model_of_what_is_minimised():
    draws = generator(2)
    points = draws.random((40, 4))
    estimates = np.exp(2.0 * points[:, 0])
    # off by a share of what is estimated
    losses = estimates * np.exp(0.3 * np.sin(5 * points[:, 1]))
    head, rest = np.arange(25), np.arange(25, 40)
    found = []
    for sign in (1.0, -1.0):
        measured = Measured(inputs_of(points), sign * losses, 0.01 * losses, sign * estimates)
        model = fit_shape(measured.rows(head), prior_of(4)).given(measured.rows(head))
        mean, deviation = model.predict(measured.inputs.rows(rest), sign * estimates[rest])
        found.append((sign * mean, deviation, sign * model.losses(mean), sign * model.losses(mean - sign * deviation)))
        assert model.shape.warp.logarithmic
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
