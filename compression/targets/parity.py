"""Does the exported file compute what the candidate computes: signal-to-noise ratio and agreement of predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from ...studies.errors import ParityError

__all__ = ["MINIMUM_AGREEMENT", "MINIMUM_SNR_DB", "Parity", "check_parity", "signal_to_noise"]

MINIMUM_SNR_DB = 20.0
MINIMUM_AGREEMENT = 0.98


@dataclass(frozen=True)
class Parity:
    """How closely two sets of outputs agree.

    Args:
        snr_db: 10·log10(Σ simulated² / Σ (simulated − exported)²) in decibels; infinite when they are equal.
        agreement: Share of images with the same prediction, in [0, 1].
        images: Number of images compared.
    """

    snr_db: float
    agreement: float
    images: int

    def to_dict(self) -> dict[str, float | None]:
        """JSON values; an infinite ratio is None."""
        return {**asdict(self), "snr_db": self.snr_db if np.isfinite(self.snr_db) else None}


def signal_to_noise(simulated: np.ndarray, exported: np.ndarray) -> float:
    """Signal-to-noise ratio of `exported` against `simulated` (equal shapes) in decibels."""
    signal = float(np.square(simulated, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(simulated, exported, dtype=np.float64)).sum())
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal > 0.0 else float("-inf")


def check_parity(
    simulated: np.ndarray,
    exported: np.ndarray,
    *,
    predictions: Callable[[np.ndarray], np.ndarray],
    minimum_snr_db: float = MINIMUM_SNR_DB,
    minimum_agreement: float = MINIMUM_AGREEMENT,
) -> Parity:
    """Compare outputs of the candidate with those of its artefact on the same images.

    Args:
        simulated: Outputs of the candidate, (N, …) float.
        exported: Outputs of the artefact, same shape.
        predictions: Outputs to predictions (N, …), for example the arg max over classes.
        minimum_snr_db: Lowest signal-to-noise ratio that passes, in decibels.
        minimum_agreement: Lowest share of equal predictions that passes, in [0, 1].

    Raises:
        ParityError: Shapes differ, an output is not finite, or a gate is not met; the message states both figures.
    """
    if simulated.shape != exported.shape:
        raise ParityError(f"exported outputs must have shape {simulated.shape}; found {exported.shape}.")
    if not (np.isfinite(simulated).all() and np.isfinite(exported).all()):
        raise ParityError("outputs of the candidate and of its artefact must be finite; found infinity or NaN.")
    ratio = signal_to_noise(simulated, exported)
    agreement = float(np.mean(np.asarray(predictions(simulated)) == np.asarray(predictions(exported))))
    parity = Parity(ratio, agreement, len(simulated))
    if ratio < minimum_snr_db or agreement < minimum_agreement:
        raise ParityError(
            f"the exported artefact must match the candidate with at least {minimum_snr_db:g} dB and "
            f"{minimum_agreement:.1%} equal predictions; found {ratio:.1f} dB and {agreement:.1%} "
            f"on {len(simulated)} images."
        )
    return parity
