"""Measuring a `CostTable`: every distinct layer on a grid of channels, and whole networks, all in the same rounds."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces.layers import LayerInfo
from ...spaces.plan import LayerPlan, Pruning, Quantization, TrialPlan
from ...studies.seeds import Seed
from ..attach import attach
from ..bake import bake
from ..candidate import Candidate
from .cost_grid import boundary_line, channel_counts, fit_line
from .cost_table import Calibration, CostGrid, CostTable
from .single_layer import BITS, Geometry, geometry, pointwise_chain, single_layer
from .timing_many import common_figures, ready, time_together

if TYPE_CHECKING:
    from .base import Artefact, Target

__all__ = ["FRACTIONS", "kept_channels", "measure_cost_table", "uniform_plan"]

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
WIDTHS = (1.0, 0.75, 0.5, 0.25)
ROUND_TO = 8
LEAST = 0.02
"""Share of a layer's own time that is left to it at least when what surrounds it is taken off."""


def measure_cost_table(
    model: nn.Module,
    layers: Sequence[LayerInfo],
    example: Tensor,
    target: Target,
    *,
    seed: Seed,
    integer: bool,
    fractions: Sequence[float] = FRACTIONS,
    widths: Sequence[float] = WIDTHS,
    seconds: float = 20.0,
) -> CostTable:
    """Time the layers of `model`, and the model at a few widths, on `target`.

    Args:
        model: Dense, in eval mode, on the CPU; left as it is.
        layers: What `inspect_layers` found in it.
        example: (1, C, H, W), one input.
        target: Where to measure.
        seed: Draws weights and images and shuffles rounds.
        integer: Weights and activations of 8 bits, or float.
        fractions: Shares of a layer's channels at which it is measured, in (0, 1].
        widths: Shares of every prunable layer's filters at which the model is measured, 1 first.
        seconds: For all timed rounds together; a few are made in any case.

    Raises:
        TargetError: The target cannot be used here, or cannot take the model.
    """
    target.check_available()
    example = example.detach().cpu()
    jobs = _Jobs(target, integer, seed)
    calls = _calls(model, layers, example)
    names = _distinct_names([one for found in calls.values() for one in found])
    with tempfile.TemporaryDirectory(prefix="forgefront-") as folder:
        jobs.folder = Path(folder)
        networks = [_network(model, layers, example, width, integer, seed) for width in widths]
        for width, network in zip(widths, networks, strict=True):
            jobs.add(("network", width), network, example)
        for one in names:
            for inputs, outputs in _points(one, fractions):
                jobs.add((one, inputs, outputs), *single_layer(one, inputs, outputs, integer=integer, seed=seed))
        for channels, size in _boundaries(names, fractions):
            for length in (1, 2):
                chain = pointwise_chain(channels, size, length, integer=integer, seed=seed)
                jobs.add(("chain", channels, size, length), *chain)
        figures, rounds = jobs.time(seconds)
    grids = _grids(names, fractions, figures)
    table = CostTable(
        target=target.name,
        integer=integer,
        layers={layer: tuple(names[one] for one in found) for layer, found in calls.items()},
        grids=grids,
        calibration=Calibration(1.0, 0.0, (), (), 0.0, 0.0),
        details={"rounds": rounds, "threads": getattr(target, "threads", None)},
    )
    predicted = [table.total(kept_channels(network.model, layers)) for network in networks]
    return _calibrated(table, widths, predicted, [figures["network", width] for width in widths])


def kept_channels(model: nn.Module, layers: Sequence[LayerInfo]) -> dict[str, tuple[float, float]]:
    """(Inputs, outputs) that each layer of `model`, with channels removed or not, has."""
    found = {}
    for layer in layers:
        one = geometry(model.get_submodule(layer.name), ())
        found[layer.name] = (float(one.in_channels), float(one.out_channels))
    return found


def uniform_plan(layers: Sequence[LayerInfo], width: float, *, integer: bool) -> TrialPlan:
    """A share `width` of the filters of every layer that can lose some; 8 bits, or float."""
    bits = Quantization("aware", BITS, BITS) if integer else None
    plans = {}
    for layer in layers:
        pruned = layer.prunable_filters and width < 1.0
        plans[layer.name] = LayerPlan(Pruning(1.0 - width, "filter") if pruned else None, None, bits)
    return TrialPlan(plans)


def _network(
    model: nn.Module, layers: Sequence[LayerInfo], example: Tensor, width: float, integer: bool, seed: Seed
) -> Candidate:
    def build() -> nn.Module:
        return copy.deepcopy(model).eval()

    plan = uniform_plan(layers, width, integer=integer)
    attached = attach(build(), plan, layers, example, seed=seed.child("network"), round_to=ROUND_TO)
    attached.finalize([torch.rand(8, *example.shape[1:], generator=seed.child("calibration").torch())])
    return bake(attached, build, layers, example)


