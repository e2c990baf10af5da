"""Survival of AGE-MOEA-II (Panichella 2022, doi 10.1145/3512290.3528732): spread along the front's own geometry.

pymoo has it too, compiled by numba; a generation is too small to wait for a compiler, so that it is plain NumPy here.
"""

from __future__ import annotations

import numpy as np

__all__ = ["curvature", "geodesic_distances", "normalized", "survival_scores"]

TINY = 1e-8


def survival_scores(front: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How much each member of the first front adds to its spread and nearness; the more, the better.

    Args:
        front: (n, m) losses, none dominated.

    Returns:
        (n,) scores, infinite for the extreme members; (m,) normalization; the exponent p of the front's L_p norm.
    """
    count, objectives = front.shape
    scores = np.zeros(count)
    front = np.round(front, 12)
    if count < objectives:
        return scores, np.maximum(front.max(axis=0), TINY), 1.0
    extreme = _corners(front - front.min(axis=0))
    shifted, normalization = normalized(front - front.min(axis=0), extreme)
    selected = np.zeros(count, dtype=bool)
    selected[extreme] = True
    scores[selected] = np.inf
    power = curvature(shifted, selected)
    nearness = np.linalg.norm(shifted, power, axis=1)
    nearness[nearness < TINY] = 1.0
    distances = np.maximum(geodesic_distances(shifted, power), TINY) / nearness[:, None]
    # one after another, the member that is farthest from its two nearest selected ones, by their nearness as in pymoo
    while not selected.all():
        left = np.flatnonzero(~selected)
        nearest = np.sort(distances[np.ix_(np.flatnonzero(selected), left)], axis=0)[:2].sum(axis=0)
        best = int(np.argmax(nearest))
        scores[left[best]] = nearest[best]
        selected[left[best]] = True
    return scores, normalization, power


def normalized(front: np.ndarray, extreme: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The front divided by where the plane through its extreme members meets the axes, or by its largest losses.

    Args:
        front: (n, m) losses from the ideal point.
        extreme: (m,) indices of the extreme members.

    Returns:
        (n, m) the front; (m,) what it was divided by.
    """
    largest = front.max(axis=0)
    scale = largest
    if len(set(extreme.tolist())) == front.shape[1]:
        try:
            plane = np.linalg.solve(front[extreme], np.ones(front.shape[1]))
        except np.linalg.LinAlgError:
            plane = np.zeros(front.shape[1])
        if np.isfinite(plane).all() and (plane > 0).all():
            scale = 1.0 / plane
    scale = np.where((scale == 0.0) | ~np.isfinite(scale), 1.0, scale)
    return front / scale, scale


def curvature(front: np.ndarray, extreme: np.ndarray) -> float:
    """Exponent p for which the member nearest to the ideal point lies on sum(f**p) = 1; 1 for a plane.

    Newton's method on log(sum(f**p)) = 0 from p = 1, as in the paper's section 3.1.

    Args:
        front: (n, m) normalized losses.
        extreme: (n,) members that are not asked.
    """
    nearness = np.where(extreme, np.inf, np.linalg.norm(front, axis=1))
    point = front[int(np.argmin(nearness))]
    logarithms = np.log(point[point > 0] + 1e-10)
    power = 1.0
    for _ in range(100):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            terms = np.exp(power * logarithms)
            total = terms.sum()
            slope = (terms * logarithms).sum() / total if total > 0 else 0.0
            step = np.log(total) / slope if slope != 0.0 and total > 0 else np.nan
        if not np.isfinite(step):
            return 1.0
        power -= step
        if abs(step) <= 1e-3:
            break
    if not np.isfinite(power) or power <= 0.1:
        return 1.0
    return float(min(power, 20.0))


def geodesic_distances(front: np.ndarray, power: float) -> np.ndarray:
    """(n, n) lengths of the ways between members along the surface sum(f**p) = 1, by way of the middle.

    Args:
        front: (n, m) normalized losses.
        power: The exponent p.
    """
    points = _projected(front, power)
    first, second = points[:, None, :], points[None, :, :]
    if 0.95 < power < 1.05:
        return np.asarray(np.linalg.norm(first - second, axis=2))
    middle = _projected(0.5 * first + 0.5 * second, power)
    return np.asarray(np.linalg.norm(first - middle, axis=2) + np.linalg.norm(second - middle, axis=2))


def _projected(points: np.ndarray, power: float) -> np.ndarray:
    length = (np.where(points > 0, points, 0.0) ** power).sum(axis=-1, keepdims=True) ** (1.0 / power)
    return np.asarray(points / np.where(length > 0, length, 1.0))


def _corners(front: np.ndarray) -> np.ndarray:
    count, objectives = front.shape
    if count <= objectives:
        return np.arange(count)
    corners: list[int] = []
    for axis in np.eye(objectives) + 1e-6:
        along = (front @ axis / (axis @ axis))[:, None] * axis
        distances = ((front - along) ** 2).sum(axis=1)
        distances[corners] = np.inf
        corners.append(int(np.argmin(distances)))
    return np.array(corners)
