"""Milliseconds an image for each corruption, batched here and one by one in imagecorruptions 1.1.2, side by side.

    python tests/benchmarks/corruptions.py [--sizes 512x512 32x32] [--rounds 3] [--venv DIR] [--python python3.10]
    python tests/benchmarks/corruptions.py --alone [--device cuda]

imagecorruptions needs a NumPy, scikit-image and setuptools of its time, so it runs in an environment of its own, made by
the first call and kept. Both sides use one thread and take turns within each setting, so that what else a machine does
disturbs both alike; the fastest round counts. What fails over there is left out of both sums. Its constants are
ImageNet-C's at every size, so at 32x32 the work differs a little and only speed is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from forgefront.objectives.corruptions.randomness import Draws
from forgefront.studies.registry import CORRUPTIONS, names, resolve

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "test_000.webp"
SEVERITIES = range(1, 6)
FIFTEEN = [name for members in CORRUPTIONS.values() for name in members]
# images in a batch hold about this many pixels
PIXELS = 512_000
# one round is enough of what takes this long
SLOW_SECONDS = 1.0

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PINS = ["numpy<2", "scipy<1.16", "setuptools<81", "pillow", "opencv-python-headless<4.12"]
# 0.19 still knows `multichannel`, without which glass_blur and gaussian_blur fail; it has wheels up to Python 3.10
SCIKIT_IMAGE = ["scikit-image<0.20", "scikit-image<0.23"]

WORKER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import cv2, numpy as np
import imagecorruptions
cv2.setNumThreads(1)
# once a large block was freed, the C library keeps memory instead of asking the system for each array
for _ in range(2):
    np.ones(31 * 2**17)
for line in sys.stdin:
    order = json.loads(line)
    image = np.load(order["file"])
    start = time.perf_counter()
    try:
        for _ in range(order["repeats"]):
            imagecorruptions.corrupt(image, corruption_name=order["name"], severity=order["severity"])
        answer = {"seconds": (time.perf_counter() - start) / order["repeats"]}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:90]}
    print(json.dumps(answer), flush=True)
"""


