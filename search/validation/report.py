"""What a validation found, as text: corruption errors, attacks, the audit and classes, each against the control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...studies.registry import CORRUPTIONS
from ..told_apart import DISTANCE
from .protocol import Protocol

__all__ = ["MOST_CLASSES", "Cells", "Row", "blocks", "report"]

Row = Mapping[str, Any]
Cells = list[tuple[str, list[str]]]

WIDEST = 118
MOST_CLASSES = 20
"""A table shows as many classes, those that a trial has lost most of; CSV and JSON hold all."""


def report(protocol: Protocol, images: int, rows: Sequence[Row], titles: Sequence[str]) -> Iterator[str]:
    """Tables, each headed by a line that says what it shows; parts that were not measured are left out.

    Args:
        protocol: What was measured.
        images: On how many test images.
        rows: As `Validation.rows`, the control first.
        titles: What each row is called.
    """
    several = len(rows[0].get("trainings", ())) > 1
    change = f"(difference to the control ± standard error{f', * beyond {DISTANCE:g}' if several else ''})"
    worst = f", the worst of {len(rows[0]['trainings'])} trainings" if several else ""
    if "corruptions" in rows[0]:
        head = f"error in % on {images} corrupted test images, severities 1–5 {change}"
        yield from blocks(head, titles, _corruptions([row["corruptions"] for row in rows], several))
    if "attack" in rows[0]:
        radius = f"{protocol.norm_name} with ε {protocol.epsilon:.4g}"
        head = f"accuracy in % on {images} test images, attacks in {radius} {change}"
        yield from blocks(head, titles, _attack(protocol, [row["attack"] for row in rows], several))
    if "audit_report" in rows[0]:
        yield from _audit([row["audit_report"] for row in rows], titles, worst)
    if "classes" in rows[0]:
        yield from _classes([row["classes"] for row in rows], titles)


def _corruptions(found: Sequence[Row], several: bool) -> Cells:
    rows: Cells = []
    names = list(found[0]["errors"])
    for name in names:
        cells = [
            _with_change(
                one["mean_errors"][name],
                one["mean_errors_change"][name],
                one["mean_errors_change_se"][name],
                first,
                several,
            )
            for first, one in _marked(found)
        ]
        rows.append((name, cells))
    # of the fifteen alone, where others were measured too
    published = "mean_error_extra" in found[0] and any(f"mean_error_{group}" in found[0] for group in CORRUPTIONS)
    groups = {f"mean_error_{group}": f"all {group}" for group in (*CORRUPTIONS, "extra", "own")}
    words = {
        **groups,
        "mean_error_seen": "seen in training",
        "mean_error_unseen": "not seen in training",
        "mean_error": "mean error, published" if published else "mean error",
    }
    for key, word in words.items():
        if any(key in one for one in found):
            cells = [
                _with_change(one[key], one[f"{key}_change"], one[f"{key}_change_se"], first, several)
                if key in one
                else "–"
                for first, one in _marked(found)
            ]
            rows.append((word, cells))
    for key, word in {"mce": "mCE", "relative_mce": "relative mCE"}.items():
        if all(key in one for one in found):
            rows.append((word, [_ratio(one[key], one[f"{key}_se"], first, several) for first, one in _marked(found)]))
    return rows


def _attack(protocol: Protocol, found: Sequence[Row], several: bool) -> Cells:
    words = {
        "clean": "without attack",
        "direct": protocol.attack_name,
        "robust": "+ unmasked gradients, transfer",
    }
    return [
        (
            word,
            [
                _with_change(
                    one[f"{key}_accuracy"],
                    one[f"{key}_accuracy_change"],
                    one[f"{key}_accuracy_change_se"],
                    first,
                    several,
                )
                for first, one in _marked(found)
            ],
        )
        for key, word in words.items()
    ]


def _marked(found: Sequence[Row]) -> Iterator[tuple[bool, Row]]:
    """Each one, and whether it is the control."""
    return ((index == 0, one) for index, one in enumerate(found))


def _beyond(change: float, error: float) -> str:
    """``*`` for a difference beyond two standard errors, else a blank of its width."""
    return "*" if abs(change) > DISTANCE * error else " "


def _with_change(share: float, change: float, error: float, control: bool, several: bool) -> str:
    """``25.1 (+1.7 ± 0.6)``, in per cent, and of several trainings `beyond`; the control has no difference."""
    mark = _beyond(change, error) if several else ""
    return f"{100 * share:.1f}" + ("" if control else f" ({100 * change:+.1f} ± {100 * error:.1f}){mark}")


def _ratio(value: float, error: float, control: bool, several: bool) -> str:
    """``107.3 (+7.3 ± 2.1)``: in per cent of the control's, which has 100."""
    mark = _beyond(value - 100, error) if several else ""
    return f"{value:.1f}" + ("" if control else f" ({value - 100:+.1f} ± {error:.1f}){mark}")


