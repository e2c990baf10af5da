"""Pictures of a study: every pair of objectives, with the front, the control and all other trials."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd

__all__ = ["plot_front"]

COLOURS = {"front": "#c2410c", "other": "#9ca3af", "control": "#1d4ed8"}


def plot_front(
    trials: pd.DataFrame, objectives: dict[str, str], labels: dict[str, str], file: Path, title: str
) -> None:
    """Write one panel per pair of objectives to `file` (PNG, PDF or SVG by its ending).

    Args:
        trials: Completed trials with columns ``number``, ``role``, ``on_front`` and one for each objective.
        objectives: Name to direction; an arrow on each axis label points to the better end.
        labels: Name to axis label.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    pairs = list(combinations(objectives, 2)) or [(next(iter(objectives)), "number")]
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    groups = {
        "other": trials[~trials["on_front"] & (trials["role"] != "control")],
        "front": trials[trials["on_front"] & (trials["role"] != "control")],
        "control": trials[trials["role"] == "control"],
    }
    names = {"other": "dominated", "front": "front", "control": "dense control"}
    markers = {"other": "o", "front": "o", "control": "*"}
    sizes = {"other": 22, "front": 44, "control": 150}
    for index, (x, y) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, index + 1)
        for group, rows_of in groups.items():
            axes.scatter(
                rows_of[x],
                rows_of[y],
                s=sizes[group],
                c=COLOURS[group],
                marker=markers[group],
                label=names[group],
                zorder=2 + (group != "other"),
            )
        for _, row in groups["front"].iterrows():
            axes.annotate(str(row["number"]), (row[x], row[y]), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel(_label(x, labels, objectives, "→", "←"))
        axes.set_ylabel(_label(y, labels, objectives, "↑", "↓"))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        if index == 0:
            axes.legend(fontsize=7, framealpha=0.85)
    figure.savefig(file, dpi=130)


def _label(name: str, labels: dict[str, str], objectives: dict[str, str], more: str, less: str) -> str:
    if name not in objectives:
        return name
    arrow = more if objectives[name] == "maximize" else less
    return f"{labels.get(name, name)} (better {arrow})"
