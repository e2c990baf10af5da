"""Predicted against measured latency: a cost table of ResNet-20, and random numbers of channels that it never saw.

Each network keeps random filters in multiples of 8 in every layer that can lose some; it is timed in ONNX Runtime on one
thread, all of them in the same shuffled rounds. Beside the table stands a prediction in proportion to MACs.

    python tests/benchmarks/latency_table.py [--networks 10] [--seconds 20]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate
from forgefront.compression.targets.cost_measurement import kept_channels, measure_cost_table
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.compression.targets.timing_many import common_figures, ready, time_together
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet20(10).eval()
    for integer in (False, True):
        report(model, integer, arguments.networks, arguments.seconds)


def report(model: torch.nn.Module, integer: bool, networks: int, seconds: float) -> None:
    layers = inspect_layers(model, (3, 32, 32))
    target = OnnxRuntimeCPU()
    start = time.perf_counter()
    table = measure_cost_table(model, layers, EXAMPLE, target, seed=Seed(0), integer=integer, seconds=seconds)
    print(
        f"{'int8' if integer else 'float'}: table in {time.perf_counter() - start:.1f} s, {table.details['rounds']} rounds"
    )
    calibration = table.calibration
    print(f"  scale {calibration.scale:.3f}, overhead {calibration.overhead_ms:.4f} ms, R² {calibration.r_squared:.3f}")
    for width, (predicted, measured) in zip(calibration.widths, calibration.points, strict=True):
        print(f"  width {width:.2f}: predicted {predicted:.3f} ms, measured {measured:.3f} ms")
    candidates = [dense(model, layers, integer)]
    candidates += [random_network(model, layers, integer, Seed(1, number)) for number in range(networks)]
    measured = latencies(target, candidates, seconds)
    full = candidates[0].achieved["totals"]["macs"]
    by_table, by_macs = [], []
    whole = table.total({})
    print("  MACs      measured   table            MACs-proportional   (latencies as shares of the dense network's)")
    for candidate, milliseconds in zip(candidates[1:], measured[1:], strict=True):
        truth = milliseconds / measured[0]
        share = candidate.achieved["totals"]["macs"] / full
        predicted = table.total(kept_channels(candidate.model, layers)) / whole
        by_table.append(abs(predicted / truth - 1.0))
        by_macs.append(abs(share / truth - 1.0))
        print(
            f"  {share:8.3f}  {truth:8.3f}  {predicted:6.3f} ({by_table[-1]:5.1%})  {share:6.3f} ({by_macs[-1]:6.1%})"
        )
    print(f"  mean relative error: table {np.mean(by_table):.1%}, MACs {np.mean(by_macs):.1%}", flush=True)


def dense(model: torch.nn.Module, layers: tuple, integer: bool) -> Candidate:
    return carried_out(model, layers, {}, integer)


def random_network(model: torch.nn.Module, layers: tuple, integer: bool, seed: Seed) -> Candidate:
    generator = seed.numpy()
    leaders = {layer.coupled or layer.name for layer in layers if layer.prunable_filters}
    return carried_out(model, layers, {name: float(generator.uniform(0.0, 0.8)) for name in sorted(leaders)}, integer)


def carried_out(model: torch.nn.Module, layers: tuple, sparsity: dict[str, float], integer: bool) -> Candidate:
    bits = Quantization("aware", 8, 8) if integer else None
    plans = {}
    for layer in layers:
        share = sparsity.get(layer.coupled or layer.name, 0.0) if layer.prunable_filters else 0.0
        plans[layer.name] = LayerPlan(Pruning(share, "filter") if share else None, None, bits)
    attached = attach(copy.deepcopy(model), TrialPlan(plans), layers, EXAMPLE, seed=Seed(0), round_to=8)
    attached.finalize([torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))])
    return bake(attached, lambda: copy.deepcopy(model), layers, EXAMPLE)


def latencies(target: OnnxRuntimeCPU, candidates: list[Candidate], seconds: float) -> np.ndarray:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artefacts = [target.export(one, folder / str(i), EXAMPLE) for i, one in enumerate(candidates)]
        with ready(target, artefacts, seed=Seed(0)) as models:
            return common_figures(time_together(models, seed=Seed(0), seconds=seconds, minimum_sample=0.01)) * 1e3


if __name__ == "__main__":
    main()
