"""What numbers of channels cost: ResNet-20 in int8 with filters pruned, kept in multiples of 1, 2, 4 and 8.

Each candidate is timed in ONNX Runtime on one thread against the same dense float model, in shuffled rounds; weights
are random, since only shapes matter here.

    python tests/benchmarks/filter_rounding.py [--sparsities 0.1 0.35 0.5 0.7] [--multiples 1 2 4 8]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.targets.base import Artefact
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return resnet20(10)


def export(target: OnnxRuntimeCPU, folder: Path, *, sparsity: float, multiple: int, bits: int) -> Artefact:
    layers = inspect_layers(model(), (3, 32, 32))
    plans = {}
    for layer in layers:
        pruned = sparsity > 0.0 and layer.prunable_filters and layer.coupled is None
        quantization = Quantization("aware", bits, bits) if bits < 32 else None
        plans[layer.name] = LayerPlan(Pruning(sparsity, "filter") if pruned else None, None, quantization)
    attached = attach(model(), TrialPlan(plans), layers, EXAMPLE, seed=Seed(0), round_to=multiple)
    attached.finalize([torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))])
    return target.export(bake(attached, model, layers, EXAMPLE), folder, EXAMPLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.1, 0.35, 0.5, 0.7])
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    target = OnnxRuntimeCPU()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = export(target, folder / "dense", sparsity=0.0, multiple=1, bits=32)
        print("sparsity multiple  ms     speed-up over dense float [interquartile range]")
        cases = [(0.0, 1), *((s, m) for s in arguments.sparsities for m in arguments.multiples)]
        for sparsity, multiple in cases:
            artefact = export(target, folder / f"{sparsity}-{multiple}", sparsity=sparsity, multiple=multiple, bits=8)
            timed = target.time(artefact, reference, seed=Seed(0, multiple))
            low, high = timed.speedup_iqr
            row = f"{sparsity:8.2f} {multiple:8d}  {timed.latency_ms:.3f}  {timed.speedup:.2f} [{low:.2f}, {high:.2f}]"
            print(row, flush=True)


if __name__ == "__main__":
    main()
