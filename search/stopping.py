"""When a search ends: trials, wall clock, device hours, or a hypervolume that no longer grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["Spent", "StopRules", "stagnant", "stop_rules"]


class Spent(Protocol):
    """What a study has come to; asked only for what a rule needs, since both are read from all of its trials."""

    @property
    def device_seconds(self) -> float:
        """Seconds of all finished trials together."""

    @property
    def hypervolumes(self) -> Sequence[float]:
        """Of the front after each complete trial, in the order in which they were told."""


@dataclass(frozen=True)
class StopRules:
    """What ends a search; whichever holds first. Trials that run by then are waited for.

    Args:
        trials: How many trials the study shall hold.
        timeout: Seconds of this life of the run, None for no limit.
        device_hours: Hours of trials in all lives of the run, one for each device, None for no limit.
        stagnation: Complete trials, and the growth of hypervolume over them below which the search is over, as a
            share; None lets it go on.
    """

    trials: int
    timeout: float | None = None
    device_hours: float | None = None
    stagnation: tuple[int, float] | None = None

    def reason(self, spent: Spent, *, elapsed: float) -> str | None:
        """Why no further trial begins although some are missing; None while it may.

        Args:
            spent: What the study has come to.
            elapsed: Seconds since this life of the run began, by a clock that never jumps.
        """
        if self.timeout is not None and elapsed >= self.timeout:
            return f"time was up ({self.timeout:g} s)"
        if self.device_hours is not None and (seconds := spent.device_seconds) >= 3600 * self.device_hours:
            return f"{seconds / 3600:.3g} device hours were spent (search.device_hours = {self.device_hours:g})"
        if self.stagnation is not None and stagnant(spent.hypervolumes, *self.stagnation):
            trials, tolerance = self.stagnation
            return (
                f"{trials} complete trials brought no more than {tolerance:.3g} of the hypervolume (search.stagnation)"
            )
        return None


def stagnant(hypervolumes: Sequence[float], trials: int, tolerance: float) -> bool:
    """Whether the last `trials` values grew by no more than a share `tolerance` of the last one; not while it is 0."""
    if len(hypervolumes) <= trials:
        return False
    last, before = hypervolumes[-1], hypervolumes[-1 - trials]
    return last > 0.0 and last - before <= tolerance * last


def stop_rules(study: Study) -> StopRules:
    """The rules of a study file."""
    search = study.search
    stagnation = None if search.stagnation is None else (search.stagnation.trials, search.stagnation.tolerance)
    return StopRules(search.trials, search.timeout, search.device_hours, stagnation)
