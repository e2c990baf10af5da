"""Where a training ends that has come to a rung, told by those that went on from there to their end."""

from __future__ import annotations

import numpy as np

__all__ = ["projected"]

FEWEST = 3
NEAREST_SHARE, FEWEST_NEAREST = 0.5, 10
STEEPEST = 1.5


def projected(values: np.ndarray, rungs: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the losses at the end.

    A line through the half of the known trainings that are nearest at the rung: what is far behind there gains much
    more until the end than what is ahead, and a line through all of them would be bent by the few that collapse.

    Args:
        values: (k,) losses at the rung.
        rungs: (n,) losses at the rung of trainings whose end is known.
        ends: (n,) their losses at the end. Trainings with one that is not finite are left out.

    Returns:
        (k,) and (k,) floats; NaN where fewer than three trainings tell, or for a value that is not finite.
    """
    finite = np.isfinite(rungs) & np.isfinite(ends)
    rungs, ends = rungs[finite], ends[finite]
    found = np.full((2, len(values)), np.nan)
    if len(rungs) >= FEWEST:
        count = min(len(rungs), max(FEWEST_NEAREST, int(NEAREST_SHARE * len(rungs))))
        for index in np.flatnonzero(np.isfinite(values)).tolist():
            nearest = np.argsort(np.abs(rungs - values[index]), kind="stable")[:count]
            found[:, index] = _on_line(float(values[index]), rungs[nearest], ends[nearest])
    return found[0], found[1]


def _on_line(value: float, rungs: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    centred, centre = rungs - rungs.mean(), float(ends.mean())
    squares = float(centred @ centred)
    # what is ahead at the rung is not expected to be behind at the end
    slope = float(np.clip(centred @ (ends - centre) / squares, 0.0, STEEPEST)) if squares > 0.0 else 1.0
    residuals = ends - centre - slope * centred
    deviation = float(np.sqrt(residuals @ residuals / max(1, len(rungs) - 2)))
    return centre + slope * (value - float(rungs.mean())), deviation
