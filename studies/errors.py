"""Forgefront's exceptions, one tree: what a person did wrong (exit code 2) and why a trial failed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CandidateError",
    "DataError",
    "DeviceBusyError",
    "DeviceError",
    "DivergedError",
    "ForgefrontError",
    "InputError",
    "LockHeldError",
    "ModelError",
    "ParityError",
    "RunError",
    "StudyFileError",
    "StudyMismatchError",
    "TargetError",
    "TrialError",
]


class ForgefrontError(Exception):
    """Root of every exception that Forgefront raises on purpose."""


class InputError(ForgefrontError):
    """What the user gave is wrong; the command line prints the message, one line a fault, and exits with 2."""


class StudyFileError(InputError):
    """A study file breaks its schema or an option of a part that it names.

    Args:
        lines: One line a fault: file, key, what was found, what is allowed, nearest match.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class StudyMismatchError(InputError):
    """A run is resumed with a study file, data or checkpoint that differ from those it began with."""


class DataError(InputError):
    """A data set is missing, damaged or not of the stated layout."""


class ModelError(InputError):
    """A model or its checkpoint cannot be used: unknown, not a CNN, keys or shapes that do not fit."""


class DeviceError(InputError):
    """A device was asked for that this machine does not have."""


class TargetError(InputError):
    """A target's runtime is not installed here or cannot take the model."""


class RunError(InputError):
    """A run folder or its database is missing, foreign or corrupted, or holds no such trial."""


class DeviceBusyError(RunError):
    """Another process keeps a device that must be had alone; the study stops, and its trial can run again."""


class LockHeldError(InputError):
    """Another coordinator holds the study; the message names it."""


class TrialError(ForgefrontError):
    """A trial failed for a stated reason; it is recorded as failed and the study goes on."""


class DivergedError(TrialError):
    """The loss became infinite or not a number."""


class ParityError(TrialError):
    """The exported artefact and the simulated model disagree by more than the gate allows."""


class CandidateError(TrialError):
    """A trained model could not be baked into a candidate."""
