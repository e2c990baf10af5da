"""What each kind of compression does to latency and size: ONNX Runtime against its own dense float model.

Zeros and clusters make files smaller, not faster; integers and fewer channels make models faster, and multiply. Weights
are random, since only shapes and formats matter here. All variants of a model are timed in shuffled rounds together with
the dense model, so that they share the machine's load and clock; a ratio is a round's dense time ÷ the variant's.

    python tests/benchmarks/inference_speed.py [--models resnet18-224 ...] [--rounds 30] [--threads 1] [--multiple 8]

Goals on ResNet-18 at 224² with one thread and AVX512-VNNI: int8 at least 2.4, half the channels 2.8, both 5.5.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.targets.base import Artefact
from forgefront.compression.targets.exclusive import alone
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU, open_session
from forgefront.compression.targets.timing import Timed, wall_clock
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18-224": (lambda: torchvision.models.resnet18(), 224),
    "resnet20-32": (lambda: resnet20(10), 32),
    "mobilenet_v2-224": (lambda: torchvision.models.mobilenet_v2(), 224),
    "mobilenet_v2-32": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 32),
}
INT8 = Quantization("post", 8, 8)
VARIANTS: dict[str, LayerPlan] = {
    "dense float": LayerPlan(),
    "80 % zeros": LayerPlan(Pruning(0.8)),
    "16 clusters": LayerPlan(clustering=Clustering(16, lloyd_iterations=0)),
    "int8": LayerPlan(quantization=INT8),
    "half the channels": LayerPlan(Pruning(0.5, "filter")),
    "half the channels, int8": LayerPlan(Pruning(0.5, "filter"), quantization=INT8),
}
SECONDS = 0.03


def planned(variant: LayerPlan, layers: list[LayerInfo]) -> TrialPlan:
    """The same for every layer, except that filters are pruned only where they can be removed."""
    by_filter = variant.pruning is not None and variant.pruning.structure == "filter"
    plans = {}
    for layer in layers:
        pruned = layer.prunable_filters or not by_filter
        plans[layer.name] = LayerPlan(variant.pruning if pruned else None, variant.clustering, variant.quantization)
    return TrialPlan(plans)


def export(
    target: OnnxRuntimeCPU, build: Callable[[], nn.Module], size: int, name: str, folder: Path, multiple: int
) -> Artefact:
    """The variant `name`, without training, its activation ranges from seeded random images."""

    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return build()

    layers = inspect_layers(seeded(), (3, size, size))
    images = torch.rand(9, 3, size, size, generator=Seed(0).child("images").torch())
    example, calibration = images[:1], images[1:]
    plan = planned(VARIANTS[name], layers)
    attached = attach(seeded(), plan, layers, example, seed=Seed(0), round_to=multiple)
    attached.finalize([calibration])
    candidate = bake(attached, seeded, layers, example)
    artefact = target.export(candidate, folder / name, example)
    found = target.verify(candidate, artefact, calibration.numpy(), predictions=lambda outputs: outputs.argmax(axis=1))
    removed = sum(len(indices) for _, indices in candidate.removed)
    print(f"  {name}: parity {found.snr_db:.0f} dB, {removed} channels removed", flush=True)
    return artefact


def timed(artefact: Artefact, threads: int) -> Timed:
    session = open_session(artefact.path, threads=threads)
    binding = session.io_binding()
    binding.bind_cpu_input("images", np.random.default_rng(0).random((1, *artefact.details["input_shape"]), np.float32))
    binding.bind_output(session.get_outputs()[0].name)
    return wall_clock(lambda: session.run_with_iobinding(binding))


def measure(artefacts: dict[str, Artefact], *, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of one run by variant and round; every round times all of them, in an order of its own."""
    models = {name: timed(artefact, threads) for name, artefact in artefacts.items()}
    repeats = {}
    for name, model in models.items():
        model(3)
        repeats[name] = max(1, round(SECONDS / model(5)))
    samples: dict[str, list[float]] = {name: [] for name in models}
    generator, names = Seed(0).child("order").numpy(), list(models)
    with alone("cpu"):
        for _ in range(rounds):
            for index in generator.permutation(len(names)):
                name = names[index]
                samples[name].append(models[name](repeats[name]))
    return samples


def table(artefacts: dict[str, Artefact], samples: dict[str, list[float]]) -> None:
    dense = np.array(samples["dense float"])
    print("  variant                      ms   ratio [quartiles]     file MB   zip MB")
    for name, artefact in artefacts.items():
        low, middle, high = np.percentile(dense / np.array(samples[name]), [25, 50, 75])
        milliseconds = statistics.median(samples[name]) * 1e3
        sizes = f"{artefact.bytes / 1e6:9.3f} {artefact.zipped_bytes / 1e6:8.3f}"
        print(f"  {name:24} {milliseconds:7.3f}  {middle:5.2f} [{low:.2f}, {high:.2f}]  {sizes}", flush=True)


def processor() -> str:
    """Name and vector extensions of the processor, as far as Linux tells."""
    source = Path("/proc/cpuinfo")
    lines = (
        dict(line.split(":", 1) for line in source.read_text().splitlines() if ":" in line) if source.exists() else {}
    )
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = [flag for flag in facts.get("flags", "").split() if flag.startswith(("avx", "amx"))]
    return f"{facts.get('model name', 'unknown processor')}: {' '.join(sorted(flags))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--multiple", type=int, default=8, help="channels are kept in multiples of this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(processor())
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    # random weights give nearly equal logits, whose order says nothing; the signal-to-noise ratio does
    target = OnnxRuntimeCPU(threads=arguments.threads, minimum_agreement=0.0)
    for model in arguments.models:
        build, size = MODELS[model]
        print(f"\n{model}")
        with tempfile.TemporaryDirectory() as folder:
            artefacts = {name: export(target, build, size, name, Path(folder), arguments.multiple) for name in VARIANTS}
            table(artefacts, measure(artefacts, rounds=arguments.rounds, threads=arguments.threads))


if __name__ == "__main__":
    main()
