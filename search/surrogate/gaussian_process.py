"""Gaussian process regression (Rasmussen & Williams 2006, ch. 2 and 5): hyperparameters by MAP, gradients by hand.

Covariance = linear terms + Matérn 5/2 terms + noise. Groups of linear terms share a variance each, a Matérn term has
a lengthscale a feature. Everything is numpy, for at most a few hundred points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

__all__ = ["GaussianProcess", "Inputs", "Posterior", "Prior", "fit_gaussian_process", "log_posterior"]

ROOT5 = math.sqrt(5.0)
JITTER = 1e-8


@dataclass(frozen=True)
class Inputs:
    """Points as the covariance sees them.

    Args:
        linear: (n, p) features whose products are summed.
        smooth: For each Matérn term its (n, q) features.
    """

    linear: np.ndarray
    smooth: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.linear)

    def rows(self, index: np.ndarray) -> Inputs:
        """Some of the points."""
        return Inputs(self.linear[index], tuple(part[index] for part in self.smooth))


@dataclass(frozen=True)
class Prior:
    """Normal priors of the logarithms of all hyperparameters.

    Their order: a variance for each linear group; for each Matérn term its variance and its lengthscales; the noise's
    variance. Targets are assumed to be of variance about 1.

    Args:
        groups: (p,) ints, the group of each linear feature.
        mean: (h,) means.
        deviation: (h,) standard deviations.
    """

    groups: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process.

    Args:
        prior: What it was fitted with.
        theta: (h,) logarithms of its hyperparameters.
    """

    prior: Prior
    theta: np.ndarray

    def covariance(self, first: Inputs, second: Inputs) -> np.ndarray:
        """(n, k) prior covariance of the functions, without noise."""
        groups = int(self.prior.groups.max(initial=-1)) + 1
        variance = np.exp(self.theta[:groups])[self.prior.groups]
        total = (first.linear * variance) @ second.linear.T
        at = groups
        for one, other in zip(first.smooth, second.smooth, strict=True):
            width = one.shape[1]
            scale = np.exp(-self.theta[at + 1 : at + 1 + width])
            total += math.exp(self.theta[at]) * _matern(_squared_distances(one * scale, other * scale))[0]
            at += 1 + width
        return np.asarray(total)

    def prior_variance(self, inputs: Inputs) -> np.ndarray:
        """(n,) prior variance of the function at each point."""
        groups = int(self.prior.groups.max(initial=-1)) + 1
        variance = np.exp(self.theta[:groups])[self.prior.groups]
        total = (inputs.linear**2) @ variance
        at = groups
        for part in inputs.smooth:
            total = total + math.exp(self.theta[at])
            at += 1 + part.shape[1]
        return np.asarray(total)

    @property
    def noise(self) -> float:
        """Variance of the noise, besides what is known of it."""
        return math.exp(self.theta[-1])

    def condition(self, inputs: Inputs, targets: np.ndarray, known_noise: np.ndarray) -> Posterior:
        """The process given observations.

        Args:
            inputs: n points.
            targets: (n,) values of about zero mean.
            known_noise: (n,) variances.
        """
        matrix = self.covariance(inputs, inputs)
        matrix[np.diag_indices_from(matrix)] += self.noise + known_noise + JITTER
        factor = _cholesky(matrix)
        return Posterior(self, inputs, factor, cho_solve((factor, True), targets, check_finite=False))


