"""Score chosen trials on the test split by the published protocol, beside dense controls trained with the same recipe.

What is measured is kept in ``validation/`` of the run, one file a step, written as soon as it is known: whatever stops
the command, a second call measures only what is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..objectives.base import Objective
from ..objectives.score import derive_all
from ..studies.errors import RunError
from .lock import coordinator_lock
from .score_columns import audit_columns, audit_text, score_columns
from .tables import as_data, render
from .trial import TrialContext
from .validation.bench import Bench
from .validation.entries import EntryModel, entries_of
from .validation.plots import draw_all
from .validation.progress import Costs, Progress, open_progress
from .validation.protocol import Protocol, protocol_of
from .validation.report import report
from .validation.results import Measurements, attack_numbers, class_numbers, corruption_numbers, curve_numbers
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
        rows: One for each subject, the control first: `number`, `role`, the columns of its scores as in `Run.trials`,
            ``audit``, and ``corruptions``, ``attack``, ``audit_report``, ``curve``, ``classes``, JSON values.
        titles: What tables and pictures call each row.
        metrics: Objectives and metrics of the study, in the order to show.
    """

    name: str
    protocol: Protocol
    images: int
    rows: list[dict[str, Any]]
    titles: list[str]
    metrics: list[str]

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each subject; nested numbers are columns such as ``corruptions_errors_fog_3``."""
        return pd.DataFrame([_flat(row) for row in self.rows])

    def text(self, form: str) -> str:
        """All of it as ``"csv"`` (one row a subject) or ``"json"``, or what a person compares as ``"table"``."""
        if form == "json":
            return json.dumps(self.rows, indent=2, ensure_ascii=False)
        if form == "csv":
            return as_data(self.frame, form)
        scores = f"the study's objectives on {self.images} test images\n{render(self.frame, self.metrics, form)}"
        return "\n\n".join([scores, *report(self.protocol, self.images, self.rows, self.titles)])

    def draw(self, folder: Path) -> list[Path]:
        """Write the pictures as PNG files into `folder`, made if absent; see `plots.draw_all`."""
        return draw_all(folder, self.name, self.protocol, self.images, self.rows, self.titles)


def validate(
    run: Run,
    numbers: Sequence[int] | None,
    *,
    protocol: Protocol | None = None,
    say: Callable[[str], None],
) -> Validation:
    """Score trials on the test split.

    Args:
        run: The run.
        numbers: Complete trials; None takes the front.
        protocol: What to measure; None takes the published one with the study's own radius.
        say: Called with what a person should know before it begins; progress goes to stderr.

    Returns:
        One row each for the control, the trials, and a dense control for every other recipe among them (`role`
        ``"recipe control"``, `number` that of the first trial with the recipe). A trial that is not trained, or for a
        part of the steps, has the control of its recipe at the full budget.

    Raises:
        RunError: There is no such complete trial, or the run's folder cannot be written.
        LockHeldError: Another process validates this run.
        KeyboardInterrupt: Ctrl-C; every step that had ended is kept.
    """
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
    models = [EntryModel(context, entry, folder / entry.key) for entry in entries]
    with writing(folder):
        folder.mkdir(exist_ok=True)
    titles = [entry.title for entry in entries]
    say(f"{', '.join(titles)} on {len(bench.images)} test images: {protocol.describe()}")
    with coordinator_lock(folder / "lock"):
        steps = {model.entry.key: list(steps_of(bench, model, models[0])) for model in models}
        _take([step for own in steps.values() for step in own], say)
        measured = [_collected(bench, model, steps[model.entry.key]) for model in models]
    rows = [_row(bench, found, measured[0]) for found in measured]
    return Validation(run.study.study.name, protocol, len(bench.images), rows, titles, run.metrics)


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


def _row(bench: Bench, own: Measurements, control: Measurements) -> dict[str, Any]:
    entry = own.entry
    row: dict[str, Any] = {"number": entry.number, "role": entry.role, "state": "complete", "seconds": None}
    if entry.technique is not None:
        row["technique"] = entry.technique
    objectives: list[Objective] = [objective for _, _, objective in bench.objectives]
    scores = derive_all(objectives, own.raws, control.raws)
    found = {name: score.to_dict() for name, score in scores.items()}
    for name, score in found.items():
        row |= {**score_columns(name, score), **audit_columns(name, score)}
    if own.audit:
        found = {"": {"details": {**own.audit, "failed_checks": len(own.audit["failed"])}}}
    row["audit"] = audit_text(found)
    nested = {
        "corruptions": corruption_numbers(own, control),
        "attack": attack_numbers(own, control),
        "audit_report": own.audit,
        "curve": curve_numbers(own),
        "classes": class_numbers(own, control, tuple(map(str, bench.context.task.class_names))),
    }
    plain: dict[str, Any] = _plain(row | {key: value for key, value in nested.items() if value})
    return plain


def _plain(value: Any) -> Any:
    """JSON values, with None for a number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            columns |= _flat(value, f"{prefix}{key}_")
        else:
            columns[f"{prefix}{key}"] = value
    return columns
