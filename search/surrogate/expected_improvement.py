"""Expected hypervolume improvement (Emmerich et al. 2006) of candidates whose objectives are independent.

With h the product over objectives of P(Y_k <= z_k), a candidate's expected improvement is the integral of h over the
points z that the front does not dominate: whether z becomes dominated is a product of independent events. The
integral is taken over uniform points z, the same ones for all candidates, so that their comparison has little noise.
Any increasing transformation of an objective leaves P(Y_k <= z_k) alone, so that models may live on other scales.
"""

from __future__ import annotations

import numpy as np

__all__ = ["dominated", "undominated_points"]


def undominated_points(
    generator: np.random.Generator,
    front: np.ndarray,
    ideal: np.ndarray,
    reference: np.ndarray,
    hopes: np.ndarray,
    *,
    count: int = 2000,
    draws: int = 40_000,
) -> tuple[np.ndarray, float]:
    """Uniform points of the box from `ideal` to `reference` that the front does not dominate but some hope does.

    Args:
        generator: Of the draws.
        front: (f, m) losses.
        ideal: (m,) the box's lower corner.
        reference: (m,) its upper corner.
        hopes: (h, m) what could be reached at best.
        count: How many points at most.
        draws: How many points of the box to look at, at most.

    Returns:
        (p, m) points, p from 0 to `count`, and the volume that each stands for.
    """
    size = len(reference)
    volume = float(np.prod(np.maximum(reference - ideal, 0.0)))
    found: list[np.ndarray] = []
    kept, looked, chunk = 0, 0, 8_000
    while looked < draws and kept < count:
        points = ideal + generator.random((chunk, size)) * (reference - ideal)
        points = points[dominated(points, hopes)]
        points = points[~dominated(points, front)]
        found.append(points)
        kept += len(points)
        looked += chunk
    points = np.concatenate(found) if found else np.zeros((0, size))
    return points[:count], volume / max(1, looked) * (len(points) / max(1, min(count, len(points))))


def dominated(points: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Bool mask (n,) of the points (n, m) that are weakly dominated by any of `by` (k, m); all minimised."""
    mask = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    # in blocks, strongest first, so that most points are settled early
    order = np.argsort(by.sum(axis=1)) if len(by) else np.zeros(0, dtype=int)
    for start in range(0, len(order), 16):
        block = by[order[start : start + 16]]
        hit = np.ones((len(left), len(block)), dtype=bool)
        for column in range(points.shape[1]):
            hit &= block[:, column][None, :] <= points[left, column][:, None]
        settled = hit.any(axis=1)
        mask[left[settled]] = True
        left = left[~settled]
        if not len(left):
            break
    return mask
