"""`CostTable`: what each layer costs on a target with so many channels kept, measured, so that a loss may ask for time.

Each distinct layer is exported alone and timed on a grid of (input, output) channels; tables of single layers add up to
too much or too little, because runtimes fuse across layers, so whole networks at a few widths are timed in the same
rounds and the table is scaled to predict them. Milliseconds; only their proportions matter to a hardware loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...studies.errors import TargetError
from .cost_grid import bilinear, from_zero

__all__ = ["Calibration", "CostGrid", "CostTable"]

VERSION = 1
# a fit to whole networks that is worse than either is told to whoever starts the study
LARGEST_ERROR, LEAST_R_SQUARED = 0.25, 0.5


@dataclass(frozen=True)
class CostGrid:
    """One distinct layer's cost, before calibration.

    Args:
        in_channels: Numbers of input channels that were measured, ascending, the dense one last; that one alone where
            inputs are outputs (depthwise).
        out_channels: The same of outputs; the dense one alone for a linear layer.
        milliseconds: For each number of inputs a row of one figure for each number of outputs.
        measured: What was measured: the layer's geometry, JSON values.
    """

    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]
    measured: dict[str, Any]


@dataclass(frozen=True)
class Calibration:
    """How the table became whole networks' time: overhead + scale·Σ layers.

    Args:
        scale: Of every layer's figure.
        overhead_ms: What a network takes besides its layers.
        points: (predicted, measured) milliseconds of the whole networks that were timed, the dense one first.
        widths: Share of the filters that each of them kept.
        r_squared: Share of the measured variance that is explained.
        max_relative_error: Largest |predicted − measured| ÷ measured.
    """

    scale: float
    overhead_ms: float
    points: tuple[tuple[float, float], ...]
    widths: tuple[float, ...]
    r_squared: float
    max_relative_error: float


@dataclass(frozen=True)
class CostTable:
    """Milliseconds of every layer of one network on one target.

    Args:
        target: The target's name.
        integer: Measured with weights and activations of 8 bits, or in float.
        layers: Layer to the names of the grids that make up its cost, one for each time it is called.
        grids: The distinct layers, by name.
        calibration: What turns their sum into a network's time.
        details: What it was measured with, JSON values.
    """

    target: str
    integer: bool
    layers: Mapping[str, tuple[str, ...]]
    grids: Mapping[str, CostGrid]
    calibration: Calibration
    details: Mapping[str, Any]

    @property
    def overhead(self) -> float:
        """Milliseconds of a network that no layer is responsible for."""
        return self.calibration.overhead_ms

    def cost(self, layer: str, in_channels: Tensor, out_channels: Tensor) -> Tensor:
        """Calibrated milliseconds of `layer`, 0-d, differentiable in either number of channels.

        Args:
            layer: Its name.
            in_channels: Kept inputs (features of a linear layer), 0-d float, clamped to [1, dense].
            out_channels: Kept outputs, the same.

        Raises:
            KeyError: The table has no such layer.
        """
        return self.costs((layer,), in_channels[None], out_channels[None])[0]

    def costs(self, layers: Sequence[str], in_channels: Tensor, out_channels: Tensor) -> Tensor:
        """Calibrated milliseconds of L layers at once, (L,), differentiable; nothing is read back from the device.

        Args:
            layers: Their names.
            in_channels: (L,) float, kept inputs of each, clamped to [1, dense].
            out_channels: (L,) of the same type, kept outputs. A grouped layer follows them alone.

        Raises:
            KeyError: The table has no such layer.
        """
        surfaces = self._surfaces(tuple(layers), out_channels)
        x = _within(in_channels[:, None], surfaces.dense_rows)
        y = _within(out_channels[:, None], surfaces.dense_columns)
        found = bilinear(surfaces.values, surfaces.rows, surfaces.columns, x, y)
        return found.sum(dim=1) * self.calibration.scale

    def dense_cost(self, layer: str) -> float:
        """Calibrated milliseconds of the whole layer.

        Raises:
            KeyError: The table has no such layer.
        """
        return self.calibration.scale * sum(self.grids[name].milliseconds[-1][-1] for name in self.layers[layer])

    def total(self, channels: Mapping[str, tuple[float, float]]) -> float:
        """Milliseconds of the network whose layers keep so many (inputs, outputs); layers not named are whole.

        Raises:
            KeyError: The table has no layer of a name in `channels`.
        """
        whole = sum(self.dense_cost(layer) for layer in self.layers if layer not in channels)
        kept = torch.tensor(list(channels.values()), dtype=torch.float64).reshape(-1, 2)
        return self.overhead + whole + float(self.costs(tuple(channels), kept[:, 0], kept[:, 1]).sum())

    def remarks(self) -> list[str]:
        """What a person should know before relying on the table: one line where whole networks do not fit it."""
        calibration = self.calibration
        if calibration.max_relative_error <= LARGEST_ERROR and calibration.r_squared >= LEAST_R_SQUARED:
            return []
        return [
            f"the cost table of {self.target} says little of whole networks (largest error "
            f"{calibration.max_relative_error:.0%}, R² {calibration.r_squared:.2f}), so masks trained for latency may "
            "miss their target; to measure again, begin under another name while the machine is idle"
        ]

    @cached_property
    def _made(self) -> dict[tuple[Any, ...], _Surfaces]:
        return {}

    def _surfaces(self, layers: tuple[str, ...], like: Tensor) -> _Surfaces:
        """The grids of `layers` as tensors on the device of `like`, made once."""
        key = (layers, like.device, like.dtype)
        if key not in self._made:
            # tensors made in inference mode could never be part of a training step
            with torch.inference_mode(False):
                self._made[key] = _stacked([[self.grids[name] for name in self.layers[one]] for one in layers], like)
        return self._made[key]

    @property
    def digest(self) -> str:
        """SHA-256 of the table as canonical JSON, in hexadecimal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with a version."""
        values: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **asdict(self)}))
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostTable:
        """The table that `to_dict` described.

        Raises:
            TargetError: The version is unknown, or something is missing or of another kind.
        """
        try:
            if data["version"] != VERSION:
                raise TargetError(f"`version` of a cost table must be {VERSION}; found {data['version']!r}.")
            calibration = data["calibration"]
            return cls(
                target=str(data["target"]),
                integer=bool(data["integer"]),
                layers={str(name): tuple(grids) for name, grids in data["layers"].items()},
                grids={str(name): _grid(grid) for name, grid in data["grids"].items()},
                calibration=Calibration(
                    **{
                        **calibration,
                        "points": tuple((float(a), float(b)) for a, b in calibration["points"]),
                        "widths": tuple(calibration["widths"]),
                    }
                ),
                details=dict(data["details"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TargetError(f"a cost table must be what `to_dict` gave; found it damaged ({error!r}).") from None


class _Surfaces(NamedTuple):
    """The grids of L layers with at most M calls each, (L, M, …), every axis from 0 on; grids of zeros fill up."""

    values: Tensor
    rows: Tensor
    columns: Tensor
    dense_rows: Tensor
    dense_columns: Tensor


def _within(channels: Tensor, dense: Tensor) -> Tensor:
    """`channels` clamped to [1, `dense`], with the whole gradient on the bounds too: training begins on one."""
    # `clamp` passes less than that, or nothing, for what is equal to a bound
    return torch.where(channels > dense, dense, channels.masked_fill(channels < 1.0, 1.0))


def _stacked(layers: Sequence[Sequence[CostGrid]], like: Tensor) -> _Surfaces:
    found = [[_from_zero(grid) for grid in grids] for grids in layers]
    each = [one for grids in found for one in grids]
    calls = max((len(grids) for grids in found), default=0)
    height, width = (max((len(one[axis]) for one in each), default=2) for axis in (1, 2))
    values = np.zeros((len(found), calls, height, width))
    # what fills up lies behind the dense line, where nothing is read
    rows, columns = (np.tile(np.arange(size, dtype=float), (len(found), calls, 1)) for size in (height, width))
    dense = np.ones((2, len(found), calls))
    for i, grids in enumerate(found):
        for j, (block, row, column) in enumerate(grids):
            values[i, j, : len(row), : len(column)] = block
            dense[:, i, j] = row[-1], column[-1]
            rows[i, j] = [*row, *(row[-1] + np.arange(1, height - len(row) + 1))]
            columns[i, j] = [*column, *(column[-1] + np.arange(1, width - len(column) + 1))]
    arrays = (values, rows, columns, *dense)
    return _Surfaces(*(torch.as_tensor(array, dtype=like.dtype, device=like.device) for array in arrays))


def _from_zero(grid: CostGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, rows and columns of `grid`, from 0 on."""
    values, rows = from_zero(np.array(grid.milliseconds, dtype=float), np.array(grid.in_channels, dtype=float))
    if grid.measured.get("kind") in ("depthwise", "grouped"):
        # inputs do not leave by themselves, and callers count those of one group or all of them
        values[0] = values[1]
    transposed, columns = from_zero(values.T, np.array(grid.out_channels, dtype=float))
    return transposed.T, rows, columns


def _grid(data: Mapping[str, Any]) -> CostGrid:
    rows = tuple(tuple(float(value) for value in row) for row in data["milliseconds"])
    inputs, outputs = tuple(map(int, data["in_channels"])), tuple(map(int, data["out_channels"]))
    if [len(row) for row in rows] != [len(outputs)] * len(inputs):
        raise ValueError(f"milliseconds of shape {len(inputs)} x {len(outputs)}")
    return CostGrid(inputs, outputs, rows, dict(data["measured"]))