def _audit(reports: Sequence[Row], titles: Sequence[str], worst: str) -> Iterator[str]:
    head = (
        f"audit: % of {reports[0]['images']} test images that speak against real robustness (most that passes){worst}"
    )
    checks = list(dict.fromkeys(check["name"] for report in reports for check in report["checks"]))
    rows: Cells = []
    for name in checks:
        cells = []
        for one in reports:
            check = next((check for check in one["checks"] if check["name"] == name), None)
            cells.append("–" if check is None else _check(check))
        rows.append((name, cells))
    rows.append(("verdict", [one["verdict"] for one in reports]))
    yield from blocks(head, titles, rows)


def _check(check: Row) -> str:
    text = f"{100 * check['value']:.1f} (≤ {100 * check['bound']:.1f})"
    return text if check["passed"] else f"FAILED {text}"


def _classes(found: Sequence[Row], titles: Sequence[str]) -> Iterator[str]:
    names = [name for name, one in found[0].items() if one["images"]]
    lost = {name: min((one[name]["accuracy_change"] or 0.0 for one in found), default=0.0) for name in names}
    shown = sorted(names, key=lambda name: lost[name])[:MOST_CLASSES] if len(names) > MOST_CLASSES else names
    part = f", the {len(shown)} of {len(names)} that have lost most" if len(shown) < len(names) else ""
    corrupted = "corrupted_accuracy" in found[0][shown[0]]
    what = "plain / corrupted images" if corrupted else "plain images"
    head = f"accuracy of each class in % on {what} (difference to the control){part}"
    rows: Cells = []
    for name in shown:
        cells = []
        for first, one in _marked([row[name] for row in found]):
            shares = [("accuracy", one["accuracy"])] + (
                [("corrupted_accuracy", one["corrupted_accuracy"])] if corrupted else []
            )
            values = " / ".join(f"{100 * share:.1f}" for _, share in shares)
            changes = " / ".join(f"{100 * one[f'{key}_change']:+.1f}" for key, _ in shares)
            cells.append(values if first else f"{values} ({changes})")
        rows.append((name, cells))
    yield from blocks(head, titles, rows)


def blocks(head: str, titles: Sequence[str], rows: Cells) -> Iterator[str]:
    """One table below its head, or as many as it takes to stay within 118 characters; the control leads each."""
    label = max(len(name) for name, _ in rows)
    widths = [
        max(len(text) for text in (title, *(cells[column] for _, cells in rows))) for column, title in enumerate(titles)
    ]
    shown = [0]
    for column in range(1, len(titles)):
        if len(shown) > 1 and label + sum(widths[one] + 2 for one in (*shown, column)) > WIDEST:
            yield f"{head}\n{_text(titles, rows, shown, widths)}"
            shown = [0]
        shown.append(column)
    yield f"{head}\n{_text(titles, rows, shown, widths)}"


def _text(titles: Sequence[str], rows: Cells, shown: Sequence[int], widths: Sequence[int]) -> str:
    label = max(len(name) for name, _ in rows)

    def line(name: str, cells: Sequence[str]) -> str:
        return "  ".join([f"{name:<{label}}", *(f"{cells[column]:>{widths[column]}}" for column in shown)])

    return "\n".join([line("", titles), *(line(name, cells) for name, cells in rows)])