@dataclass
class _Jobs:
    """Networks to time, by what they stand for."""

    target: Target
    integer: bool
    seed: Seed
    folder: Path = Path()
    artefacts: dict[Any, Artefact] = field(default_factory=dict)

    def add(self, key: Any, candidate: Candidate, example: Tensor) -> None:
        place = self.folder / str(len(self.artefacts))
        self.artefacts[key] = self.target.export(candidate, place, example)

    def time(self, seconds: float) -> tuple[dict[Any, float], int]:
        """Milliseconds by key, and the number of rounds."""
        with ready(self.target, list(self.artefacts.values()), seed=self.seed.child("images")) as models:
            samples = time_together(models, seed=self.seed.child("order"), seconds=seconds)
        for artefact in self.artefacts.values():
            self.target.release(artefact)
        return dict(zip(self.artefacts, (common_figures(samples) * 1e3).tolist(), strict=True)), len(samples)


def _calls(model: nn.Module, layers: Sequence[LayerInfo], example: Tensor) -> dict[str, list[Geometry]]:
    """The geometry of each call of each layer."""
    calls: dict[str, list[Geometry]] = {layer.name: [] for layer in layers}
    names = {model.get_submodule(name): name for name in calls}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[names[module]].append(geometry(module, tuple(inputs[0].shape)))

    hooks = [module.register_forward_hook(record) for module in names]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _distinct_names(found: Sequence[Geometry]) -> dict[Geometry, str]:
    return {one: f"{one.kind} {number}" for number, one in enumerate(dict.fromkeys(found), 1)}


def _axes(one: Geometry, fractions: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Inputs and outputs to measure; an axis of one point is one that nothing is removed along."""
    inputs, outputs = channel_counts(one.in_channels, fractions), channel_counts(one.out_channels, fractions)
    if one.kind == "conv":
        return inputs, outputs
    if one.kind == "linear":
        return inputs, (one.out_channels,)
    return (one.in_channels,), (outputs if one.kind == "depthwise" else (one.out_channels,))


def _points(one: Geometry, fractions: Sequence[float]) -> list[tuple[int, int]]:
    inputs, outputs = _axes(one, fractions)
    return [(i, o) for i in inputs for o in outputs]


def _boundaries(names: Mapping[Geometry, str], fractions: Sequence[float]) -> list[tuple[int, tuple[int, ...]]]:
    """(Channels, size) of inputs whose conversion is measured: the widest and the narrowest of each size."""
    found: dict[tuple[int, ...], set[int]] = {}
    for one in names:
        if one.size:
            counts = channel_counts(one.in_channels, fractions)
            found.setdefault(one.size, set()).update((counts[0], counts[-1]))
    return [(count, size) for size, counts in found.items() for count in sorted({min(counts), max(counts)})]


def _grids(
    names: Mapping[Geometry, str], fractions: Sequence[float], figures: Mapping[Any, float]
) -> dict[str, CostGrid]:
    chains = {key[1:3] for key in figures if key[0] == "chain"}
    elements = np.array([count * np.prod(size) for count, size in chains])
    # a chain of one is both ends and a pointwise layer, a chain of two is both ends and two of them
    ends = np.array([figures["chain", *key, 1] - figures["chain", *key, 2] / 2.0 for key in chains])
    fixed, each = boundary_line(elements, ends)

    def alone(one: Geometry, inputs: int, outputs: int) -> float:
        measured = figures[one, inputs, outputs]
        if one.kind == "depthwise":
            inputs = outputs * one.in_channels // one.out_channels
        positions = np.prod(one.size, dtype=float) if one.size else 1.0
        left = positions / (one.stride[0] * one.stride[1])
        given = 2.0 * fixed + each * (inputs * positions + outputs * left)
        return max(measured - given, LEAST * measured)

    grids = {}
    for one, name in names.items():
        inputs, outputs = _axes(one, fractions)
        rows = tuple(tuple(float(alone(one, i, o)) for o in outputs) for i in inputs)
        grids[name] = CostGrid(inputs, outputs, rows, one.to_dict())
    return grids


def _calibrated(
    table: CostTable, widths: Sequence[float], predicted: Sequence[float], measured: Sequence[float]
) -> CostTable:
    sums, truth = np.array(predicted), np.array(measured)
    scale, overhead = fit_line(sums, truth)
    fitted = overhead + scale * sums
    spread = float(((truth - truth.mean()) ** 2).sum())
    calibration = Calibration(
        scale=scale,
        overhead_ms=overhead,
        points=tuple((float(a), float(b)) for a, b in zip(fitted, truth, strict=True)),
        widths=tuple(float(width) for width in widths),
        r_squared=1.0 - float(((truth - fitted) ** 2).sum()) / spread if spread > 0.0 else 0.0,
        max_relative_error=float(np.abs(fitted / truth - 1.0).max()),
    )
    return replace(table, calibration=calibration)
