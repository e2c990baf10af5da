"""Score chosen trials on the test split by the published protocol, beside dense controls trained with the same recipe.

What is measured is kept in ``validation/`` of the run, one file a step, written as soon as it is known: whatever stops
the command, a second call measures only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..studies.errors import InputError, RunError
from ..studies.faults import Fault
from .lock import coordinator_lock
from .tables import as_data, render
from .trial import TrialContext
from .validation.bench import Bench
from .validation.comparison import comparison, with_pairs
from .validation.entries import Entry, EntryModel, entries_of
from .validation.plots import draw_all
from .validation.progress import Costs, Progress, open_progress
from .validation.protocol import Protocol, protocol_of
from .validation.report import report
from .validation.results import Measurements
from .validation.rows import flat, rows_of
from .validation.steps import Step, in_order, steps_of
from .validation.store import writing

if TYPE_CHECKING:
    from .run import Run

__all__ = ["Validation", "validate"]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Args:
        name: The study's.
        protocol: What was measured.
        images: On how many test images.
        rows: One for each subject, the control first, as `rows.rows_of` makes them; of several trainings a trial's has
            ``told_apart`` and ``alike`` too, see `comparison.with_pairs`.
        titles: What tables and pictures call each row.
        metrics: Objectives and metrics of the study, in the order to show.
        trainings: How many of each subject, whose means the numbers are.
    """

    name: str
    protocol: Protocol
    images: int
    rows: list[dict[str, Any]]
    titles: list[str]
    metrics: list[str]
    trainings: int = 1

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each subject; nested numbers are columns such as ``corruptions_errors_fog_3``."""
        return pd.DataFrame([flat(row) for row in self.rows])

    def text(self, form: str) -> str:
        """All of it as ``"csv"`` (one row a subject) or ``"json"``, or what a person compares as ``"table"``."""
        if form == "json":
            return json.dumps(self.rows, indent=2, ensure_ascii=False)
        if form == "csv":
            return as_data(self.frame, form)
        means = f", means of {self.trainings} trainings" if self.trainings > 1 else ""
        scores = f"the study's objectives on {self.images} test images{means}\n{render(self.frame, self.metrics, form)}"
        compared = comparison(self.metrics, self.rows, self.titles) if self.trainings > 1 else ()
        return "\n\n".join([scores, *compared, *report(self.protocol, self.images, self.rows, self.titles)])

    def draw(self, folder: Path) -> list[Path]:
        """Write the pictures as PNG files into `folder`, made if absent; see `plots.draw_all`."""
        return draw_all(folder, self.name, self.protocol, self.images, self.rows, self.titles)


def validate(
    run: Run,
    numbers: Sequence[int] | None,
    *,
    protocol: Protocol | None = None,
    repeats: int = 1,
    say: Callable[[str], None],
) -> Validation:
    """Score trials on the test split.

    Args:
        run: The run.
        numbers: Complete trials; None takes the front.
        protocol: What to measure; None takes the published one with the study's own radius.
        repeats: How many trainings of each to measure: its own, and the others under seeds of their own, as the study's
            ``search.repeats`` has them. They are kept below ``validation/<subject>/repeats`` and trained once.
        say: Called with what a person should know before it begins; progress goes to stderr.

    Returns:
        One row each for the control, the trials, and a dense control for every other recipe among them (`role`
        ``"recipe control"``, `number` that of the first trial with the recipe). A trial that is not trained, or for a
        part of the steps, has the control of its recipe at the full budget.

    Raises:
        InputError: `repeats` is less than 1.
        RunError: There is no such complete trial, or the run's folder cannot be written.
        TrialError: A training failed.
        LockHeldError: Another process validates this run.
        KeyboardInterrupt: Ctrl-C; every step that had ended is kept.
    """
    if repeats < 1:
        raise InputError(Fault(("--repeats",), "at least 1", repeats, "1").line(None))
    protocol = protocol or protocol_of(run.study)
    chosen = list(dict.fromkeys(run.front()["number"].tolist() if numbers is None else numbers))
    entries = entries_of(run, chosen)
    context = TrialContext(run.folder.path, 1, run.study)
    for line in context.agree(run.fingerprint):
        say(f"changed since this run began, results may move slightly: {line}")
    torch.set_num_threads(context.threads)
    bench = Bench(context, protocol)
    if protocol.attack != "none":
        # what is not installed shows before anything is measured
        _ = bench.attack
    folder = run.folder.path / "validation"
    models = [
        EntryModel(context, entry, folder / entry.key, training) for training in range(repeats) for entry in entries
    ]
    with writing(folder):
        folder.mkdir(exist_ok=True)
    titles = [entry.title for entry in entries]
    each = f", {repeats} trainings of each" if repeats > 1 else ""
    say(f"{', '.join(titles)} on {len(bench.images)} test images{each}: {protocol.describe()}")
    for line in _trained_before(run, entries) if repeats > 1 else ():
        say(line)
    with coordinator_lock(folder / "lock"):
        steps = [list(steps_of(bench, model, models[0])) for model in models]
        _take([step for own in steps for step in own], say)
        measured = [_collected(bench, model, own) for model, own in zip(models, steps, strict=True)]
    rows = rows_of(bench, [measured[place :: len(entries)] for place in range(len(entries))])
    if repeats > 1:
        rows = with_pairs(rows, list(run.objectives))
    return Validation(run.study.study.name, protocol, len(bench.images), rows, titles, run.metrics, repeats)


def _trained_before(run: Run, entries: Sequence[Entry]) -> list[str]:
    """What to say of trials that the search itself trained more than once."""
    lines = []
    for entry in entries:
        trained = len(run.complete(entry.number).user_attrs.get("repeats") or ())
        if trained > 1 and entry.role != "recipe control":
            lines.append(
                f"the search trained {entry.title} {trained} times and scored that on the validation split, "
                "which does not count here; they are trained again, for only the first was kept"
            )
    return lines


def _take(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    costs = Costs()
    todo = []
    for step in steps:
        stored = step.stored()
        if stored is None:
            todo.append(step)
        elif step.stage != "training":
            costs.remember(step.task, stored.seconds, stored.shared)
        if step.stage == "training" and step.model.entry.cost is not None:
            costs.remember(step.task, step.model.entry.cost)
    if not todo:
        say(f"all {len(steps)} steps were measured before")
        return
    order = in_order(todo)
    progress = Progress([step.task for step in order], len(steps) - len(todo), costs)
    with open_progress(progress) as show:
        if progress.done:
            show(f"going on: {progress.summary()}")
        try:
            for step, following in zip(order, [*order[1:], None], strict=True):
                progress.begin(step.task)
                show("")
                line = progress.finish(step.task, *step.take())
                # one model at a time, however many are compared
                if following is None or following.model is not step.model:
                    step.model.forget()
                show(line)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{progress.done} of {progress.total} steps are kept; the same command goes on from there"
            ) from None


def _collected(bench: Bench, model: EntryModel, steps: Sequence[Step]) -> Measurements:
    found = Measurements(model.entry, len(bench.images))
    for step in steps:
        stored = step.stored()
        if stored is None:
            raise RunError(f"{model.folder} must keep what was measured; found {step.name} gone or damaged.")
        found.put(step.stage, step.key, stored.value)
    for name, objective in bench.derived.items():
        found.raws[name] = found.raw_corruptions(objective.corruptions, objective.severities)
    return found
