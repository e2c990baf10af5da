"""Increasing transformations that make an objective's values look normal (Yeo & Johnson 2000)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Warp", "fit_warp"]

POWERS = np.linspace(0.0, 2.0, 21)


@dataclass(frozen=True)
class Warp:
    """``a + b * yeo_johnson((value - centre) / scale)``, or of the logarithm of the value.

    Args:
        centre: In the value's unit (or the logarithm's).
        scale: Of the same; positive.
        power: In [0, 2]; 1 bends nothing, less shortens the upper tail.
        logarithmic: Whether values, which must then be positive, are replaced by their logarithms first.
        sign: 1, or -1 for negative values, where `logarithmic`: ``-log(-value)``.
    """

    centre: float
    scale: float
    power: float = 1.0
    logarithmic: bool = False
    sign: float = 1.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Warped values; where `logarithmic`, values of the wrong sign are taken for the smallest of the right one."""
        if self.logarithmic:
            values = self.sign * np.log(np.maximum(self.sign * values, 1e-300))
        return yeo_johnson((values - self.centre) / self.scale, self.power)

    def inverse(self, warped: np.ndarray) -> np.ndarray:
        """The values that these were."""
        values = self.centre + self.scale * inverse_yeo_johnson(warped, self.power)
        return self.sign * np.exp(self.sign * values) if self.logarithmic else values

    def errors(self, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Standard errors (n,) on the warped scale, to first order."""
        step = 1e-4 * self.scale * (np.maximum(np.abs(values), 1e-12) if self.logarithmic else 1.0)
        slope = (self(values + step) - self(values - step)) / (2.0 * step)
        return np.abs(slope) * errors


def fit_warp(values: np.ndarray) -> Warp:
    """The warp under which `values` (n,) are likeliest to be normal, with a weak prior for no bend.

    Args:
        values: Finite; constant ones are only shifted.
    """
    centre, scale = float(np.median(values)), float(np.std(values))
    if scale <= 1e-12 * max(1.0, abs(centre)):
        return Warp(centre, 1.0)
    standard = (values - centre) / scale
    slope = float((np.sign(standard) * np.log1p(np.abs(standard))).sum())
    likelihood = [
        # normal density of the warped values, times the warp's slope at the values (eq. 3.1)
        -0.5 * len(values) * np.log(np.var(yeo_johnson(standard, power)) + 1e-300)
        + (power - 1.0) * slope
        # few values say little of their distribution
        - 2.0 * (power - 1.0) ** 2
        for power in POWERS.tolist()
    ]
    return Warp(centre, scale, float(POWERS[int(np.argmax(likelihood))]))


def yeo_johnson(values: np.ndarray, power: float) -> np.ndarray:
    """Equation 2.1 of the paper, for a power in [0, 2]."""
    up, down = np.maximum(values, 0.0), np.maximum(-values, 0.0)
    above = np.log1p(up) if power == 0.0 else ((1.0 + up) ** power - 1.0) / power
    below = np.log1p(down) if power == 2.0 else ((1.0 + down) ** (2.0 - power) - 1.0) / (2.0 - power)
    return np.asarray(above - below)


def inverse_yeo_johnson(values: np.ndarray, power: float) -> np.ndarray:
    """What `yeo_johnson` maps to `values`."""
    up, down = np.maximum(values, 0.0), np.maximum(-values, 0.0)
    above = np.expm1(up) if power == 0.0 else (1.0 + power * up) ** (1.0 / power) - 1.0
    rest = 2.0 - power
    below = np.expm1(down) if power == 2.0 else (1.0 + rest * down) ** (1.0 / rest) - 1.0
    return np.asarray(above - below)
