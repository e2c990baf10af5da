"""Trials as a pandas frame, and a frame as text: table, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from ..spaces.techniques import TECHNIQUES
from .non_dominated import feasible
from .score_columns import audit_columns, audit_text, score_columns
from .told_apart import named

__all__ = [
    "ATTRIBUTES",
    "BASE_COLUMNS",
    "LABELS",
    "PARAMETERS",
    "as_data",
    "enumerated",
    "few",
    "render",
    "score_columns",
    "trials_frame",
]

WIDEST = 120
"""Characters of a table of techniques."""

FEW = 4
"""Members that a front's table names in one cell."""

MOST_NUMBERS = 12
"""Trials that a message enumerates."""

LABELS = {
    "mce": "mCE",
    "relative_mce": "relative mCE",
    "mean_corruption_error": "mean error (corrupted)",
    "worst_class_accuracy": "worst-class accuracy",
    "worst_class_corrupted_accuracy": "worst-class accuracy (corrupted)",
    "pgd_accuracy": "PGD accuracy",
    "macs": "MACs",
    "latency": "latency (ratio)",
    "compression_ratio": "compression (×)",
    "macs_fraction_of_control": "MACs (share)",
}
"""What a table's head and a plot's axis call a metric, where that is not its name."""

CORRUPTION_ERRORS = ("mce", "relative_mce", "mean_corruption_error")

RATIOS = {"compression_ratio": "× smaller", "latency": "latency ×"}
"""What a table of techniques calls what it shows beside accuracies and errors on corrupted images."""

SHORT = {
    "mean_corruption_error": "mean error",
    "worst_class_accuracy": "worst class",
    "worst_class_corrupted_accuracy": "corrupted worst",
    **RATIOS,
}
"""Shorter labels, for a table of techniques."""

BASE_COLUMNS = ("number", "role", "state", "feasible", "on_front", "seconds", "reason")

ATTRIBUTES, PARAMETERS = ("role", "seconds", "reason", "scores"), ("technique",)
"""What of a trial a frame shows: user attributes and parameters."""


def trials_frame(trials: Sequence[FrozenTrial], front: Sequence[int]) -> pd.DataFrame:
    """One row a trial.

    Args:
        trials: In order of their numbers.
        front: Numbers of the feasible non-dominated trials.

    Returns:
        Columns ``number``, ``role``, ``state``, ``feasible``, ``on_front``, ``seconds``, ``reason``; for every metric
        its value, its standard error ``<metric>_se`` and what else its score states (such as ``latency_ms``);
        ``technique`` where trials have that parameter; ``audit`` where a score was audited, with its
        ``<metric>_verdict`` and what failed, ``<metric>_failed``.
    """
    members = set(front)
    rows = [_row(trial, trial.number in members) for trial in trials]
    columns = list(dict.fromkeys([*BASE_COLUMNS, *(key for row in rows for key in row)]))
    return pd.DataFrame(rows, columns=columns)


def _row(trial: FrozenTrial, on_front: bool) -> dict[str, Any]:
    attributes = trial.user_attrs
    row: dict[str, Any] = {
        "number": trial.number,
        "role": attributes.get("role", "search"),
        "state": trial.state.name.lower(),
        "feasible": feasible(trial),
        "on_front": on_front,
        "seconds": attributes.get("seconds"),
        "reason": attributes.get("reason", ""),
    }
    if "technique" in trial.params:
        row["technique"] = trial.params["technique"]
    for name, score in attributes.get("scores", {}).items():
        row |= {**score_columns(name, score), **audit_columns(name, score)}
    audit = audit_text(attributes.get("scores", {}))
    if audit is not None:
        row["audit"] = audit
    return row


