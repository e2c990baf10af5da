"""One row for each subject of a validation: its scores as a trial's columns, and nested numbers of the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...objectives.base import Objective
from ..score_columns import MASKED, audit_columns, audit_text, score_columns
from ..told_apart import DISTANCE
from .bench import Bench
from .results import (
    Measurements,
    attack_numbers,
    class_numbers,
    corruption_numbers,
    curve_numbers,
    plain_numbers,
)
from .trainings import MeanMeasurements, numbers_with_errors, scores_with_errors

__all__ = ["flat", "rows_of"]

Scores = Mapping[str, Mapping[str, Any]]


def rows_of(bench: Bench, measured: Sequence[Sequence[Measurements]]) -> list[dict[str, Any]]:
    """JSON values of each subject, for each of which there are as many trainings.

    Args:
        bench: What was measured.
        measured: For each subject its trainings, the control first.

    Returns:
        `number`, `role`, the columns of the scores as in `Run.trials`, ``audit``, and ``corruptions``, ``attack``,
        ``audit_report``, ``curve``, ``classes``. Of several trainings also ``trainings``, the values of each by its
        number from 1; ``plain``, accuracy with its difference to the control's; ``changes``, the difference to the
        control's value of each metric, its standard error, and whether it is ``beyond`` two of them.
    """
    rows = [_row(bench, own, measured[0]) for own in measured]
    if len(measured[0]) > 1:
        names = [objective.name for _, _, objective in bench.objectives]
        for row in rows:
            row["changes"] = {name: _change(row, rows[0], name) for name in names}
    return [_plain(row) for row in rows]


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A row with nested numbers as columns such as ``corruptions_errors_fog_3``."""
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            columns |= flat(value, f"{prefix}{key}_")
        else:
            columns[f"{prefix}{key}"] = value
    return columns


def _row(bench: Bench, own: Sequence[Measurements], control: Sequence[Measurements]) -> dict[str, Any]:
    entry, mean = own[0].entry, MeanMeasurements(own)
    row: dict[str, Any] = {"number": entry.number, "role": entry.role, "state": "complete", "seconds": None}
    if entry.technique is not None:
        row["technique"] = entry.technique
    objectives: list[Objective] = [objective for _, _, objective in bench.objectives]
    raws = [one.raws for one in own]
    scores, each = scores_with_errors(objectives, raws, raws if own is control else [one.raws for one in control])
    for name, score in scores.items():
        row |= {**score_columns(name, score), **audit_columns(name, score)}
    row["audit"] = _audit([_audited(one, score) for one, score in zip(own, each, strict=True)])
    nested = {
        "corruptions": numbers_with_errors(corruption_numbers, own, control),
        "attack": numbers_with_errors(attack_numbers, own, control),
        "audit_report": mean.audit,
        "curve": numbers_with_errors(lambda one, _: curve_numbers(one), own, control),
        "classes": numbers_with_errors(_class_numbers(bench), own, control),
    }
    if len(own) > 1:
        nested["plain"] = numbers_with_errors(plain_numbers, own, control)
        nested["trainings"] = {
            str(number): _training(one, score) for number, (one, score) in enumerate(zip(own, each, strict=True), 1)
        }
    return row | {key: value for key, value in nested.items() if value}


def _class_numbers(bench: Bench) -> Any:
    names = tuple(map(str, bench.context.task.class_names))
    return lambda own, control: class_numbers(own, control, names)


def _training(own: Measurements, scores: Scores) -> dict[str, Any]:
    """What one training came to: the value of each metric, and of each part of the protocol what sums it up."""
    found: dict[str, Any] = {name: score["value"] for name, score in scores.items()}
    if own.corrupted:
        numbers = corruption_numbers(own, own)
        found["corruptions"] = {key: numbers[key] for key in ("mean_error", "mean_errors")}
    if own.attack:
        numbers = attack_numbers(own, own)
        found["attack"] = {f"{key}_accuracy": numbers[f"{key}_accuracy"] for key in ("clean", "direct", "robust")}
    if (audit := _audited(own, scores)) is not None:
        found["audit"] = audit
    return found


def _audited(own: Measurements, scores: Scores) -> str | None:
    """What audits of one training found; the protocol's speaks for the objectives'."""
    if own.audit:
        return audit_text({"": {"details": {**own.audit, "failed_checks": len(own.audit["failed"])}}})
    return audit_text(scores)


def _audit(texts: Sequence[str | None]) -> str | None:
    """``masked: 2 of 8 checks (1 of 3 trainings)``; the text itself of a single training."""
    masked = [text for text in texts if text is not None and text.startswith(MASKED)]
    if not masked:
        return texts[0]
    return masked[0] + (f" ({len(masked)} of {len(texts)} trainings)" if len(texts) > 1 else "")


def _change(row: Mapping[str, Any], control: Mapping[str, Any], name: str) -> dict[str, Any]:
    if row is control:
        change = error = 0.0
    elif name == "accuracy" and math.isclose(row[name], row["plain"]["accuracy"]):
        # known image by image
        change, error = row["plain"]["accuracy_change"], row["plain"]["accuracy_change_se"]
    else:
        change = row[name] - control[name]
        # the images are taken as others for each, so that this is rather too large
        error = math.hypot(row[f"{name}_se"] or 0.0, control[f"{name}_se"] or 0.0)
    return {"change": change, "change_se": error, "beyond": abs(change) > DISTANCE * error}


def _plain(value: Any) -> Any:
    """JSON values, with None for a number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
