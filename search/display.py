"""Watching a run: a live display on a terminal, plain lines when piped; always on stderr."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .events import Event, Preparing, StudyFinished, StudyStarted, TrialFinished, TrialProgress, TrialStarted
from .score_columns import MASKED

if TYPE_CHECKING:
    from rich.table import Table

    from ..studies.schema import Study
    from .run_folder import RunFolder

__all__ = ["Watcher", "duration", "near", "open_display"]

Show = Callable[[Event], None]


def duration(seconds: float) -> str:
    """``95`` seconds as ``1 min 35 s``; hours without seconds."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def near(folder: RunFolder) -> str:
    """The run's folder as a person would type it from here."""
    try:
        return str(folder.path.relative_to(Path.cwd()))
    except ValueError:
        return str(folder.path)


class Watcher:
    """What is known of a run from its events, for either display.

    Args:
        workers: Trials that run at the same time, for the time left.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.trials = self.finished = self.front = self.failed = self.stopped = self.masked = 0
        self.hypervolume: float | None = None
        self.running: dict[int, tuple[str, TrialProgress | None]] = {}
        self.seconds: list[float] = []

    def take(self, event: Event) -> None:
        """Note an event."""
        if isinstance(event, StudyStarted):
            self.trials, self.finished = event.trials, event.finished
        elif isinstance(event, TrialStarted):
            self.running[event.number] = (event.role, None)
        elif isinstance(event, TrialProgress):
            role, _ = self.running.get(event.number, ("search", None))
            self.running[event.number] = (role, event)
        elif isinstance(event, TrialFinished):
            self.running.pop(event.number, None)
            self.finished, self.trials = event.finished, event.trials
            self.front, self.hypervolume = len(event.front), event.hypervolume
            self.failed += event.state == "failed"
            self.stopped += event.state == "pruned"
            self.masked += _masked(event)
            if event.seconds is not None:
                self.seconds.append(event.seconds)

    @property
    def time_left(self) -> float | None:
        """Seconds until the last trial ends, None before the first has."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds) * max(0, self.trials - self.finished) / self.workers

    def summary(self) -> str:
        """One line: trials, those that failed or are masked, front, hypervolume, time left."""
        parts = [f"{self.finished} of {self.trials} trials"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.stopped:
            parts.append(f"{self.stopped} stopped early")
        if self.masked:
            parts.append(f"{self.masked} masked")
        parts.append(f"front {self.front}")
        if self.hypervolume is not None:
            parts.append(f"hypervolume {self.hypervolume:.4f}")
        if self.time_left:
            parts.append(f"about {duration(self.time_left)} left")
        return ", ".join(parts)


def _masked(event: TrialFinished) -> bool:
    return event.audit is not None and event.audit.startswith(MASKED)


@contextmanager
def open_display(study: Study, folder: RunFolder) -> Iterator[Show]:
    """A function to call with every event, good until the block ends."""
    watcher = Watcher(study.search.workers)
    if sys.stderr.isatty():
        with _live(watcher, study.study.name) as show:

            def live(event: Event) -> None:
                watcher.take(event)
                show(_line(event, watcher, folder))

            yield live
        return

    def plain(event: Event) -> None:
        watcher.take(event)
        line = _line(event, watcher, folder)
        if line:
            print(line, file=sys.stderr, flush=True)

    yield plain


def _line(event: Event, watcher: Watcher, folder: RunFolder) -> str:
    if isinstance(event, Preparing):
        return event.text
    if isinstance(event, StudyStarted):
        lines = [f"{event.name}: {event.finished} of {event.trials} trials done, in {near(folder)}"]
        lines += [f"taking over trial {number}, which was left running" for number in event.adopted]
        lines += [f"changed since this run began, results may move slightly: {text}" for text in event.warnings]
        lines += [f"note: {text}" for text in event.remarks]
        return "\n".join(lines)
    if isinstance(event, TrialFinished):
        if event.state != "complete":
            ended = "failed" if event.state == "failed" else "stopped early"
            return f"trial {event.number} ({event.role}) {ended}: {event.reason} [{watcher.summary()}]"
        values = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        marks = " *" if event.number in event.front else "" if event.feasible else " (infeasible)"
        audit = f" ({event.audit})" if _masked(event) else ""
        seconds = f" in {duration(event.seconds)}" if event.seconds is not None else ""
        return f"trial {event.number} ({event.role}){marks}: {values}{audit}{seconds} [{watcher.summary()}]"
    if isinstance(event, StudyFinished):
        run = near(folder)
        if event.stopped is not None:
            done = f"stopped after {event.trials} of {event.asked} trials"
            return f"{done}: {event.stopped}; go on with: forgefront resume {run}"
        failed = f", {event.failed} failed" if event.failed else ""
        done = "nothing to do" if not event.ran else "done"
        return (
            f"{done}: {event.trials} of {event.asked} trials{failed}, {len(event.front)} on the front; "
            f"next: forgefront front {run}, forgefront pick {run}"
        )
    return ""


@contextmanager
def _live(watcher: Watcher, name: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    with Live(_panel(watcher, name), console=console, refresh_per_second=4, transient=True) as live:
        last = 0.0

        def show(line: str) -> None:
            nonlocal last
            if line:
                console.print(line, markup=False)
            # progress comes in hundreds of events a second on small models
            if line or time.monotonic() - last > 0.2:
                last = time.monotonic()
                live.update(_panel(watcher, name))

        yield show


def _panel(watcher: Watcher, name: str) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_row(
        name, ProgressBar(total=max(1, watcher.trials), completed=watcher.finished, width=40), watcher.summary()
    )
    for number, (role, progress) in sorted(watcher.running.items()):
        if progress is None:
            table.add_row(f"trial {number}", "", f"{role}: starting")
            continue
        loss = f", loss {progress.loss:.3f}" if progress.loss is not None else ""
        stage = f"epoch {progress.epoch} of {progress.epochs}, step {progress.step} of {progress.steps}{loss}"
        if progress.step == progress.steps:
            stage += ", scoring"
        table.add_row(
            f"trial {number}", ProgressBar(total=progress.steps, completed=progress.step, width=40), f"{role}: {stage}"
        )
    return table