def photographs(count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width, 3) uint8: CIFAR-10 where the size is its own and it is at hand, else photographs."""
    if (height, width) == (32, 32) and CIFAR.exists():
        strip = np.asarray(Image.open(CIFAR).convert("RGB")).reshape(500, 32, 32, 3)
        return strip[np.arange(count) % len(strip)]
    resized = [np.asarray(Image.fromarray(p).resize((width, height))) for p in load_sample_images().images]
    return np.stack([resized[i % 2] for i in range(count)])


def environment(folder: Path, python: str | None) -> Path:
    """The interpreter of the environment with imagecorruptions, made where it is missing."""
    interpreter = folder / "bin" / "python"
    if (folder / "ready").exists():
        return interpreter
    print(f"making an environment for imagecorruptions in {folder}", file=sys.stderr)
    subprocess.run([python or _older_python(), "-m", "venv", "--clear", folder], check=True)
    install = [interpreter, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    for attempt in SCIKIT_IMAGE:
        if subprocess.run([*install, *PINS, attempt], check=False).returncode == 0:
            break
    # by itself it asks for an opencv that needs a display's libraries
    subprocess.run([*install, "--no-deps", "imagecorruptions==1.1.2"], check=True)
    (folder / "ready").touch()
    return interpreter


def _older_python() -> str:
    """A Python with which all of imagecorruptions runs, where there is one; else this one."""
    elsewhere = sorted(Path.home().glob(".pyenv/versions/3.10*/bin/python3.10"))
    for name in ("python3.10", "python3.9", *map(str, elsewhere)):
        found = shutil.which(name)
        # a shim may be there for a version that is not
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    return sys.executable


class Theirs:
    """imagecorruptions in a process of its own, asked for one timing after another."""

    def __init__(self, interpreter: Path, image: np.ndarray, folder: Path) -> None:
        self.file = folder / "image.npy"
        np.save(self.file, image)
        self.process = subprocess.Popen(
            [interpreter, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
        )
        self.ask("contrast", 1, 2)

    def ask(self, name: str, severity: int, repeats: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"file": str(self.file), "name": name, "severity": severity, "repeats": repeats}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def ours(name: str, severity: int, images: torch.Tensor) -> float:
    """Seconds an image."""
    corruption, indices = resolve("corruption", name), torch.arange(len(images), device=images.device)
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    corruption(images, severity, Draws(0, indices, f"{name}/{severity}"))
    if images.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(images)


def compare(height: int, width: int, rounds: int, interpreter: Path | None, device: str) -> None:
    """Print a line a corruption and the sums."""
    count = max(PIXELS // (height * width), 1)
    pixels = photographs(count, height, width)
    images = (torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).contiguous().float() / 255.0).to(device)
    for _ in range(2):
        torch.ones(31 * 2**18)
    print(f"\n{width}x{height}, batches of {count}, ms an image, mean of severities 1–5")
    print(f"{'':20s}{'forgefront':>12s}{'imagecorruptions':>18s}{'ratio':>8s}")
    sums: dict[str, list[tuple[float, float]]] = {"fifteen": [], "four extra": []}
    alone: dict[str, list[float]] = {"fifteen": [], "four extra": []}
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(interpreter, pixels[0], Path(folder)) if interpreter else None
        for name in names("corruption"):
            group = "fifteen" if name in FIFTEEN else "four extra"
            here, there, error = settings(name, images, theirs, rounds)
            alone[group].append(here)
            line = f"{name:20s}{1e3 * here:12.3f}"
            if there is not None:
                sums[group].append((here, there))
                line += f"{1e3 * there:18.3f}{there / here:8.1f}"
            print(line + (f"  fails there, left out: {error}" if error else ""), flush=True)
        if theirs:
            theirs.close()
    for group, pairs in sums.items():
        total = f"{group + f' ({len(alone[group])})':20s}{1e3 * sum(alone[group]):12.3f}"
        if pairs:
            here, there = (sum(side) for side in zip(*pairs, strict=True))
            total = f"{group + f' ({len(pairs)})':20s}{1e3 * here:12.3f}{1e3 * there:18.3f}{there / here:8.1f}"
        print(total)
    if len(sums["fifteen"]) == len(FIFTEEN):
        # over there a loop in Python that outweighs all the rest
        kept = [pair for name, pair in zip(FIFTEEN, sums["fifteen"], strict=True) if name != "glass_blur"]
        here, there = (sum(side) for side in zip(*kept, strict=True))
        print(f"{'without glass_blur':20s}{1e3 * here:12.3f}{1e3 * there:18.3f}{there / here:8.1f}")


def settings(
    name: str, images: torch.Tensor, theirs: Theirs | None, rounds: int
) -> tuple[float, float | None, str | None]:
    """Seconds an image here and there, each the mean over severities of the fastest round, and what failed there."""
    here, there = [], []
    for severity in SEVERITIES:
        mine, other = [], []
        # the first call copies constants to the device
        ours(name, severity, images[:1])
        repeats = 1 if images[0].numel() > 1e5 else 5
        for _ in range(rounds):
            mine.append(ours(name, severity, images))
            if theirs and not (other and other[-1] > SLOW_SECONDS):
                answer = theirs.ask(name, severity, repeats)
                if "error" in answer:
                    return statistics.mean([*here, min(mine)]), None, answer["error"]
                other.append(answer["seconds"])
        here.append(min(mine))
        if other:
            there.append(min(other))
    return statistics.mean(here), statistics.mean(there) if there else None, None


def main() -> None:
    """Compare at each size."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forgefront" / "imagecorruptions"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["512x512", "32x32"], help="WIDTHxHEIGHT, several")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--venv", type=Path, default=default, help="environment of imagecorruptions, made if missing")
    parser.add_argument("--python", help="interpreter to make it with; Python 3.10 or older lets all 15 run there")
    parser.add_argument("--alone", action="store_true", help="time this side only")
    parser.add_argument("--device", default="cpu", help="of this side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    interpreter = None if options.alone else environment(options.venv, options.python)
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        compare(height, width, options.rounds, interpreter, options.device)


if __name__ == "__main__":
    main()
