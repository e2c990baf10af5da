"""Which corruptions pruning hurts most, against a dense control with the same training budget (CIFAR-10, ResNet-20).

Cygert & Czyżewski (2021) find that noise hurts compressed detectors most. Here the public ResNet-20 is fine-tuned while
50/80/95 % of its weights or 30/50/70 % of its inner filters are pruned; the error on each group of corruptions is
compared with the control's, image by image. ``--long-tail`` does the same on long-tailed CIFAR-10 for the class that
fares worst, with and without class weights.

    python tests/benchmarks/pruning_and_corruptions.py train --data DIR --weights FILE --out DIR [--long-tail]
    python tests/benchmarks/pruning_and_corruptions.py score --data DIR --weights FILE --out DIR [--long-tail]

Trained candidates are kept in ``--out``; a second call trains only those that are missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import save_candidate
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Recipe, TrialPlan
from forgefront.studies.load import load_study
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.tasks.classification import ClassificationTask

SETTINGS = [
    'training.regime="standard"',
    "training.augmentation_strength=0.0",
    "training.optimizer.learning_rate=0.02",
    "training.threads=1",
]
WEIGHTS = (0.5, 0.8, 0.95)
FILTERS = (0.3, 0.5, 0.7)


def plans(layers: tuple[LayerInfo, ...], long_tail: bool) -> dict[str, TrialPlan]:
    """Name to plan, the control first."""
    inner = [layer.name for layer in layers if layer.prunable_filters and layer.coupled is None]
    prunable = [layer.name for layer in layers if layer.kind != "depthwise"]

    def pruned(names: list[str], sparsity: float, structure: str, recipe: Recipe) -> TrialPlan:
        return TrialPlan({name: LayerPlan(pruning=Pruning(sparsity, structure)) for name in names}, recipe)

    if long_tail:
        found = {}
        for weighting in ("none", "inverse", "effective-number"):
            recipe = Recipe(class_weighting=weighting, class_weight_scale=0.0 if weighting == "none" else 1.0)
            found[f"dense {weighting}"] = TrialPlan({}, recipe)
            found[f"weights 95 % {weighting}"] = pruned(prunable, 0.95, "weight", recipe)
        return found
    found = {"control": TrialPlan({}, Recipe())}
    found |= {f"weights {share:.0%}": pruned(prunable, share, "weight", Recipe()) for share in WEIGHTS}
    return found | {f"filters {share:.0%}": pruned(inner, share, "filter", Recipe()) for share in FILTERS}


def make_task(args: argparse.Namespace) -> ClassificationTask:
    """CIFAR-10 with as many training images as the budget holds, or long-tailed; every test image to score on."""
    own = ["task.data.imbalance=100"] if args.long_tail else ["task.data.train_images=10000"]
    overrides = [*SETTINGS, *own, f"task.data.root={args.data}", f"task.model.weights={args.weights}"]
    study = load_study("cifar10-resnet20-naturalistic", overrides=overrides)
    training = study.training.model_copy(update={"steps": None, "epochs": args.epochs})
    return ClassificationTask(study.model_copy(update={"training": training}), torch.device(args.device))


def place(args: argparse.Namespace, name: str, seed: int) -> Path:
    return Path(args.out) / ("long-tail" if args.long_tail else "balanced") / f"{name.replace(' ', '_')}-{seed}"


def train(args: argparse.Namespace) -> None:
    """Train what is missing."""
    torch.set_num_threads(args.threads)
    task = make_task(args)
    layers = inspect_layers(task.build_model(), task.input_shape)
    section = task.study.training
    for number in range(args.first_seed, args.first_seed + args.seeds):
        for name, plan in plans(layers, args.long_tail).items():
            folder = place(args, name, number)
            if (folder / "plan.json").exists():
                continue
            started, seed = time.perf_counter(), Seed(number)
            attached = attach(
                task.starting_model(seed.child("model")),
                plan,
                layers,
                task.example,
                start=section.compression_start,
                end=section.compression_end,
                seed=seed.child("attach"),
            )
            # the same batches for every plan of a seed
            fit(task, attached, plan.recipe, section, seed=seed.child("fit"))
            folder.mkdir(parents=True, exist_ok=True)
            save_candidate(bake(attached, task.build_model, layers, task.example), folder)
            (folder / "plan.json").write_text(plan.to_json())
            print(f"trained {name} seed {number} in {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train",))
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="models/resnet20_cifar10.safetensors")
    parser.add_argument("--out", default="runs/pruning-and-corruptions")
    parser.add_argument("--long-tail", action="store_true")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
