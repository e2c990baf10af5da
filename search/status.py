"""`forgefront status RUN`: how far a run is, in a few lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .hypervolume import front_hypervolume
from .lock import current_holder
from .record import REFERENCE

if TYPE_CHECKING:
    from .run import Run

__all__ = ["describe"]


def describe(run: Run) -> list[str]:
    """Lines for a person: trials by state, who works on them, front and hypervolume, why trials failed."""
    trials = run.optuna_trials()
    states = Counter(trial.state.name.lower() for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"
    lines = [f"{run.study.study.name}: {run.study.search.trials} trials asked for; {counts}"]
    holder = current_holder(run.folder.lock)
    lines.append(f"working on it: {holder}" if holder else "nobody is working on it")
    reference = run.record.user_attrs.get(REFERENCE)
    if reference is not None:
        volume = front_hypervolume(trials, run.record.directions, reference)
        lines.append(f"front: {len(run.front())} trials, hypervolume {volume:.4f}")
    lines += [
        f"trial {trial.number} failed: {trial.user_attrs.get('reason', 'no reason stored')}"
        for trial in trials
        if trial.state.name == "FAIL"
    ]
    return lines
