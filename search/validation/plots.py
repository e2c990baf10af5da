"""Pictures of a validation, each against the control: corruption × severity, accuracy over ε, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...objectives.base import binomial_error
from ...studies.errors import InputError
from .protocol import CURVE_STEPS, SEVERITIES, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_CLASSES", "draw_all"]

Row = Mapping[str, Any]

MOST_CLASSES = 40
"""A picture shows as many classes, those that have changed most."""
CONTROL, OTHER_CONTROL, TRIAL = "#6b7280", "#9ca3af", "#c2410c"


def draw_all(
    folder: Path, name: str, protocol: Protocol, images: int, rows: Sequence[Row], titles: Sequence[str]
) -> list[Path]:
    """Write every picture that the measured parts allow, as PNG files.

    Args:
        folder: Where to; made if absent.
        name: The study's.
        protocol: What was measured.
        images: On how many test images.
        rows: As `Validation.rows`, the control first.
        titles: What each row is called.

    Returns:
        The files: ``<row>-corruptions.png`` and ``<row>-classes.png`` for each row but the control, and
        ``epsilon.png`` for all of them.

    Raises:
        InputError: The folder cannot be written.
    """
    control, written = rows[0], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row, title in zip(rows[1:], titles[1:], strict=True):
            stem = title.replace(" ", "-")
            head = f"{name}, {title}"
            if "corruptions" in row:
                figure = _heat_maps(
                    control["corruptions"], row["corruptions"], title, f"{head}: error on {images} test images"
                )
                written.append(_save(figure, folder / f"{stem}-corruptions.png"))
            if "classes" in row:
                figure = _class_bars(
                    row["classes"], control["classes"], title, f"{head}: accuracy of each class (± standard error)"
                )
                written.append(_save(figure, folder / f"{stem}-classes.png"))
        if "curve" in control:
            figure = _curves(protocol, [row["curve"] for row in rows], [row["role"] for row in rows], titles, name)
            written.append(_save(figure, folder / "epsilon.png"))
    except OSError as error:
        raise InputError(
            f"`--plots` must be a folder that can be written; found {folder} ({error.strerror})."
        ) from None
    return written


def _heat_maps(control: Row, own: Row, title: str, head: str) -> Figure:
    """Error by corruption (rows) and severity (columns): the row's, the control's, and the difference."""
    names = list(own["errors"])
    grids = [
        100.0 * np.array([[side["errors"][name][str(severity)] for severity in SEVERITIES] for name in names])
        for side in (own, control)
    ]
    difference = grids[0] - grids[1]
    highest = max(10.0, 10.0 * float(np.ceil(np.max(grids) / 10.0)))
    most = max(1.0, float(np.abs(difference).max()))
    figure = _figure(9.6, 1.6 + 0.27 * len(names))
    panels = [
        (title, grids[0], "cividis", (0.0, highest), "error (%)"),
        ("control", grids[1], "cividis", (0.0, highest), "error (%)"),
        (f"{title} − control", difference, "RdBu_r", (-most, most), "points (red: worse)"),
    ]
    all_axes = figure.subplots(1, 3, sharey=True)
    for index, (axes, (text, grid, colours, limits, unit)) in enumerate(zip(all_axes, panels, strict=True)):
        picture = axes.imshow(grid, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
        axes.set_title(text, fontsize=10)
        axes.set_xticks(range(len(SEVERITIES)), [str(severity) for severity in SEVERITIES])
        axes.set_xlabel("severity")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(length=0)
        _write_cells(axes, grid, picture, signed=index == 2)
        if index > 0:
            figure.colorbar(picture, ax=all_axes[:2] if index == 1 else axes, label=unit, shrink=0.9)
    figure.suptitle(head, fontsize=11)
    return figure


def _write_cells(axes: Axes, grid: np.ndarray, picture: Any, *, signed: bool) -> None:
    for (row, column), value in np.ndenumerate(grid):
        red, green, blue, _ = picture.cmap(picture.norm(value))
        # what reads on the cell's own colour (luma of ITU-R BT.601)
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        text = f"{value:+.0f}" if signed and round(value) else f"{abs(value):.0f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)


def _curves(
    protocol: Protocol, curves: Sequence[Row], roles: Sequence[str], titles: Sequence[str], name: str
) -> Figure:
    """Accuracy over the attack's radius, with a band of one binomial standard error."""
    from matplotlib import colormaps

    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    palette = colormaps["tab10"]
    # a length over all pixels is not counted in grey levels
    unit = 255.0 if protocol.norm == "linf" else 1.0
    trials = 0
    for curve, role, title in zip(curves, roles, titles, strict=True):
        points = list(curve.values())
        radius = np.array([unit * point["epsilon"] for point in points])
        share, error = (100.0 * np.array([point[key] for point in points]) for key in ("accuracy", "accuracy_se"))
        colour: Any = CONTROL if role == "control" else OTHER_CONTROL
        style = "--" if role == "control" else ":"
        if role == "trial":
            colour, style = palette(trials % palette.N), "-"
            trials += 1
        axes.plot(radius, share, style, color=colour, marker="o", markersize=3, label=title)
        axes.fill_between(radius, share - error, share + error, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(unit * protocol.epsilon, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_xlabel(f"{'ε' if unit == 1.0 else 'ε × 255'} ({protocol.norm_name}; dotted: the protocol's)")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(-2.0, 102.0)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.legend(fontsize=8)
    count = next(iter(curves[0].values()))["images"]
    axes.set_title(f"{name}: PGD-{CURVE_STEPS} with transfer, {count} test images", fontsize=11)
    return figure


def _class_bars(own: Row, control: Row, title: str, head: str) -> Figure:
    """Two bars a class with binomial standard errors, one panel for plain images and one for corrupted ones."""
    present = [name for name, numbers in own.items() if numbers["images"]]
    panels = [("accuracy", "plain images")]
    if "corrupted_accuracy" in own[present[0]]:
        panels.append(("corrupted_accuracy", "corrupted images"))

    def changed(name: str) -> float:
        return max(abs(own[name][f"{key}_change"] or 0.0) for key, _ in panels)

    shown = present
    if len(present) > MOST_CLASSES:
        most = set(sorted(present, key=changed, reverse=True)[:MOST_CLASSES])
        shown = [name for name in present if name in most]
        head += f" ({MOST_CLASSES} of {len(present)}, which have changed most)"
    figure = _figure(max(5.5, 2.0 + 0.45 * len(shown)), 2.6 * len(panels) + 0.8)
    places = np.arange(len(shown))
    for index, (key, text) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        for offset, (side, colour, label) in enumerate(((control, CONTROL, "control"), (own, TRIAL, title))):
            shares = [100.0 * (side[name][key] or 0.0) for name in shown]
            # one image's corrupted versions count as one image
            errors = [100.0 * binomial_error(side[name][key] or 0.0, side[name]["images"]) for name in shown]
            bars: dict[str, Any] = {
                "width": 0.38,
                "color": colour,
                "label": label,
                "error_kw": {"elinewidth": 0.8, "capsize": 1.5},
            }
            axes.bar(places + 0.4 * offset - 0.2, shares, yerr=errors, **bars)
        axes.set_xticks(places, shown, rotation=90 if max(map(len, shown)) > 3 else 0, fontsize=8)
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_ylim(0.0, 102.0)
        axes.set_ylabel(f"{text} (%)")
        axes.grid(visible=True, axis="y", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
        if index == 0:
            figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle(head, fontsize=11)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, dpi=130)
    return file
