"""A plainly trained ResNet-20 on all 75 settings of corrupted CIFAR-10, beside a published network of its kind.

Prints the error at every severity, the order of the corruptions by difficulty beside that of RobustBench's plainly
trained WRN-28-10, and how long corrupting and predicting took.

    python tests/benchmarks/cifar10_c.py --data DIR --weights resnet20_cifar10.safetensors [--images 10000] [--device cuda]
"""

from __future__ import annotations

import argparse
import time

import torch
from scipy.stats import spearmanr

from forgefront.objectives.base import judge
from forgefront.objectives.corrupted_sets import corrupted, corruption_function
from forgefront.studies.load import load_study
from forgefront.studies.registry import CORRUPTIONS
from forgefront.studies.seeds import Seed
from forgefront.trainers.tasks.base import EvaluationSet
from forgefront.trainers.tasks.classification import ClassificationTask

# RobustBench's "Standard" WRN-28-10: error in per cent, mean over severities
WRN = {
    "gaussian_noise": 53.0,
    "shot_noise": 41.2,
    "impulse_noise": 44.7,
    "defocus_blur": 18.5,
    "glass_blur": 49.0,
    "motion_blur": 22.3,
    "zoom_blur": 24.4,
    "snow": 18.1,
    "frost": 25.0,
    "fog": 11.2,
    "brightness": 6.7,
    "contrast": 17.4,
    "elastic_transform": 16.2,
    "pixelate": 28.0,
    "jpeg_compression": 22.4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="models/resnet20_cifar10.safetensors")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, help="of the network: 5,000 on a GPU, 500 on a processor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    batch_size = args.batch_size or (5000 if device.type == "cuda" else 500)
    # every official test image is in the test split; nothing is trained
    own = ['task.data.validation={ from = "train", count = 500 }', 'task.model.trained_on="other"']
    overrides = [*own, f"task.data.root={args.data}", f"task.model.weights={args.weights}"]
    task = ClassificationTask(load_study("cifar10-resnet20-naturalistic", overrides=overrides), device)
    model = task.starting_model(Seed(0)).eval()
    plain = task.evaluation("test", args.images)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def error(images: torch.Tensor) -> float:
        found = judge(model, task, EvaluationSet(images, plain.targets, plain.indices), batch_size)
        return 1.0 - float(found.correct.float().mean())

    print(f"{len(plain):,} images, clean error {100 * error(plain.images):.2f} %, {device}, {args.threads} threads")
    corrupting = predicting = 0.0
    means: dict[str, float] = {}
    print(f"{'error in %':18s} {'1':>6s} {'2':>6s} {'3':>6s} {'4':>6s} {'5':>6s} {'mean':>7s} {'WRN-28-10':>10s}")
    for group, members in CORRUPTIONS.items():
        for name in members:
            errors = []
            for severity in range(1, 6):
                started = now()
                function = corruption_function(name)
                images = torch.cat(list(corrupted(plain, name, severity, function=function, study_seed=0)))
                made = now()
                errors.append(100.0 * error(images))
                predicting += now() - made
                corrupting += made - started
            means[name] = sum(errors) / 5
            row = " ".join(f"{value:6.2f}" for value in errors)
            print(f"{name:18s} {row} {means[name]:7.2f} {WRN[name]:10.1f}", flush=True)
        own_mean, theirs = (sum(found[name] for name in members) / len(members) for found in (means, WRN))
        print(f"{'  ' + group:18s} {'':34s} {own_mean:7.2f} {theirs:10.1f}")
    print(f"{'mean error':18s} {'':34s} {sum(means.values()) / 15:7.2f} {sum(WRN.values()) / 15:10.2f}")
    for title, found in (("this network", means), ("WRN-28-10", WRN)):
        print(f"hardest first, {title}: {', '.join(sorted(found, key=lambda name: -found[name]))}")
    correlation = spearmanr([means[name] for name in means], [WRN[name] for name in means])
    print(f"Spearman's rank correlation of the two {correlation.statistic:.3f}")
    print(f"corrupting {corrupting:.1f} s, predicting {predicting:.1f} s, together {corrupting + predicting:.1f} s")


if __name__ == "__main__":
    main()