def few(names: Sequence[str], most: int = FEW) -> str:
    """The first of several names, and how many there are."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names)})"


def enumerated(numbers: Sequence[int]) -> str:
    """Numbers of trials in a message: the first of many, and how many there are."""
    first = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    return first if len(numbers) <= MOST_NUMBERS else f"{first}, … {len(numbers)} in all"


def as_data(frame: pd.DataFrame, form: str) -> str:
    """All of a frame as ``"csv"`` or ``"json"`` (one object a row)."""
    if form == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    text: str = frame.to_json(orient="records", indent=2)
    return text


def render(frame: pd.DataFrame, metrics: Sequence[str], form: str) -> str:
    """The frame as text; a table shows the columns that a person compares, CSV and JSON hold all.

    Where techniques are compared, a table names them and has standard errors (±) beside accuracies and errors on
    corrupted images, for their differences are small; it is at most 120 characters wide where titles can be cut so far,
    and leaves operations, milliseconds and seconds to CSV and JSON. Rows of several runs have the run's name first. A
    front's column ``like`` names the members that its measurements cannot tell apart from each.

    Args:
        frame: Rows as `trials_frame` makes them, perhaps with a column ``run``.
        metrics: Objectives and metrics, in the order to show.
        form: ``"table"``, ``"csv"`` or ``"json"`` (one object a row).
    """
    if form != "table":
        return as_data(frame, form)
    if frame.empty:
        return "no trial to show"
    metrics = [name for name in metrics if name in frame]
    if "technique" in frame and frame["technique"].notna().any():
        return _comparison(frame, metrics)
    extras = [name for name in ("latency_ms", "macs_fraction_of_control") if name in frame and name not in metrics]
    show_state = not (frame["state"] == "complete").all()
    shown = [_plain(frame, "run")] if "run" in frame else []
    shown += [_plain(frame, "number"), _plain(frame, "role")]
    shown += [_plain(frame, "state")] if show_state else []
    for name in (*metrics, *extras, "seconds"):
        if frame[name].notna().any():
            shown.append((LABELS.get(name, name), [_cell(name, value) for value in frame[name]]))
    shown += _audit(frame)
    if "alike" in frame and frame["alike"].any():
        shown.append(("like", [few(named(text)) for text in frame["alike"]]))
    shown += [_plain(frame, "reason")] if show_state else []
    return _text(shown)


Column = tuple[str, list[Any]]


def _comparison(frame: pd.DataFrame, metrics: Sequence[str]) -> str:
    """A table of techniques, and a line for each trial that failed."""
    shown: list[Column] = [("run", [_cut(name, 24) for name in frame["run"]])] if "run" in frame else []
    # as text, for numbers are set apart by a space more
    shown += [
        ("number", list(map(str, frame["number"]))),
        ("technique", [_technique(row) for _, row in frame.iterrows()]),
    ]
    place = len(shown) - 1
    for name in metrics:
        error, noisy = f"{name}_se", name in CORRUPTION_ERRORS or name.endswith("accuracy")
        if not (noisy or name in RATIOS) or not frame[name].notna().any():
            continue
        shown.append((SHORT.get(name) or LABELS.get(name, name), [_cell(name, value) for value in frame[name]]))
        if noisy and error in frame:
            shown.append(("±", [_cell(name, value) for value in frame[error]]))
    # the verdict alone, for the checks that failed are too long here
    shown += [(head, [cell.partition(":")[0] for cell in cells]) for head, cells in _audit(frame)]
    width = sum(max(len(str(cell)) for cell in (head, *cells)) + 1 for head, cells in shown)
    head, titles = shown[place]
    longest = max(map(len, titles))
    shown[place] = head, [_cut(title, max(longest - max(width - 1 - WIDEST, 0), len(head))) for title in titles]
    failed = [
        _cut(" ".join(f"trial {row['number']}: {row['state']} {row['reason']}".split()), WIDEST)
        for _, row in frame[frame["state"] != "complete"].iterrows()
    ]
    return "\n".join([_text(shown), *failed])


def _text(shown: Sequence[Column]) -> str:
    # several columns may have the head ±
    table = pd.DataFrame(dict(enumerate(cells for _, cells in shown)))
    table.columns = pd.Index([head for head, _ in shown])
    return table.to_string(index=False)


def _plain(frame: pd.DataFrame, name: str) -> Column:
    return name, list(frame[name])


def _audit(frame: pd.DataFrame) -> list[Column]:
    """A column of what audits found, where there was one."""
    if "audit" not in frame or not frame["audit"].notna().any():
        return []
    return [("audit", ["–" if pd.isna(text) else str(text) for text in frame["audit"]])]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _technique(row: pd.Series) -> str:
    """The code and title of a row's technique; its role where it has none."""
    name = row["technique"]
    if pd.isna(name):
        return str(row["role"])
    # they would all be cut there
    title = TECHNIQUES.get(name, "").replace("with Quantization Int8", "with Int8")
    return f"{str(name).rpartition('-')[2]} {title}"


def _cell(name: str, value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "macs":
        return f"{value / 1e6:.2f} M"
    return f"{value:.4g}"
