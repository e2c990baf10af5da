"""`CostTable`: what each layer costs on a target with so many channels kept, measured, so that a loss may ask for time.

Each distinct layer is exported alone and timed on a grid of (input, output) channels; tables of single layers add up to
too much or too little, because runtimes fuse across layers, so whole networks at a few widths are timed in the same
rounds and the table is scaled to predict them. Milliseconds; only their proportions matter to a hardware loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...studies.errors import TargetError
from .cost_grid import bilinear

__all__ = ["Calibration", "CostGrid", "CostTable"]

VERSION = 1


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
        total = torch.zeros_like(out_channels)
        for name in self.layers[layer]:
            grid = self.grids[name]
            inputs, outputs = _within(in_channels, grid.in_channels[-1]), _within(out_channels, grid.out_channels[-1])
            total = total + bilinear(grid.milliseconds, grid.in_channels, grid.out_channels, inputs, outputs)
        return total * self.calibration.scale

    def dense_cost(self, layer: str) -> float:
        """Calibrated milliseconds of the whole layer."""
        return self.calibration.scale * sum(self.grids[name].milliseconds[-1][-1] for name in self.layers[layer])

    def total(self, channels: Mapping[str, tuple[float, float]]) -> float:
        """Milliseconds of the network whose layers keep so many (inputs, outputs); layers not named are whole."""
        total = self.overhead
        for layer in self.layers:
            if layer in channels:
                inputs, outputs = (torch.tensor(float(count), dtype=torch.float64) for count in channels[layer])
                total += float(self.cost(layer, inputs, outputs))
            else:
                total += self.dense_cost(layer)
        return total

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


def _within(channels: Tensor, dense: int) -> Tensor:
    """`channels` clamped to [1, `dense`], with a gradient on the bounds too: training begins on one."""
    return channels if 1.0 <= float(channels.detach()) <= dense else channels.clamp(1.0, float(dense))


def _grid(data: Mapping[str, Any]) -> CostGrid:
    rows = tuple(tuple(float(value) for value in row) for row in data["milliseconds"])
    inputs, outputs = tuple(map(int, data["in_channels"])), tuple(map(int, data["out_channels"]))
    if [len(row) for row in rows] != [len(outputs)] * len(inputs):
        raise ValueError(f"milliseconds of shape {len(inputs)} x {len(outputs)}")
    return CostGrid(inputs, outputs, rows, dict(data["measured"]))
