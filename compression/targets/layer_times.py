"""How long each layer of an exported model takes, from ONNX Runtime's profiler.

Nodes are written with their layer's name. The runtime keeps it where it makes an integer node of several, while a float
convolution in its blocked layout is named after the tensor that it gives; where such a convolution takes the sum behind
it along, that tensor is the sum's, and of the layers that are added the one not yet seen was fused.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .base import Artefact
from .onnxruntime_cpu import session_options

__all__ = ["layer_times"]

WARM_UP_RUNS = 5
LEAST_RUNS, MOST_RUNS = 5, 200
EVENT_END = "_kernel_time"
BLOCKED_END = "_nchwc"


def layer_times(model: Artefact | Path, *, threads: int = 1, seconds: float = 1.0) -> dict[str, float]:
    """Seconds that each layer takes in one inference of one image, with its norm, activation and rounding.

    What belongs to no layer (sums, pools, changes of layout) stands under ``""``. Each kernel counts with its median
    over all runs; timing it adds about a microsecond, so the sum is a little more than the whole without a profile.

    Args:
        model: An artefact of ``onnxruntime-cpu``, or its file.
        threads: CPU threads.
        seconds: Measure for about so long, in 5 to 200 runs.

    Returns:
        Layer's name → seconds, in the model's order, ``""`` last.
    """
    import onnx

    path = model.path if isinstance(model, Artefact) else model
    graph = onnx.load(path).graph
    owners = _Owners(graph.node)
    shape = [dimension.dim_value or 1 for dimension in graph.input[0].type.tensor_type.shape.dim]
    durations: defaultdict[str, list[float]] = defaultdict(list)
    for event in _profile(path, np.zeros(shape, np.float32), threads=threads, seconds=seconds):
        if event.get("cat") == "Node" and str(event["name"]).endswith(EVENT_END):
            durations[str(event["name"]).removesuffix(EVENT_END)].append(event["dur"] * 1e-6)
    times = dict.fromkeys([*owners.layers, ""], 0.0)
    for kernel, layer in owners.of(durations).items():
        times[layer] += statistics.median(durations[kernel][WARM_UP_RUNS:])
    return times


def _profile(path: Path, images: np.ndarray, *, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Every event of the runtime's profile."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads=threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: images}
        for _ in range(WARM_UP_RUNS):
            session.run(None, feeds)
        end = time.perf_counter() + seconds
        for run in range(MOST_RUNS):
            if run >= LEAST_RUNS and time.perf_counter() >= end:
                break
            session.run(None, feeds)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return events


class _Owners:
    """Which layer a kernel works for.

    Args:
        nodes: Of the exported model, in order.
    """

    def __init__(self, nodes: Iterable[Any]) -> None:
        self.layers: list[str] = []
        self._layer_of: dict[str, str] = {}
        self._inputs: dict[str, list[str]] = {}
        for node in nodes:
            layer, separator, _ = node.name.rpartition("/")
            if separator and layer not in self.layers:
                self.layers.append(layer)
            for output in node.output:
                self._layer_of[output], self._inputs[output] = layer, list(node.input)

    def of(self, kernels: Iterable[str]) -> Mapping[str, str]:
        """The layer of each kernel name, ``""`` for none."""
        found = {kernel: self._stated(kernel) for kernel in kernels}
        seen = set(found.values())
        for kernel, layer in found.items():
            if layer or not kernel.endswith(BLOCKED_END):
                continue
            added = [name for name in self._behind(kernel.removesuffix(BLOCKED_END)) if name not in seen]
            if added:
                found[kernel] = added[0]
                seen.add(added[0])
        return found

    def _stated(self, kernel: str) -> str:
        layer, separator, _ = kernel.rpartition("/")
        if separator:
            layer = layer.removeprefix("fused ")
            return layer if layer in self.layers else ""
        return self._layer_of.get(kernel.removesuffix(BLOCKED_END), "")

    def _behind(self, tensor: str) -> list[str]:
        """The nearest layers upstream of a tensor that no layer gives."""
        if tensor not in self._inputs:
            return []
        if self._layer_of[tensor]:
            return [self._layer_of[tensor]]
        return [name for source in self._inputs[tensor] for name in self._behind(source)]
