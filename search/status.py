"""`forgefront status RUN`: how far a run is, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .hypervolume import front_hypervolume
from .lock import current_holder
from .non_dominated import front_trials, losses
from .record import REFERENCE

if TYPE_CHECKING:
    from .run import Run

__all__ = ["describe", "last_growth", "summary"]

ATTRIBUTES = ("reason", "seconds", "repeats")
"""What of a trial the lines are made of, besides its state and values."""

RECENT = 25
"""Trials over which the growth of the hypervolume is told."""

MOST_FAILURES = 20
"""Failed trials that are told one by one."""


def describe(run: Run) -> list[str]:
    """Lines for a person: trials by state, who works on them, budgets, front and hypervolume, why trials failed."""
    trials = run.outline(*ATTRIBUTES)
    return _summary(run, trials) + _failures(trials)


def summary(run: Run) -> list[str]:
    """As `describe`, without why trials failed."""
    return _summary(run, run.outline(*ATTRIBUTES))


def _summary(run: Run, trials: Sequence[FrozenTrial]) -> list[str]:
    states = Counter(trial.state.name.lower() for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"
    lines = [f"{run.study.study.name}: {run.study.search.trials} trials asked for; {counts}"]
    holder = current_holder(run.folder.lock)
    lines.append(f"working on it: {holder}" if holder else "nobody is working on it")
    lines += _hypervolume(run, trials)
    lines += _budgets(run, trials)
    repeated = [len(trial.user_attrs["repeats"]) for trial in trials if trial.user_attrs.get("repeats")]
    if repeated:
        lines.append(f"{len(repeated)} trained more than once, {sum(repeated)} trainings in all")
    return lines


def last_growth(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], reference: Sequence[float]
) -> FrozenTrial | None:
    """The trial, in order of numbers, with which the hypervolume last grew; None before it first did.

    Whatever has grown it is on the front, or dominated by a later trial that has grown it too.
    """
    front = sorted(front_trials(trials, directions), key=lambda trial: trial.number)
    points = losses(front, directions)
    signs = np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in directions])
    inside = (points < np.asarray(reference, dtype=float) * signs).all(axis=1)
    # the first of equal points
    _, first = np.unique(points, axis=0, return_index=True)
    return max((front[index] for index in first if inside[index]), key=lambda trial: trial.number, default=None)


def _hypervolume(run: Run, trials: Sequence[FrozenTrial]) -> list[str]:
    reference = run.record.user_attrs.get(REFERENCE)
    if reference is None:
        return []
    directions = run.record.directions
    volume = front_hypervolume(trials, directions, reference)
    lines = [f"front: {len(front_trials(trials, directions))} trials, hypervolume {volume:.4f}"]
    grown = last_growth(trials, directions, reference)
    finished = [trial for trial in trials if trial.state.is_finished()]
    if grown is None:
        return lines
    since = sum(trial.number > grown.number for trial in finished)
    text = f"hypervolume last grew with trial {grown.number}"
    text += f", {since} finished trial{'s' if since > 1 else ''} ago" if since else ", the latest"
    if len(finished) > RECENT and volume > 0.0:
        before = front_hypervolume(finished[:-RECENT], directions, reference)
        text += f"; {(volume - before) / volume:.1%} of it came with the last {RECENT}"
    return [*lines, text]


def _budgets(run: Run, trials: Sequence[FrozenTrial]) -> list[str]:
    """What is left of each budget that the study sets."""
    search = run.study.search
    finished = sum(trial.state.is_finished() for trial in trials)
    seconds = sum(float(trial.user_attrs.get("seconds") or 0.0) for trial in trials)
    parts = [f"{max(search.trials - finished, 0)} trials"] if finished < search.trials else []
    if search.device_hours is not None:
        parts.append(f"{max(search.device_hours - seconds / 3600.0, 0.0):.2g} of {search.device_hours:g} device hours")
    lines = [f"left: {', '.join(parts)}"] if parts else []
    if seconds:
        lines.append(f"trials took {_duration(seconds)} of training and measuring in all")
    if search.stagnation is not None:
        limit = search.stagnation
        lines.append(
            f"stops when {limit.trials} trials in a row grow the hypervolume by less than {limit.tolerance:.2%}"
        )
    return lines


def _failures(trials: Sequence[FrozenTrial]) -> list[str]:
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    lines = [
        f"trial {trial.number} failed: {trial.user_attrs.get('reason', 'no reason stored')}"
        for trial in failed[-MOST_FAILURES:]
    ]
    if len(failed) > MOST_FAILURES:
        lines.insert(0, f"{len(failed)} trials failed; the latest {MOST_FAILURES}:")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
