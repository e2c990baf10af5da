"""What an audit against false robustness found: counts against bounds that say how often a sound model fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .base import binomial_error

__all__ = ["AuditReport", "Check", "Verdict", "allowed"]

Verdict = Literal["sound", "masked"]

FALSE_ALARMS = 0.01
"""How often a check fails a candidate whose true share is the tolerance."""


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: What was checked; see `audit`.
        value: Share of images that speak against the candidate, in [0, 1].
        bound: The highest share that passes.
        passed: Whether `value` is at most `bound`.
    """

    name: str
    value: float
    bound: float
    passed: bool

    @classmethod
    def of(cls, name: str, count: int, trials: int, tolerance: float) -> Check:
        """The check of `count` among `trials` images, which passes where there are none."""
        most = allowed(trials, tolerance)
        return cls(name, count / max(trials, 1), most / max(trials, 1), count <= most)


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Args:
        images: How many images it looked at.
        settings: Of plain PGD: epsilon, norm, steps, restarts, step_size; and of Square: queries.
        accuracies: Share of the images that are right when clean, under each attack alone, under everything within ε.
        checks: One for each line of the tables in `audit`.
    """

    images: int
    settings: Mapping[str, Any]
    accuracies: Mapping[str, float]
    checks: tuple[Check, ...]

    @property
    def gap(self) -> float:
        """Accuracy under plain PGD less accuracy under everything, in [0, 1]."""
        return self.accuracies["plain"] - self.accuracies["everything"]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if not check.passed]

    @property
    def verdict(self) -> Verdict:
        """Masked where any check failed."""
        return "masked" if self.failed else "sound"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, the gap with its standard error."""
        return {
            "images": self.images,
            "settings": dict(self.settings),
            "accuracies": dict(self.accuracies),
            "checks": [dict(vars(check)) for check in self.checks],
            "gap": self.gap,
            "gap_standard_error": binomial_error(self.gap, self.images),
            "verdict": self.verdict,
            "failed": self.failed,
        }


def allowed(trials: int, tolerance: float, false_alarms: float = FALSE_ALARMS) -> int:
    """The least k with P[Binomial(trials, tolerance) > k] ≤ `false_alarms`.

    Args:
        trials: n, at least 0.
        tolerance: In (0, 1).
        false_alarms: In (0, 1).
    """
    below = 0.0
    for k in range(trials + 1):
        ways = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        below += math.exp(ways + k * math.log(tolerance) + (trials - k) * math.log1p(-tolerance))
        # up to rounding
        if 1.0 - below <= false_alarms + 1e-9:
            return k
    return trials
