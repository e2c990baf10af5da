"""What ResNet-20 with 4 bits, 16 clusters and 80 % zeros in every layer takes, stored in several ways.

The table counts the layers' weights; only our row holds its scales too. The whole file adds names, biases, batch norms
and activation ranges.

    python tests/benchmarks/packing.py [--weights resnet20_cifar10.safetensors]
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate, load_candidate, save_candidate
from forgefront.compression.packing import packed_sizes, read_packed
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EVERYWHERE = LayerPlan(Pruning(0.8), Clustering(16), Quantization("post", 4, 8))


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return resnet20(10)


def starting_model(weights: Path | None) -> torch.nn.Module:
    """Trained, or random with batch norms of random values, which no archive makes smaller."""
    network = model()
    if weights is not None:
        network.load_state_dict(load_file(weights))
        return network
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return network


def compressed(network: torch.nn.Module, plan: LayerPlan | None) -> Candidate:
    layers = inspect_layers(network, (3, 32, 32))
    plans = {} if plan is None else {layer.name: plan for layer in layers}
    attached = attach(network, TrialPlan(plans), layers, EXAMPLE, seed=Seed(0))
    attached.finalize([torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))])
    return bake(attached, model, layers, EXAMPLE)


def huffman_lengths(counts: Sequence[int]) -> list[int]:
    """Bits of each symbol's Huffman code (Huffman 1952); one bit for a lone symbol."""
    lengths = [1 if len(counts) == 1 else 0] * len(counts)
    trees = [(count, symbol, [symbol]) for symbol, count in enumerate(counts)]
    heapq.heapify(trees)
    while len(trees) > 1:
        (first, order, left), (second, _, right) = heapq.heappop(trees), heapq.heappop(trees)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(trees, (first + second, order, left + right))
    return lengths


def deflated(values: np.ndarray) -> int:
    return len(zlib.compress(values.tobytes(), 9))


def nibbles(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte."""
    even = np.pad(codes.astype(np.uint8) & 15, (0, codes.size % 2))
    return even[::2] << 4 | even[1::2]


def forms(candidate: Candidate) -> dict[str, float]:
    """Bytes of all layers' weights, by the way of storing them."""
    all_codes = [layer.codes.flatten().numpy() for layer in candidate.codes.values()]
    histograms = [np.unique(codes, return_counts=True)[1].tolist() for codes in all_codes]
    lengths = [np.dot(huffman_lengths(counts), counts) for counts in histograms]
    sizes = packed_sizes(candidate)
    return {
        "float": sum(4 * codes.size for codes in all_codes),
        "float, DEFLATE": sum(deflated(layer.weight().numpy()) for layer in candidate.codes.values()),
        "int8, DEFLATE": sum(deflated(codes) for codes in all_codes),
        "4 bits": sum(-(-codes.size // 2) for codes in all_codes),
        "4 bits, DEFLATE": sum(deflated(nibbles(codes)) for codes in all_codes),
        "bitmap and 4 bits for what is not zero": sum(
            -(-codes.size // 8) + -(-int(np.count_nonzero(codes)) // 2) for codes in all_codes
        ),
        # a table of lengths: four bits for each of the 15 codes
        "Huffman": sum(-(-int(bits) // 8) + 8 for bits in lengths),
        "ours: range coder, its tables and scales": sum(layer.packed_bytes for layer in sizes.layers.values()),
        "Shannon bound of the codes": sizes.shannon_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a ResNet-20 checkpoint in safetensors; random weights without")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    candidate = compressed(starting_model(arguments.weights), EVERYWHERE)
    control = packed_sizes(compressed(starting_model(arguments.weights), None))
    sizes = packed_sizes(candidate)
    codes = torch.cat([layer.codes.flatten() for layer in candidate.codes.values()])
    print(f"{codes.numel():,} weights, {float((codes == 0).float().mean()):.1%} zeros, the layers' weights alone:")
    for name, count in forms(candidate).items():
        bits, over = 8 * count / codes.numel(), count / sizes.shannon_bytes
        print(f"  {name:40} {count:11,.0f} bytes  {bits:6.3f} bits a weight  {over:5.2f} × the bound")
    bound = sizes.shannon_bytes + sizes.raw_bytes
    print(
        f"whole file {sizes.total_bytes:,} bytes = {sizes.total_bytes / bound:.3f} × (bound {sizes.shannon_bytes:,.0f} + "
        f"scales, biases, batch norms and ranges {sizes.raw_bytes:,})"
    )
    print(f"dense control {control.total_bytes:,} bytes: {control.total_bytes / sizes.total_bytes:.1f} times as large")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_candidate(candidate, folder)
        reading, loading = [], []
        for _ in range(5):
            start = time.perf_counter()
            read_packed(folder / "packed.safetensors")
            middle = time.perf_counter()
            load_candidate(folder, model, EXAMPLE)
            reading.append(middle - start)
            loading.append(time.perf_counter() - middle)
    print(
        f"unpacking {sorted(reading)[2]:.3f} s, whole candidate with both models {sorted(loading)[2]:.3f} s (medians)"
    )


if __name__ == "__main__":
    main()
