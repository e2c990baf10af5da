"""The report's pictures: matplotlib figures as pages carry them, and those of layers, corruptions and classes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bars_of_classes", "embedded", "heat_map", "new_figure"]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def embedded(figure: Figure, text: str) -> str:
    """HTML of a figure as an SVG inside the page; `text` says what it shows, for who cannot see it."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # no date and no random ids: the same run gives the same page
    with rc_context({"svg.hashsalt": "forgefront"}):
        figure.savefig(buffer, format="svg", dpi=110, metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    said = html.escape(text, quote=True)
    return f'<figure class="plot"><img alt="{said}" src="data:image/svg+xml;base64,{data}"></figure>'


def heat_map(
    axes: Axes,
    grid: np.ndarray,
    columns: Sequence[str],
    title: str,
    *,
    colours: str,
    limits: tuple[float, float],
    form: str,
) -> None:
    """Cells with their numbers; NaN is left blank with a dash.

    Args:
        axes: What is drawn on.
        grid: (rows, columns) floats.
        columns: Their names.
        title: Above.
        colours: A matplotlib colour map.
        limits: Values of its ends.
        form: Format of a number, such as ``".0f"``.
    """
    picture = axes.imshow(
        np.ma.masked_invalid(grid), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
    )
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(columns)), list(columns), fontsize=7)
    axes.tick_params(length=0)
    if grid.size > 1200:
        return
    for (row, column), value in np.ndenumerate(grid):
        if np.isnan(value):
            axes.text(column, row, "–", ha="center", va="center", fontsize=6, color="#6b7280")
            continue
        red, green, blue, _ = picture.cmap(picture.norm(value))
        # what reads on the cell's own colour (luma of ITU-R BT.601)
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        axes.text(column, row, format(value, form), ha="center", va="center", fontsize=6, color=ink)


def bars_of_classes(
    axes: Axes, counts: Mapping[str, Any], control: Mapping[str, Any] | None, classes: Sequence[int], title: str
) -> None:
    """Accuracy of each class as bars, the control's as marks.

    Args:
        axes: What is drawn on.
        counts: ``correct`` and ``total`` images of each class.
        control: The same of the dense control, None where there is none.
        classes: Indices of the classes to show.
        title: Above.
    """
    places = range(len(classes))
    axes.bar(places, _accuracies(counts, classes), color="#c2410c", alpha=0.8, width=0.7)
    if control is not None:
        axes.plot(places, _accuracies(control, classes), "_", color="#1d4ed8", markersize=9, markeredgewidth=2)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(places, [str(label) for label in classes], fontsize=7)
    axes.set_ylim(0.0, 1.05)
    axes.grid(visible=True, axis="y", linewidth=0.4, alpha=0.5)


def _accuracies(counts: Mapping[str, Any], classes: Sequence[int]) -> np.ndarray:
    correct = np.asarray(counts["correct"], dtype=float)[list(classes)]
    total = np.asarray(counts["total"], dtype=float)[list(classes)]
    shares: np.ndarray = np.divide(correct, total, out=np.zeros_like(correct), where=total > 0)
    return shares
