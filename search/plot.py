"""Pictures of a study: every pair of objectives, with the front, the control and all other trials, and panels below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..studies.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "draw_trials", "finish_pair", "pairs_of", "plot_front", "plot_merged_front", "writing_plot"]

Panel = Callable[["Axes"], None]

FORMATS = (".png", ".pdf", ".svg")
MANY = 1500
"""Points beyond which they are drawn as pixels, even in a vector graphic."""
NAMED = 40
"""Members of a front beyond which none is named."""
COLOURS = {"front": "#c2410c", "other": "#9ca3af", "infeasible": "#9ca3af", "control": "#1d4ed8"}
INFEASIBLE = "breaks a constraint"


def plot_front(
    trials: pd.DataFrame,
    objectives: dict[str, str],
    labels: dict[str, str],
    file: Path,
    title: str,
    history: Sequence[tuple[int, float]] = (),
) -> None:
    """Write one panel per pair of objectives to `file` (PNG, PDF or SVG by its ending), and the front as a whole below.

    Args:
        trials: Completed trials with columns ``number``, ``role``, ``feasible``, ``on_front`` and one for each
            objective.
        objectives: Name to direction; an arrow on each axis label points to the better end.
        labels: Name to axis label.
        title: Of the picture.
        history: Hypervolume by trial, of `plot_history.history_by_trial`; no panel without it.
    """
    from .plot_history import draw_history
    from .plot_parallel import draw_parallel

    whole: list[Panel] = [lambda axes: draw_parallel(axes, trials, objectives, labels)] if len(objectives) > 1 else []
    whole += [lambda axes: draw_history(axes, history)] if history else []
    _draw_pairs(objectives, labels, file, title, lambda axes, x, y: draw_trials(axes, trials, x, y), below=whole)


def draw_trials(axes: Axes, trials: pd.DataFrame, x: str, y: str) -> None:
    """One pair of columns: dominated trials, those that break a constraint, the front and its numbers, the control."""
    control, feasible = trials["role"] == "control", trials["feasible"].astype(bool)
    groups = {
        "infeasible": (trials[~feasible & ~control], INFEASIBLE, "x", 22),
        "other": (trials[feasible & ~trials["on_front"] & ~control], "dominated", "o", 22),
        "front": (trials[trials["on_front"] & ~control], "front", "o", 44),
        "control": (trials[control], "dense control", "*", 150),
    }
    for group, (rows_of, name, marker, size) in groups.items():
        if group == "infeasible" and rows_of.empty:
            continue
        axes.scatter(
            rows_of[x],
            rows_of[y],
            s=size if len(rows_of) <= MANY else size / 8,
            c=COLOURS[group],
            marker=marker,
            label=name,
            zorder=2 + (group in ("front", "control")),
            rasterized=len(rows_of) > MANY,
        )
    front = groups["front"][0]
    for _, row in front.iterrows() if len(front) <= NAMED else ():
        _annotate(axes, row, x, y, str(row["number"]))


def pairs_of(objectives: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of objectives; of a single one, it against the trial's number."""
    names = list(objectives)
    return list(combinations(names, 2)) or [("number", names[0])]


def plot_merged_front(
    trials: pd.DataFrame, objectives: dict[str, str], labels: dict[str, str], file: Path, title: str
) -> None:
    """As `plot_front` for the trials of several runs: a colour for each run, the common front filled and ringed, and
    crosses for what breaks a constraint.

    Args:
        trials: Completed trials with the columns of `plot_front` and ``run``; ``on_front`` is of all runs together.
        objectives: Name to direction, the same in every run.
        labels: Name to axis label.
    """
    from matplotlib import colormaps

    palette = colormaps["tab10"]
    names = list(dict.fromkeys(trials["run"]))

    def draw(axes: Axes, x: str, y: str) -> None:
        for index, name in enumerate(names):
            colour = palette(index % palette.N)
            own = trials[trials["run"] == name]
            control, feasible = own["role"] == "control", own["feasible"].astype(bool)
            front, other = own[own["on_front"]], own[feasible & ~own["on_front"] & ~control]
            broken = own[~feasible & ~control]
            axes.scatter(broken[x], broken[y], s=22, color=colour, marker="x", alpha=0.35, zorder=2)
            axes.scatter(other[x], other[y], s=22, color=colour, alpha=0.35, zorder=2)
            axes.scatter(own[control][x], own[control][y], s=150, marker="*", color=colour, alpha=0.6, zorder=3)
            axes.scatter(front[x], front[y], s=50, color=colour, edgecolor="black", label=name, zorder=4)
            for _, row in front.iterrows():
                _annotate(axes, row, x, y, _code(row))
        if not (trials["feasible"].astype(bool) | (trials["role"] == "control")).all():
            axes.scatter([], [], s=22, color=COLOURS["infeasible"], marker="x", label=INFEASIBLE)

    _draw_pairs(objectives, labels, file, title, draw)


@contextmanager
def writing_plot(file: Path) -> Iterator[None]:
    """Check that `file` can be drawn to, and tell what goes wrong in one line.

    Raises:
        InputError: The ending is none of `FORMATS`, the folder does not exist, or the file cannot be written.
    """
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"`--plot` must end in {', '.join(FORMATS)}; found {file}.")
    if not file.absolute().parent.is_dir():
        raise InputError(f"`--plot` must lie in an existing folder; found {file}.")
    try:
        yield
    except OSError as error:
        raise InputError(f"`--plot` must be a file that can be written; found {file} ({error.strerror}).") from None


def _draw_pairs(
    objectives: dict[str, str],
    labels: dict[str, str],
    file: Path,
    title: str,
    draw: Callable[[Axes, str, str], None],
    below: Sequence[Panel] = (),
) -> None:
    """One panel a pair of objectives, each filled by `draw`, then one as wide as all for each of `below`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = pairs_of(objectives)
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(max(4.6 * columns, 6.4), 3.9 * rows + 3.4 * len(below)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    grid = figure.add_gridspec(rows + len(below), columns)
    for index, (x, y) in enumerate(pairs):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        draw(axes, x, y)
        finish_pair(axes, x, y, objectives, labels)
        if index == 0:
            axes.legend(fontsize=7, framealpha=0.85)
    for index, panel in enumerate(below):
        panel(figure.add_subplot(grid[rows + index, :]))
    figure.savefig(file, dpi=130)


def finish_pair(axes: Axes, x: str, y: str, objectives: dict[str, str], labels: dict[str, str]) -> None:
    """Labels with arrows to the better ends, few ticks, a grid."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(_label(x, labels, objectives, "→", "←"))
    axes.set_ylabel(_label(y, labels, objectives, "↑", "↓"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)


def _annotate(axes: Axes, row: pd.Series, x: str, y: str, text: str) -> None:
    axes.annotate(text, (row[x], row[y]), xytext=(4, 4), textcoords="offset points", fontsize=7)


def _code(row: pd.Series) -> str:
    """The number of a row's trial, or of its technique (Castro et al. number their points so)."""
    name = row.get("technique")
    return f"#{str(name).rpartition('-')[2]}" if isinstance(name, str) else str(row["number"])


def _label(name: str, labels: dict[str, str], objectives: dict[str, str], more: str, less: str) -> str:
    if name not in objectives:
        return name
    arrow = more if objectives[name] == "maximize" else less
    return f"{labels.get(name, name)} (better {arrow})"
