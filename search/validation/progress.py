"""How far a validation is and how long it will take, from what its steps have cost so far."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..display import duration

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Costs", "Progress", "Task", "open_progress"]

SILENCE = 20.0
"""Seconds after which a piped display says how far it is, if nothing else has been said."""


@dataclass(frozen=True)
class Task:
    """A step, as far as its cost goes.

    Args:
        subject: Whose it is.
        stage: Part of the protocol, in words.
        label: What is measured, in words.
        kind: Steps of one kind cost alike, in proportion to their size.
        size: How large it is.
        shared: Name of what is made for all subjects once, None for nothing.
        training: Which of the subject's trainings, from 0; all of them cost alike.
    """

    subject: str
    stage: str
    label: str
    kind: str
    size: int = 1
    shared: str | None = None
    training: int = 0

    @property
    def owner(self) -> str:
        """Whose it is, as a person reads it."""
        return self.subject + (f", training {self.training + 1}" if self.training else "")


class Costs:
    """Seconds that steps of size 1 have taken, by kind and subject, in this process and before."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._before: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._shared: dict[str, float] = {}
        self._shared_before: list[float] = []

    def remember(self, task: Task, seconds: float, shared: float = 0.0) -> None:
        """Take a step that an earlier process has measured; arguments as of `add`."""
        self._before[task.kind, task.subject].append(seconds / task.size)
        self._shared_before.append(shared)

    def add(self, task: Task, seconds: float, shared: float = 0.0) -> None:
        """Take a step that has just ended.

        Args:
            task: The step.
            seconds: What it took for itself.
            shared: What making its shared part took before that; 0 where it was there.
        """
        self._now[task.kind, task.subject].append(seconds / task.size)
        if task.shared is not None:
            self._shared.setdefault(task.shared, shared)

    def left(self, tasks: Sequence[Task]) -> tuple[float, bool]:
        """Seconds that `tasks` will take, and whether a cost of each is known (it is a lower bound otherwise)."""
        total, known = 0.0, True
        # what was there says nothing of what is to be made
        costs = [cost for cost in self._shared.values() if cost] or [cost for cost in self._shared_before if cost]
        made = sum(costs) / len(costs) if costs else None
        to_make = {task.shared for task in tasks if task.shared is not None} - self._shared.keys()
        if to_make:
            known = made is not None
            total += len(to_make) * (made or 0.0)
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for task in tasks:
            counts[task.kind, task.subject] += task.size
        for (kind, subject), count in counts.items():
            cost = self._cost(kind, subject)
            known &= cost is not None
            total += count * (cost or 0.0)
        return total, known

    def _cost(self, kind: str, subject: str) -> float | None:
        # the subject's own steps first, for a model that withstands an attack costs it more
        for table in (self._now, self._before):
            if own := table.get((kind, subject)):
                return sum(own) / len(own)
        for table in (self._now, self._before):
            others = [cost for (other, _), costs in table.items() if other == kind for cost in costs]
            if others:
                return sum(others) / len(others)
        return None


class Progress:
    """What is done and what is left.

    Args:
        todo: Steps to take, in order.
        stored: How many were measured before.
        costs: What is known of steps' costs.
    """

    def __init__(self, todo: Sequence[Task], stored: int, costs: Costs) -> None:
        self.todo = list(todo)
        self.total = stored + len(self.todo)
        self.costs = costs
        self.current: Task | None = None
        self._began = self._expected = 0.0
        self._left = costs.left(self.todo)
        self._spent: dict[tuple[str, str], float] = defaultdict(float)
        self._open: dict[tuple[str, str], int] = defaultdict(int)
        for task in self.todo:
            self._open[task.owner, task.stage] += 1

    @property
    def done(self) -> int:
        """How many steps are measured, in this process and before."""
        return self.total - len(self.todo)

    def begin(self, task: Task) -> None:
        """Take the start of a step."""
        self._began, self._expected = time.monotonic(), self.costs.left([task])[0]
        self.current = task

    def finish(self, task: Task, seconds: float, shared: float) -> str:
        """Take the end of a step; a line if it was the last of its stage, else nothing."""
        self.costs.add(task, seconds, shared)
        self.todo.remove(task)
        self.current, self._left = None, self.costs.left(self.todo)
        place = (task.owner, task.stage)
        self._spent[place] += seconds + shared
        self._open[place] -= 1
        if self._open[place]:
            return ""
        return f"{task.owner}: {task.stage} done in {duration(self._spent[place])} [{self.summary()}]"

    def summary(self) -> str:
        """``40 of 390 steps, about 3 min 20 s left``."""
        text = f"{self.done} of {self.total} steps"
        seconds, known = self._left
        if self.current is not None:
            # a step that takes longer than expected does not shorten those that follow
            seconds -= min(self._expected, time.monotonic() - self._began)
        if not self.todo or (not known and seconds < 1.0):
            return text
        return f"{text}, {'about' if known else 'more than'} {duration(seconds)} left"


Show = Callable[[str], None]


@contextmanager
def open_progress(progress: Progress) -> Iterator[Show]:
    """A function to call with every line that is to be told, and with "" whenever something has moved.

    A terminal gets a bar that is redrawn; a pipe gets lines, one at least every 20 seconds in which a step ends.
    """
    if sys.stderr.isatty():
        with _live(progress) as show:
            yield show
        return
    last = time.monotonic()

    def plain(line: str) -> None:
        nonlocal last
        if not line and progress.current is not None and time.monotonic() - last > SILENCE:
            line = f"{_place(progress)} [{progress.summary()}]"
        if line:
            last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    yield plain


@contextmanager
def _live(progress: Progress) -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    # drawn anew all the time, for a step may take minutes
    with Live(get_renderable=lambda: _panel(progress), console=console, refresh_per_second=2, transient=True):

        def show(line: str) -> None:
            if line:
                console.print(line, markup=False)

        yield show


def _panel(progress: Progress) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=40)
    table.add_row("validate", bar, progress.summary())
    table.add_row("", "", _place(progress))
    return table


def _place(progress: Progress) -> str:
    current = progress.current
    return "" if current is None else f"{current.owner}: {current.stage}, {current.label}"
