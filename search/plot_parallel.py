"""Parallel coordinates of a front: an axis for each objective, better upwards, a line for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .preference import normalize_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_parallel"]

NAMED = 20
"""Members beyond which none is named."""

GAP = 0.055
"""Between two names, as a share of an axis."""


def draw_parallel(axes: Axes, trials: pd.DataFrame, objectives: dict[str, str], labels: dict[str, str]) -> None:
    """One line for each member of the front and a dashed one for the control, every axis from worst (0) to best (1).

    Args:
        axes: What is drawn on.
        trials: Completed trials with columns ``number``, ``role``, ``on_front`` and one for each objective.
        objectives: Name to direction.
        labels: Name to axis label.
    """
    from matplotlib import colormaps

    control = trials["role"] == "control"
    shown = trials[trials["on_front"] | control].reset_index(drop=True)
    names = list(objectives)
    signs = np.array([-1.0 if way == "maximize" else 1.0 for way in objectives.values()])
    values = shown[names].to_numpy(dtype=float)
    heights = 1.0 - normalize_losses(values * signs)
    is_control = (shown["role"] == "control").to_numpy()
    # coloured along the first objective, so that a line can be followed
    order = np.argsort(heights[:, 0], kind="stable")
    colours = dict(zip(order, colormaps["viridis"](np.linspace(0.05, 0.9, len(order))), strict=True))
    for row in range(len(shown)):
        style: dict[str, Any] = {"color": "#1d4ed8", "linestyle": "--", "linewidth": 2.0, "zorder": 4}
        if not is_control[row]:
            style = {
                "color": colours[row],
                "linewidth": 1.2,
                "alpha": 0.85 if len(shown) <= 100 else 0.25,
            }
        axes.plot(range(len(names)), heights[row], **style)
    if len(shown) <= NAMED:
        for row, height in enumerate(_apart(heights[:, -1])):
            axes.annotate(
                str(shown["number"][row]),
                (len(names) - 1, heights[row, -1]),
                xytext=(len(names) - 1 + 0.12, height),
                fontsize=7,
                va="center",
            )
    for place in range(len(names)):
        axes.axvline(place, color="#6b7280", linewidth=0.8, zorder=1)
        best, worst = values[:, place], values[:, place] * signs[place]
        for at, index in ((1.0, int(np.argmin(worst))), (0.0, int(np.argmax(worst)))):
            # the ends of the axis, in the objective's own unit
            axes.annotate(
                f"{best[index]:.4g}",
                (place, at),
                xytext=(0, 5 if at else -5),
                textcoords="offset points",
                ha="center",
                va="bottom" if at else "top",
                fontsize=8,
            )
    axes.set_xticks(range(len(names)), [labels.get(name, name) for name in names])
    axes.set_yticks([0.0, 1.0], ["worst", "best"])
    axes.set_ylim(-0.12, 1.12)
    axes.set_xlim(-0.15, len(names) - 0.78)
    axes.tick_params(axis="x", length=0, pad=8)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    control_too = ", dashed the dense control" if is_control.any() else ""
    axes.set_title(f"the front, better upwards{control_too}")


def _apart(heights: np.ndarray) -> np.ndarray:
    """Heights at which names do not cover each other: moved up from the lowest, then down from the top."""
    order = np.argsort(heights, kind="stable")
    placed = heights[order].copy()
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + GAP)
    placed -= max(0.0, float(placed[-1]) - 1.05) if len(placed) else 0.0
    moved = np.empty_like(placed)
    moved[order] = placed
    return moved
