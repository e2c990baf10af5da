"""Make a balanced data set long-tailed: n_i = n_max · imbalance^(−i / (C − 1)) (Cui et al. 2019; Cao et al. 2019)."""

from __future__ import annotations

import numpy as np

__all__ = ["exponential_profile", "long_tailed_positions"]


def exponential_profile(counts: np.ndarray, imbalance: float) -> np.ndarray:
    """Images to keep of each class.

    Args:
        counts: Images that there are of each class, (C,).
        imbalance: n_max / n_min, at least 1; 1 keeps everything.

    Returns:
        int64, (C,); class i keeps the whole part of n_max · imbalance^(−i / (C − 1)), where n_max is the largest
        count, but at least one image and no more than there are.
    """
    if imbalance == 1.0 or len(counts) < 2:
        return np.asarray(counts, dtype=np.int64)
    exponents = -np.arange(len(counts)) / (len(counts) - 1)
    # the small term undoes rounding where the profile is a whole number
    kept = np.floor(counts.max() * np.power(imbalance, exponents) + 1e-9)
    return np.minimum(np.maximum(kept, 1), counts).astype(np.int64)


def long_tailed_positions(labels: np.ndarray, imbalance: float, num_classes: int) -> np.ndarray:
    """Positions of the images to keep: of each class those that come first.

    Args:
        labels: int64, (N,).
        imbalance: n_max / n_min, at least 1.
        num_classes: C; class indices give the order from frequent to rare.

    Returns:
        int64, ascending.
    """
    keep = exponential_profile(np.bincount(labels, minlength=num_classes), imbalance)
    chosen = [np.flatnonzero(labels == label)[: keep[label]] for label in range(num_classes)]
    return np.sort(np.concatenate(chosen))
