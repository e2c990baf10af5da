"""The gradual sparsity schedule (Zhu & Gupta 2017, arXiv:1710.01878, equation 1) over the fraction of training."""

from __future__ import annotations

__all__ = ["cubic_sparsity"]


def cubic_sparsity(fraction: float, *, final: float, start: float = 0.0, end: float = 1.0) -> float:
    """s = s_f · (1 − (1 − (t − t_0) / (t_1 − t_0))³), from 0 at `start` to exactly `final` at `end` and after.

    Args:
        fraction: Share of training done, t.
        final: Sparsity to reach, s_f, in [0, 1).
        start: t_0.
        end: t_1, at least `start`.

    Raises:
        ValueError: `end` lies before `start`, or `final` is not in [0, 1).
    """
    if not 0.0 <= final < 1.0:
        raise ValueError(f"`final` must be in [0, 1); found {final}.")
    if end < start:
        raise ValueError(f"`end` must be at least `start` ({start}); found {end}.")
    if fraction >= end:
        return final
    if fraction <= start:
        return 0.0
    remaining = 1.0 - (fraction - start) / (end - start)
    return final * (1.0 - remaining**3)
