"""Class weights from class counts (Cygert & Czyżewski 2021, III-D): INV, INV_cap, ENS; and repeat-factor sampling.

Every weighting is a function ``counts -> weights``. With f the share of images of a class, t a frequency threshold
and n the number of images of a class:

    INV       w = sqrt(t / f)                         (their III-D; t cancels, since weights have mean 1)
    INV_cap   w = max(1, sqrt(t / f))                 (their eq. 2, used as a weight)
    ENS       w = (1 - β) / (1 - β^n)                 (their eq. 5, Cui et al. 2019)
    RFS       r = max(1, sqrt(t / f))                 (their eq. 2, how often an image is drawn in an epoch)

t is 1 / C for C classes unless given, the frequency that each class would have in a balanced set, so that rarer
classes, and only these, are raised (LVIS's t = 1e-3 never acts on data sets with a few dozen classes).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

__all__ = ["effective_number", "inverse", "inverse_capped", "none", "repeat_counts", "repeat_factor", "scale_weights"]

Threshold = Annotated[float, Field(gt=0.0)]


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Shares of images; a class without images counts as having one, so that no weight is infinite."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or (counts < 0).any():
        raise ValueError(f"`counts` must be non-negative numbers of images, one a class; found {counts!r}.")
    counts = np.maximum(counts, 1.0)
    return counts / counts.sum()


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return weights / weights.mean()


def none(counts: np.ndarray) -> np.ndarray:
    """Equal weights: ones, (C,)."""
    return np.ones_like(_frequencies(counts))


def inverse(counts: np.ndarray) -> np.ndarray:
    """INV, the inverse root of class frequency.

    Args:
        counts: Images of each class, (C,).

    Returns:
        Weights of mean 1, (C,).
    """
    return _mean_one(1.0 / np.sqrt(_frequencies(counts)))


def inverse_capped(counts: np.ndarray, *, threshold: Threshold | None = None) -> np.ndarray:
    """INV_cap, INV with all frequent classes at one weight.

    Args:
        counts: Images of each class, (C,).
        threshold: t; None means 1 / C.

    Returns:
        Weights of mean 1, (C,).
    """
    return _mean_one(repeat_factor(counts, threshold=threshold))


def effective_number(counts: np.ndarray, *, beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999) -> np.ndarray:
    """ENS, the inverse of the effective number of samples.

    Args:
        counts: Images of each class, (C,).
        beta: β in [0, 1); 0 gives equal weights, towards 1 the weights approach the inverse of the count.

    Returns:
        Weights of mean 1, (C,).
    """
    frequencies = _frequencies(counts)
    number = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
    # expm1 and log1p keep 1 - β^n exact when β is close to 1; β = 0 has an effective number of 1 everywhere
    shortfall = -np.expm1(number * np.log(beta)) if beta > 0.0 else np.ones_like(frequencies)
    return _mean_one((1.0 - beta) / shortfall)


def repeat_factor(counts: np.ndarray, *, threshold: Threshold | None = None) -> np.ndarray:
    """RFS, how often an image of each class is drawn in an epoch.

    Args:
        counts: Images of each class, (C,).
        threshold: t; None means 1 / C.

    Returns:
        Factors of at least 1, (C,).
    """
    frequencies = _frequencies(counts)
    return np.maximum(1.0, np.sqrt((threshold or 1.0 / len(frequencies)) / frequencies))


def scale_weights(weights: np.ndarray, scale: float) -> np.ndarray:
    """Weights to the power λ, renormalised to mean 1: λ = 0 switches them off, 1 leaves them as published.

    Args:
        weights: Positive, (C,).
        scale: λ, at least 0.

    Returns:
        Weights of mean 1, (C,).
    """
    return _mean_one(np.power(weights, scale))


def repeat_counts(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """How often each image is drawn in one epoch: its factor, the fraction rounded up with its own probability.

    Args:
        factors: One for each image, at least 0, (N,).
        generator: Draws one number for each image.

    Returns:
        int64, (N,), of expectation `factors`.
    """
    whole = np.floor(factors)
    return (whole + (generator.random(len(factors)) < factors - whole)).astype(np.int64)
