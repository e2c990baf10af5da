"""What a coordinator tells whoever watches: a display, plain lines, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .engines.base import TrialProgress

__all__ = ["Event", "Preparing", "StudyFinished", "StudyStarted", "TrialFinished", "TrialProgress", "TrialStarted"]


@dataclass(frozen=True)
class Preparing:
    """Something takes a while before the study opens, or hinders it (a server that has gone); `text` says what."""

    text: str


@dataclass(frozen=True)
class StudyStarted:
    """The lock is held and the study open.

    Args:
        name: The study's name.
        trials: How many trials are asked for in all.
        finished: How many a former life of the run has finished.
        adopted: Numbers of trials that it left running.
        warnings: What changed since it began and may move results slightly.
        remarks: What else a person should know before its trials run, in sentences.
    """

    name: str
    trials: int
    finished: int
    adopted: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialStarted:
    """A trial was given to the engine; `role` is ``"control"``, ``"seed"`` or ``"search"``."""

    number: int
    role: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class TrialFinished:
    """A trial was told.

    Args:
        state: ``"complete"``, ``"pruned"`` (stopped early) or ``"failed"``.
        values: Score by metric, objectives and metrics; empty unless the trial is complete.
        feasible: Whether it meets every constraint.
        reason: Why it failed or was stopped, None otherwise.
        seconds: How long it ran, None when that is unknown.
        finished: Trials finished so far, failed ones included.
        front: Numbers of the feasible non-dominated trials, this one considered.
        hypervolume: Of the front, None until the control is told.
        history: The training, one mapping an epoch.
        audit: What the robustness audit found (`score_columns.audit_text`), None where there was none.
    """

    number: int
    role: str
    state: str
    params: Mapping[str, Any]
    values: Mapping[str, float]
    feasible: bool
    reason: str | None
    seconds: float | None
    finished: int
    trials: int
    front: tuple[int, ...]
    hypervolume: float | None
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    audit: str | None = None


@dataclass(frozen=True)
class StudyFinished:
    """No trial is left to run.

    Args:
        trials: Trials in the study.
        asked: How many were asked for.
        failed: How many of them failed.
        ran: How many were told in this life of the run.
        front: Numbers of the feasible non-dominated trials.
        hypervolume: Of the front.
        stopped: Why fewer trials than asked for were run, None if all were.
    """

    trials: int
    asked: int
    failed: int
    ran: int
    front: tuple[int, ...]
    hypervolume: float | None
    stopped: str | None = None


Event = Preparing | StudyStarted | TrialStarted | TrialProgress | TrialFinished | StudyFinished
