"""Which members of a front their measurements cannot tell apart, so that nobody chooses between them by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["DISTANCE", "alike", "alike_members", "named"]

DISTANCE = 2.0
"""Standard errors of a difference within which two values are called alike."""

BETWEEN = ", "
"""Between the names of members; the name of a run may hold spaces."""


def alike(values: np.ndarray, errors: np.ndarray, distance: float = DISTANCE) -> np.ndarray:
    """Bool matrix (n, n): whether two points are within `distance` standard errors of one another in every column.

    Errors are taken as independent, though all trials are scored on the same images: what the images have in common
    cancels in a difference, so that this calls rather too many alike than too few.

    Args:
        values: (n, m) floats.
        errors: (n, m) standard errors; 0 where a value is exact, so that any difference in it counts.
        distance: In standard errors of the difference, sqrt(e_i² + e_j²).
    """
    values, variances = np.asarray(values, dtype=float), np.square(np.asarray(errors, dtype=float))
    same = np.zeros((len(values), len(values)), dtype=bool)
    for row in range(len(values)):
        # few are left after a column or two
        left = np.arange(len(values))
        for column, variance in zip(values.T, variances.T, strict=True):
            within = distance**2 * (variance[left] + variance[row])
            left = left[np.square(column[left] - column[row]) <= within]
        same[row, left] = True
    return same


def alike_members(front: pd.DataFrame, objectives: Sequence[str]) -> list[str]:
    """For each row the numbers of the other rows that it cannot be told apart from, as text: ``"3, 17"``, or ``""``.

    Args:
        front: Rows of `tables.trials_frame`.
        objectives: The columns that count; ``<objective>_se`` holds their standard errors.
    """
    values = front[list(objectives)].to_numpy(dtype=float)
    errors = front.reindex(columns=[f"{name}_se" for name in objectives]).astype(float).fillna(0.0).to_numpy()
    matrix = alike(values, errors)
    np.fill_diagonal(matrix, False)
    numbers = front["number"].to_numpy()
    # of several runs, a number alone does not name a trial
    names = numbers.astype(str) if "run" not in front else (front["run"] + "/" + front["number"].astype(str)).to_numpy()
    return [BETWEEN.join(names[row][np.argsort(numbers[row], kind="stable")]) for row in matrix]


def named(text: str) -> list[str]:
    """The names in a text of `alike_members`."""
    return text.split(BETWEEN) if text else []