@dataclass(frozen=True)
class Posterior:
    """A process given observations.

    Args:
        process: The process.
        inputs: The n points observed.
        factor: (n, n) lower Cholesky factor of the covariance of the observations.
        weights: (n,) the covariance's inverse times the observations.
    """

    process: GaussianProcess
    inputs: Inputs
    factor: np.ndarray
    weights: np.ndarray

    def predict(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """(k,) means and (k,) standard deviations of the noise-free function."""
        cross = self.process.covariance(inputs, self.inputs)
        mean = cross @ self.weights
        reduced = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        variance = self.process.prior_variance(inputs) - np.einsum("nk,nk->k", reduced, reduced)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def expecting(self, inputs: Inputs) -> Posterior:
        """As if k more points had been observed with just the values that are expected: surer, but of the same mean.

        Args:
            inputs: The k points.
        """
        cross = self.process.covariance(inputs, self.inputs)
        reduced = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        rest = self.process.covariance(inputs, inputs) - reduced.T @ reduced
        rest[np.diag_indices_from(rest)] += self.process.noise + JITTER
        count, more = len(self.inputs), len(inputs)
        factor = np.zeros((count + more, count + more))
        factor[:count, :count] = self.factor
        factor[count:, :count] = reduced.T
        factor[count:, count:] = _cholesky(rest)
        weights = np.concatenate([self.weights, np.zeros(more)])
        return Posterior(self.process, concatenated([self.inputs, inputs]), factor, weights)


def concatenated(parts: Sequence[Inputs]) -> Inputs:
    """The points of several inputs, one after the other."""
    smooth = tuple(np.concatenate(columns) for columns in zip(*(part.smooth for part in parts), strict=True))
    return Inputs(np.concatenate([part.linear for part in parts]), smooth)


def fit_gaussian_process(
    inputs: Inputs, targets: np.ndarray, known_noise: np.ndarray, prior: Prior, *, iterations: int = 40
) -> GaussianProcess:
    """The process whose hyperparameters have the greatest posterior density, from the prior's mean uphill.

    Args:
        inputs: n points.
        targets: (n,) values of about zero mean and unit variance.
        known_noise: (n,) variances that the observations have besides the noise that is estimated.
        prior: Of the hyperparameters.
        iterations: Of L-BFGS-B.
    """

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = log_posterior(theta, inputs, targets, known_noise, prior)
        return -value, -gradient

    reach = 5.0 * prior.deviation
    bounds = list(zip(prior.mean - reach, prior.mean + reach, strict=True))
    found = minimize(
        loss, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations, "maxcor": 20}
    )
    return GaussianProcess(prior, np.asarray(found.x))


def log_posterior(
    theta: np.ndarray, inputs: Inputs, targets: np.ndarray, known_noise: np.ndarray, prior: Prior
) -> tuple[float, np.ndarray]:
    """Log marginal likelihood (eq. 2.30) plus log prior, up to a constant, and its gradient (eq. 5.9).

    Args:
        theta: (h,) logarithms of the hyperparameters.
        inputs: n points.
        targets: (n,) values.
        known_noise: (n,) variances.
        prior: Of the hyperparameters.
    """
    count = len(targets)
    groups = int(prior.groups.max(initial=-1)) + 1
    variance = np.exp(theta[:groups])
    matrix = (inputs.linear * variance[prior.groups]) @ inputs.linear.T
    terms = []
    at = groups
    for part in inputs.smooth:
        width = part.shape[1]
        scaled = part * np.exp(-theta[at + 1 : at + 1 + width])
        shape, slope = _matern(_squared_distances(scaled, scaled))
        amplitude = math.exp(theta[at])
        matrix += amplitude * shape
        terms.append((at, width, scaled, amplitude * shape, amplitude * slope))
        at += 1 + width
    noise = math.exp(theta[-1])
    matrix[np.diag_indices_from(matrix)] += noise + known_noise + JITTER
    factor = _cholesky(matrix)
    inverse = cho_solve((factor, True), np.eye(count), check_finite=False)
    weights = inverse @ targets
    outer = np.outer(weights, weights) - inverse
    value = -0.5 * targets @ weights - np.log(np.diag(factor)).sum()
    gradient = np.zeros_like(theta)
    each = ((outer @ inputs.linear) * inputs.linear).sum(axis=0)
    gradient[:groups] = 0.5 * variance * np.bincount(prior.groups, weights=each, minlength=groups)
    for start, width, scaled, shape, slope in terms:
        gradient[start] = 0.5 * (outer * shape).sum()
        product = outer * slope
        # of d r² / d log lengthscale = -2 (x - x')² / lengthscale²
        spread = 2.0 * (product.sum(axis=1) @ scaled**2 - ((product @ scaled) * scaled).sum(axis=0))
        gradient[start + 1 : start + 1 + width] = -spread
    gradient[-1] = 0.5 * noise * np.trace(outer)
    away = (theta - prior.mean) / prior.deviation
    return float(value - 0.5 * (away**2).sum()), gradient - away / prior.deviation


def _matern(squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matérn 5/2 of squared distances and its derivative by them."""
    distance = ROOT5 * np.sqrt(squared)
    decay = np.exp(-distance)
    return (1.0 + distance + distance**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + distance) * decay


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product = first @ second.T
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2.0 * product
    return np.maximum(squared, 0.0)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    extra = 0.0
    scale = float(np.mean(np.diag(matrix)))
    for power in range(-9, 1):
        try:
            shifted = matrix + extra * np.eye(len(matrix)) if extra else matrix
            return np.asarray(cholesky(shifted, lower=True, check_finite=False))
        except LinAlgError:
            extra = scale * 10.0**power
    raise LinAlgError("a covariance matrix has no Cholesky factor.")
