"""Trials in the coordinator's own process, one after the other: nothing to start, nothing to copy, easy to debug."""

from __future__ import annotations

from pathlib import Path

from .base import REAL_TRIALS, Report, TrialOutcome, TrialRequest, TrialRunner, load_runner

__all__ = ["SerialEngine"]


class SerialEngine:
    """Runs one trial to its end in each `poll`.

    Args:
        run_folder: The run's folder.
        workers: Must be 1.
        runner: What runs a trial, as ``"module:attribute"``.

    Attributes:
        runner: What was made of it; may be set before the first `poll`, when there is one already.

    Raises:
        ValueError: `workers` is not 1.
    """

    def __init__(self, run_folder: Path, workers: int = 1, *, runner: str = REAL_TRIALS) -> None:
        if workers != 1:
            raise ValueError(f"`workers` must be 1 for the serial engine; found {workers}. Did you mean processes?")
        self.workers = 1
        self._run_folder = Path(run_folder)
        self._reference = runner
        self.runner: TrialRunner | None = None
        self._waiting: list[TrialRequest] = []

    def submit(self, request: TrialRequest) -> None:
        """Queue a trial."""
        self._waiting.append(request)

    def poll(self, timeout: float, report: Report) -> list[TrialOutcome]:
        """Run the oldest trial in the queue; `timeout` has no effect."""
        if not self._waiting:
            return []
        if self.runner is None:
            self.runner = load_runner(self._reference, self._run_folder, self.workers)
        return [self.runner(self._waiting.pop(0), report)]

    def stop(self) -> None:
        """Forget the queue."""
        self._waiting.clear()
