"""Milliseconds an image for each corruption, batched, on CIFAR-10 where it is at hand, else on photograph crops.

python tests/benchmarks/corruptions.py [--images 500] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import names, resolve

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "test_000.webp"
REPEATS = 3


def real_images(count: int) -> np.ndarray:
    """(count, 32, 32, 3) uint8."""
    if CIFAR.exists():
        strip = np.asarray(Image.open(CIFAR).convert("RGB")).reshape(500, 32, 32, 3)
    else:
        photographs = load_sample_images().images
        strip = np.concatenate([p[:416, :640].reshape(13, 32, 20, 32, 3).swapaxes(1, 2) for p in photographs])
        strip = strip.reshape(-1, 32, 32, 3)
    return strip[np.arange(count) % len(strip)]


def seconds(name: str, images: torch.Tensor, severity: int) -> float:
    """The fastest of a few runs."""
    corruption, indices = resolve("corruption", name), torch.arange(len(images), device=images.device)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        corruption(images, severity, Draws(0, indices, f"{name}/{severity}"))
        if images.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Print one line a corruption and the sum."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.from_numpy(real_images(options.images)).permute(0, 3, 1, 2).contiguous().float() / 255.0
    images = images.to(options.device)
    total = 0.0
    for name in names("corruption"):
        times = [1e3 * seconds(name, images, severity) / len(images) for severity in range(1, 6)]
        total += statistics.mean(times)
        print(f"{name:18s} {statistics.mean(times):.4f}  severities 1–5: {' '.join(f'{t:.4f}' for t in times)}")
    print(f"{'all fifteen':18s} {total:.3f} ms an image at one severity")


if __name__ == "__main__":
    main()
