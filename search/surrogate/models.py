"""Models of objectives: what is forecast exactly, estimates corrected by what was measured, and Gaussian processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .gaussian_process import GaussianProcess, Inputs, Posterior, Prior, fit_gaussian_process
from .warp import Warp, fit_warp

__all__ = ["Measured", "Model", "Shape", "below", "fit_shape"]


@dataclass(frozen=True)
class Measured:
    """What is known of one objective.

    Args:
        inputs: n points.
        losses: (n,) finite floats.
        errors: (n,) standard errors, 0 where not known.
        estimates: (n,) estimates of the losses, or None.
    """

    inputs: Inputs
    losses: np.ndarray
    errors: np.ndarray
    estimates: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.losses)

    def rows(self, index: np.ndarray) -> Measured:
        """Some of the points."""
        estimates = None if self.estimates is None else self.estimates[index]
        return Measured(self.inputs.rows(index), self.losses[index], self.errors[index], estimates)


@dataclass(frozen=True)
class Shape:
    """What is learned of an objective as a whole, before it is conditioned on points.

    Args:
        warp: From losses to the scale of the model.
        line: Intercept and slope of the mean in the warped estimate; the slope is 0 without an estimate.
        spread: Standard deviation of what the process models, in units of the warped scale.
        process: Of the residuals divided by `spread`.
    """

    warp: Warp
    line: tuple[float, float]
    spread: float
    process: GaussianProcess

    def given(self, measured: Measured) -> Model:
        """The model of this shape given what was measured."""
        noise = (self.warp.errors(measured.losses, measured.errors) / self.spread) ** 2
        targets = (self.warp(measured.losses) - self.base(measured.estimates)) / self.spread
        return Model(self, self.process.condition(measured.inputs, targets, noise))

    def base(self, estimates: np.ndarray | None) -> np.ndarray:
        """The mean on the warped scale before anything is measured, (k,) or a scalar."""
        trend = self.line[1] * self.warp(estimates) if estimates is not None else 0.0
        return np.asarray(self.line[0] + trend)


@dataclass(frozen=True)
class Model:
    """An objective's distribution at any point: normal on the scale of its shape's warp."""

    shape: Shape
    posterior: Posterior

    def predict(self, inputs: Inputs, estimates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(k,) means and (k,) standard deviations on the warped scale."""
        mean, deviation = self.posterior.predict(inputs)
        return self.shape.base(estimates) + self.shape.spread * mean, self.shape.spread * deviation

    def expecting(self, inputs: Inputs) -> Model:
        """As if more points had been measured to be just as they are believed."""
        return Model(self.shape, self.posterior.expecting(inputs))

    def losses(self, warped: np.ndarray) -> np.ndarray:
        """Losses of values on the warped scale."""
        return self.shape.warp.inverse(warped)


def below(bounds: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(k, b) probabilities that normal variables with (k,) means and deviations are at most `bounds` (b,)."""
    away = bounds[None, :].astype(np.float32) - mean[:, None].astype(np.float32)
    away /= np.maximum(deviation, 1e-9)[:, None].astype(np.float32)
    return normal_cdf(away)


def normal_cdf(values: np.ndarray) -> np.ndarray:
    """Distribution function of the standard normal, to 2e-4 (Page 1977), many times as fast as the exact one."""
    cubic = values * values
    cubic *= 0.044715
    cubic += 1.0
    cubic *= values
    cubic *= math.sqrt(2.0 / math.pi)
    np.tanh(cubic, out=cubic)
    cubic += 1.0
    cubic *= 0.5
    return cubic


def fit_shape(measured: Measured, prior: Prior) -> Shape:
    """Learn an objective's shape.

    Args:
        measured: From one point on.
        prior: Of the process.
    """
    losses, estimates = measured.losses, measured.estimates
    warp = _warp(losses, estimates)
    warped = warp(losses)
    line = (float(warped.mean()), 0.0) if estimates is None else _line(warp(estimates), warped)
    residual = warped - line[0] - (line[1] * warp(estimates) if estimates is not None else 0.0)
    spread = max(float(residual.std()), 1e-6)
    noise = (warp.errors(losses, measured.errors) / spread) ** 2
    return Shape(warp, line, spread, fit_gaussian_process(measured.inputs, residual / spread, noise, prior))


def _warp(losses: np.ndarray, estimates: np.ndarray | None) -> Warp:
    if estimates is None:
        return fit_warp(losses)
    # estimates are off by a share of what they estimate
    for sign in (1.0, -1.0):
        # what is maximised has negative losses
        if (sign * losses).min() > 0 and (sign * estimates).min() > 0:
            logs = sign * np.log(sign * losses)
            return Warp(float(logs.mean()), max(float(logs.std()), 1e-9), logarithmic=True, sign=sign)
    return Warp(float(losses.mean()), max(float(losses.std()), 1e-9))


def _line(estimates: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of values in estimates, both drawn towards an estimate that is right."""
    count = len(values)
    centred = estimates - estimates.mean()
    squares = float(centred @ centred)
    # as much as two points of variance 1
    slope = (float(centred @ values) + 2.0) / (squares + 2.0)
    if not math.isfinite(slope):
        slope = 1.0
    intercept = float((values - slope * estimates).sum()) / (count + 0.5)
    return intercept, slope
