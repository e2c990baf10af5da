"""The report's sections on the front's members: compression by layer, errors by corruption, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problem import CONTROL
from .content import Content, Section
from .pictures import bars_of_classes, embedded, heat_map, new_figure

__all__ = ["classes_section", "corruptions_section", "layers_section"]

CLASSES = 20
"""Classes that are shown, those that have changed most."""
LAYERS = {
    "sparsity": ("sparsity asked for (%)", "cividis_r", (0.0, 100.0), 100.0),
    "zeros": ("zeros left (%)", "cividis_r", (0.0, 100.0), 100.0),
    "channels": ("channels kept (%)", "cividis", (0.0, 100.0), 100.0),
    "clusters": ("weight clusters", "viridis", (0.0, 256.0), 1.0),
    "bits": ("weight bits", "viridis", (0.0, 16.0), 1.0),
}
NO_MEMBER = "<p>The front holds no compressed trial yet.</p>"


def layers_section(content: Content) -> Section:
    """Heat maps: layers by members, a panel for each number that any of them states."""
    title = "Compression by layer"
    if not content.members:
        return Section("layers", title, NO_MEMBER)
    members = {number: content.layers(number) for number in content.members}
    names = list(dict.fromkeys(name for layers in members.values() for name in layers))
    if not names:
        return Section("layers", title, "<p>The trials store no plan by layers.</p>")
    parts = []
    for key, (text, colours, limits, scale) in LAYERS.items():
        rows = [[layers.get(name, {}).get(key) for layers in members.values()] for name in names]
        grid = scale * np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)
        if np.isnan(grid).all():
            continue
        figure = new_figure(2.6 + 0.42 * len(members), 1.1 + 0.2 * len(names))
        axes = figure.add_subplot()
        heat_map(axes, grid, [str(number) for number in members], text, colours=colours, limits=limits, form=".0f")
        axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=7)
        axes.set_xlabel("trial")
        parts.append(embedded(figure, f"{text} of each layer of the front's members"))
    note = f'<p class="note">{content.omitted} A dash: none.</p>'
    return Section("layers", title, f'<div class="grid wide">{"".join(parts)}</div>{note}')


def corruptions_section(content: Content) -> Section:
    """Heat maps: corruptions by severities, for the control and each member."""
    title = "Errors by corruption and severity"
    if not content.members:
        return Section("corruptions", title, NO_MEMBER)
    errors = {number: found for number, trial in content.whole.items() if (found := _errors(trial.user_attrs))}
    if not errors:
        return Section("corruptions", title, "<p>This study measures no errors on corrupted images.</p>")
    names = list(dict.fromkeys(name for own in errors.values() for name in own))
    severities = sorted({severity for own in errors.values() for row in own.values() for severity in row}, key=int)
    grids = {
        number: 100.0
        * np.array([[own.get(name, {}).get(level, np.nan) for level in severities] for name in names], dtype=float)
        for number, own in errors.items()
    }
    highest = max(10.0, float(np.nanmax(np.stack(list(grids.values())))))
    parts = []
    for number, grid in grids.items():
        head = "dense control" if number == CONTROL else f"trial {number}"
        figure = new_figure(1.9 + 0.42 * max(2, len(severities)), 1.0 + 0.19 * len(names))
        axes = figure.add_subplot()
        heat_map(axes, grid, severities, head, colours="cividis", limits=(0.0, highest), form=".0f")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=7)
        axes.set_xlabel("severity")
        parts.append(embedded(figure, f"error in per cent of {head} by corruption and severity"))
    note = f'<p class="note">Error in per cent on validation images. {content.omitted}</p>'
    return Section("corruptions", title, f'<div class="grid small">{"".join(parts)}</div>{note}')


def classes_section(content: Content) -> Section:
    """Bars: accuracy of each class, of each member against the control."""
    title = "Accuracy by class"
    if not content.members:
        return Section("classes", title, NO_MEMBER)
    counts = {number: found for number, trial in content.whole.items() if (found := _counts(trial.user_attrs))}
    control = counts.pop(CONTROL, None)
    if not counts:
        return Section("classes", title, "<p>This study counts no classes.</p>")
    classes = _changed(counts, control)
    parts = []
    for number, own in counts.items():
        figure = new_figure(max(3.4, 1.0 + 0.24 * len(classes)), 2.2)
        bars_of_classes(figure.add_subplot(), own, control, classes, f"trial {number}")
        parts.append(embedded(figure, f"accuracy of each class of trial {number}"))
    total = len(next(iter(counts.values()))["total"])
    few = f"The {CLASSES} of {total} classes that differ most from the control. " if total > CLASSES else ""
    marks = "Blue marks: the dense control. " if control is not None else ""
    note = f'<p class="note">{few}{marks}{content.omitted}</p>'
    return Section("classes", title, f'<div class="grid">{"".join(parts)}</div>{note}')


def _errors(attributes: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Error by corruption and severity, of the first metric that measured it."""
    for raw in (attributes.get("raw") or {}).values():
        errors = raw.get("errors") if isinstance(raw, Mapping) else None
        if isinstance(errors, Mapping) and errors and all(isinstance(row, Mapping) for row in errors.values()):
            return {str(name): dict(row) for name, row in errors.items()}
    return {}


def _counts(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Right and all images by class, of the first metric that counted them."""
    for raw in (attributes.get("raw") or {}).values():
        if isinstance(raw, Mapping) and isinstance(raw.get("correct"), list) and isinstance(raw.get("total"), list):
            return raw
    return None


def _changed(counts: Mapping[int, Mapping[str, Any]], control: Mapping[str, Any] | None) -> list[int]:
    shares = [
        np.asarray(own["correct"], dtype=float) / np.maximum(np.asarray(own["total"], dtype=float), 1.0)
        for own in (*counts.values(), *([control] if control is not None else []))
    ]
    spread = np.ptp(np.stack(shares), axis=0)
    return sorted(int(label) for label in np.argsort(-spread, kind="stable")[:CLASSES])


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"
