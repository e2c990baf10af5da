"""Seconds for 10,000 small images at all 75 settings: corrupting them, and ResNet-20 judging them, on one device.

    python tests/benchmarks/corruptions_gpu.py --data DIR --weights resnet20_cifar10.safetensors
    python tests/benchmarks/corruptions_gpu.py --device cpu --images 200

Images are made on the device and judged there; nothing comes back but one count of errors a setting. Without `--data`
(CIFAR-10 in one of its official layouts) crops of two photographs stand in, without `--weights` a random network: the
times are the same. One pass at one severity beforehand makes the constants and warms the device up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import CORRUPTIONS, resolve
from forgefront.trainers.data.cifar import cifar10
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.weights import load_weights

FIFTEEN = [name for members in CORRUPTIONS.values() for name in members]
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def test_images(root: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """(count, 3, 32, 32) uint8 and (count,) int64 labels."""
    if root is not None:
        data = cifar10(root=str(root))
        images, labels = torch.as_tensor(data.test_images), torch.as_tensor(data.test_labels).long()
        return images[:count], labels[:count]
    generator = np.random.default_rng(0)
    photographs = np.stack(load_sample_images().images)
    rows, columns = generator.integers(0, 427 - 32, count), generator.integers(0, 640 - 32, count)
    crops = [photographs[i % 2, r : r + 32, c : c + 32] for i, (r, c) in enumerate(zip(rows, columns, strict=True))]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous(), torch.zeros(count, dtype=torch.int64)


class Clock:
    """Seconds by what they were spent on, waiting for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def run(self, part: str, work: Callable[[], Tensor]) -> Tensor:
        start = self._now()
        result = work()
        self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - start
        return result

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def corrupted(name: str, severity: int, images: Tensor, batch: int) -> Tensor:
    """uint8 (N, 3, 32, 32): all images at one setting, in pieces."""
    corruption = resolve("corruption", name)
    indices = torch.arange(len(images), device=images.device)
    parts = []
    for part, index in zip(images.split(batch), indices.split(batch), strict=True):
        made = corruption(part.float().div_(255.0), severity, Draws(0, index, f"{name}/{severity}"))
        parts.append(made.mul_(255.0).round_().to(torch.uint8))
    return torch.cat(parts)


def errors(model: nn.Module, images: Tensor, labels: Tensor, batch: int, half: bool) -> Tensor:
    """How many images the network gets wrong, on the device."""
    mean, deviation = (images.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (MEAN, DEVIATION))
    wrong = torch.zeros((), dtype=torch.int64, device=images.device)
    with torch.autocast(images.device.type, torch.float16, enabled=half):
        for part, label in zip(images.split(batch), labels.split(batch), strict=True):
            inputs = ((part.float() / 255.0 - mean) / deviation).contiguous(memory_format=torch.channels_last)
            wrong += (model(inputs).argmax(1) != label).sum()
    return wrong


def main() -> None:
    """Print the seconds of each corruption over five severities, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, help="images a piece; 10,000 on a GPU, 500 on a processor")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--weights", type=Path, help="of ResNet-20, safetensors")
    options = parser.parse_args()
    device = torch.device(options.device)
    batch = options.batch or (10_000 if device.type == "cuda" else 500)
    images, labels = (part.to(device) for part in test_images(options.data, options.images))
    model = resnet20(10)
    if options.weights:
        load_weights(model, options.weights)
    model = model.to(device, memory_format=torch.channels_last).eval()
    clock, half = Clock(device), device.type == "cuda"
    found: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for name in FIFTEEN:
            errors(model, corrupted(name, 3, images[:batch], batch), labels[:batch], batch, half)
        start = clock._now()
        for name in FIFTEEN:
            before = dict(clock.seconds)
            for severity in range(1, 6):
                made = clock.run("corrupting", lambda: corrupted(name, severity, images, batch))  # noqa: B023
                wrong = clock.run("model", lambda: errors(model, made, labels, batch, half))  # noqa: B023
                found.setdefault(name, []).append(wrong)
            spent = {part: clock.seconds[part] - before.get(part, 0.0) for part in clock.seconds}
            print(f"{name:18s}" + "".join(f"  {part} {seconds:8.3f} s" for part, seconds in spent.items()), flush=True)
        total = clock._now() - start
    print(f"{len(images)} images, 75 settings, {device} ({torch.cuda.get_device_name() if half else 'one process'})")
    print(f"corrupting {clock.seconds['corrupting']:.2f} s, model {clock.seconds['model']:.2f} s, total {total:.2f} s")
    if options.data and options.weights:
        rates = [float(torch.stack(wrong).double().mean()) / len(images) for wrong in found.values()]
        print(f"mean error {100.0 * sum(rates) / len(rates):.2f} %")


if __name__ == "__main__":
    main()
