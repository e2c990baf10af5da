"""What several trainings of each subject say: differences to the control, each one's values, who differs in what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..tables import LABELS
from ..told_apart import DISTANCE
from .report import Cells, Row, blocks

__all__ = ["MOST_PAIRS", "comparison", "with_pairs"]

MOST_PAIRS = 15
"""Pairs of trials that are told one by one; of more, those alone that differ in nothing. CSV and JSON hold all."""


def with_pairs(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """`rows` with, for each trial, ``told_apart`` and ``alike``.

    Args:
        rows: As `rows.rows_of` makes them.
        objectives: What trials are compared in.

    Returns:
        ``told_apart`` holds for each other trial, by its number, the objectives in which the two are more than two
        standard errors apart, as text; ``alike`` the numbers of those with none. Errors are taken as independent,
        though the images are the same, so that rather too many are called alike than too few.
    """
    trials = {str(row["number"]): row for row in rows if row["role"] == "trial"}
    found = []
    for row in rows:
        if row["role"] != "trial":
            found.append(dict(row))
            continue
        apart = {
            number: " ".join(name for name in objectives if _apart(row, other, name))
            for number, other in trials.items()
            if other is not row
        }
        alike = " ".join(number for number, names in apart.items() if not names)
        found.append({**row, "told_apart": apart, "alike": alike})
    return found


def comparison(metrics: Sequence[str], rows: Sequence[Row], titles: Sequence[str]) -> Iterator[str]:
    """Tables and lines, each headed by a line that says what it shows.

    Args:
        metrics: Objectives and metrics, in the order to show.
        rows: As `with_pairs` gives them, of two trainings or more, the control first.
        titles: What each row is called.
    """
    count = len(rows[0]["trainings"])
    shown = [name for name in metrics if name in rows[0]["changes"]]
    yield (
        f"standard errors are sqrt(e² + s²/{count}), of differences sqrt(e² + s²/{count} + s_control²/{count}):"
        " e over images, s between trainings"
    )
    head = f"means of {count} trainings ± standard error (difference to the control ± standard error, * beyond"
    cells: Cells = [(_label(name), [_mean(row, name, row is rows[0]) for row in rows]) for name in shown]
    yield from blocks(f"{head} {DISTANCE:g})", titles, cells)
    cells = [(_label(name), [_each(row["trainings"], name) for row in rows]) for name in shown]
    yield from blocks(f"the {count} trainings one by one", titles, cells)
    pairs = list(_pairs(rows))
    if pairs:
        yield "\n".join(["which trials are told apart, at two standard errors of their difference", *pairs])


def _pairs(rows: Sequence[Row]) -> Iterator[str]:
    trials = {str(row["number"]): row["told_apart"] for row in rows if row["role"] == "trial"}
    every = list(itertools.combinations(trials, 2))
    alike = [(one, other) for one, other in every if not trials[one][other]]
    for one, other in every if len(every) <= MOST_PAIRS else alike[:MOST_PAIRS]:
        names = trials[one][other].split()
        what = f"differ in {', '.join(LABELS.get(name, name) for name in names)}" if names else "differ in nothing"
        yield f"trials {one} and {other} {what}{'' if names else ' by more than two standard errors'}"
    if len(every) > MOST_PAIRS:
        yield f"{len(every) - len(alike)} of {len(every)} pairs differ in something"


def _apart(row: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    if row[name] is None or other[name] is None:
        return False
    error = math.hypot(row[f"{name}_se"] or 0.0, other[f"{name}_se"] or 0.0)
    return abs(row[name] - other[name]) > DISTANCE * error


def _label(name: str) -> str:
    return LABELS.get(name, name) + (" in %" if _is_share(name) else "")


def _is_share(name: str) -> bool:
    return name.endswith("accuracy")


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if _is_share(name) else f"{value:.4g}"


def _with_error(name: str, value: float | None, error: float | None, sign: str = "") -> str:
    """``3.658 ± 0.016``: to two digits of the error."""
    if value is None or error is None:
        return "–"
    scale = 100.0 if _is_share(name) else 1.0
    value, error = scale * value, scale * error
    if not error:
        return f"{value:{sign}.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def _mean(row: Row, name: str, control: bool) -> str:
    text = _with_error(name, row[name], row[f"{name}_se"])
    change = row["changes"][name]
    if control or change["change"] is None:
        return text
    mark = "*" if change["beyond"] else " "
    return f"{text} ({_with_error(name, change['change'], change['change_se'], '+')}){mark}"


def _each(trainings: Mapping[str, Mapping[str, Any]], name: str) -> str:
    texts = [_number(name, one[name]) for one in trainings.values()]
    return " ".join(texts) if len(set(texts)) > 1 else f"each {texts[0]}"
