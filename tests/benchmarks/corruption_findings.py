"""What pruning, augmentation and class weights do to corruption error: trainings of one budget beside their control.

All fine-tune the public ResNet-20 on CIFAR-10 with the same batches and differ from the control in one thing:

- ``pruning``: 50/80/95 % of the weights or 30/50/70 % of the inner filters. Cygert & Czyżewski (2021) find that noise is
  what hurts compressed detectors most; is it so here?
- ``augmentation``: naturalistic augmentation at a strength, AugMix (Hendrycks et al. 2020) without and with its
  consistency loss; corruptions that the augmentation resembles are shown apart from the others.
- ``long-tail``: long-tailed training images (imbalance 100), dense and with 95 % of the weights pruned, with and without
  class weights; the class that fares worst.

    python tests/benchmarks/corruption_findings.py pruning --data DIR --weights FILE --out DIR [--seeds 2] [--images 1000]

Differences are taken image by image, on images that neither the training nor the checkpoint saw. What is trained and
scored is kept in ``--out``; a second call does only what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import load_candidate, save_candidate
from forgefront.objectives.base import judge
from forgefront.objectives.corrupted_sets import CorruptedSets
from forgefront.objectives.corruption import SEEN
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Recipe, TrialPlan
from forgefront.studies.atomic_file import published
from forgefront.studies.load import load_study
from forgefront.studies.registry import CORRUPTIONS
from forgefront.studies.seeds import Seed
from forgefront.trainers.fit import fit
from forgefront.trainers.tasks.base import EvaluationSet
from forgefront.trainers.tasks.classification import ClassificationTask

SETTINGS = [
    'training.regime="standard"',
    "training.augmentation_strength=0.0",
    "training.optimizer.learning_rate=0.02",
    "training.threads=1",
]
NAMES = [name for members in CORRUPTIONS.values() for name in members]
SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class Variant:
    """One training: its plan, and what it changes in the study file."""

    plan: TrialPlan
    settings: Sequence[str] = field(default_factory=tuple)


def variants(experiment: str, layers: tuple[LayerInfo, ...], strength: float) -> dict[str, Variant]:
    """Name to training, the control first."""
    inner = [layer.name for layer in layers if layer.prunable_filters and layer.coupled is None]
    every = [layer.name for layer in layers if layer.kind != "depthwise"]

    def pruned(names: list[str], sparsity: float, structure: str, recipe: Recipe) -> Variant:
        return Variant(TrialPlan({name: LayerPlan(pruning=Pruning(sparsity, structure)) for name in names}, recipe))

    if experiment == "long-tail":
        found = {}
        for weighting in ("none", "inverse", "effective-number"):
            recipe = Recipe(class_weighting=weighting, class_weight_scale=0.0 if weighting == "none" else 1.0)
            found[f"dense {weighting}"] = Variant(TrialPlan({}, recipe))
            found[f"weights 95 % {weighting}"] = pruned(every, 0.95, "weight", recipe)
        return found
    found = {"control": Variant(TrialPlan({}, Recipe()))}
    if experiment == "augmentation":
        natural = Recipe("naturalistic", augmentation_strength=strength)
        mixed = Recipe("naturalistic", augmentation="augmix", augmentation_strength=1.0)
        return found | {
            f"naturalistic {strength:g}": Variant(TrialPlan({}, natural)),
            "augmix": Variant(TrialPlan({}, mixed)),
            "augmix, consistency 12": Variant(TrialPlan({}, mixed), ["training.consistency=12.0"]),
        }
    found |= {f"weights {share:.0%}": pruned(every, share, "weight", Recipe()) for share in (0.5, 0.8, 0.95)}
    return found | {f"filters {share:.0%}": pruned(inner, share, "filter", Recipe()) for share in (0.3, 0.5, 0.7)}


def make_task(args: argparse.Namespace, settings: Sequence[str] = ()) -> ClassificationTask:
    """CIFAR-10 with as many training images as the budget holds, or long-tailed."""
    own = "task.data.imbalance=100" if args.experiment == "long-tail" else f"task.data.train_images={args.train_images}"
    overrides = [*SETTINGS, own, f"task.data.root={args.data}", f"task.model.weights={args.weights}", *settings]
    study = load_study("cifar10-resnet20-naturalistic", overrides=overrides)
    training = study.training.model_copy(update={"steps": None, "epochs": args.epochs})
    return ClassificationTask(study.model_copy(update={"training": training}), torch.device(args.device))


def place(args: argparse.Namespace, name: str, seed: int) -> Path:
    """The folder of a variant, apart for each budget and checkpoint."""
    budget = f"{Path(args.weights).stem}-{args.train_images}-{args.epochs}"
    safe = name.replace(" ", "_").replace(",", "")
    return Path(args.out) / args.experiment / budget / f"{safe}-{seed}"


def train(args: argparse.Namespace, name: str, variant: Variant, number: int, layers: tuple[LayerInfo, ...]) -> None:
    """Train a variant unless it is there; every variant of a seed sees the same batches."""
    folder = place(args, name, number)
    if (folder / "plan.json").exists():
        return
    task = make_task(args, variant.settings)
    started, seed, section = time.perf_counter(), Seed(number), task.study.training
    attached = attach(
        task.starting_model(seed.child("model")),
        variant.plan,
        layers,
        task.example,
        start=section.compression_start,
        end=section.compression_end,
        seed=seed.child("attach"),
    )
    fit(task, attached, variant.plan.recipe, section, seed=seed.child("fit"))
    folder.mkdir(parents=True, exist_ok=True)
    save_candidate(bake(attached, task.build_model, layers, task.example), folder)
    (folder / "plan.json").write_text(variant.plan.to_json())
    print(f"trained {name}, seed {number}, in {time.perf_counter() - started:.0f} s", flush=True)


def wrong(args: argparse.Namespace, task: ClassificationTask, name: str, number: int) -> dict[str, np.ndarray]:
    """Which images a variant gets wrong: ``clean`` (all of the split) and ``corrupted`` (15, 5, images), bool."""
    folder = place(args, name, number)
    file = folder / f"wrong-{args.images}.npz"
    if file.exists():
        return dict(np.load(file))
    model = load_candidate(folder, task.build_model, task.example).to(task.device).model
    found = {"clean": ~judge(model, task, task.evaluation("test"), 500).correct.cpu().numpy()}
    if args.images:
        plain = task.evaluation("test", args.images)
        sets = CorruptedSets(plain, study_seed=0, folder=Path(args.out) / "corrupted")
        rows = []
        for corruption in NAMES:
            for severity in SEVERITIES:
                images = EvaluationSet(sets.images(corruption, severity), plain.targets, plain.indices)
                rows.append(~judge(model, task, images, 500).correct.cpu().numpy())
        found["corrupted"] = np.stack(rows).reshape(len(NAMES), len(SEVERITIES), -1)
    with published(file) as opened:
        np.savez_compressed(opened, **found)
    return found


def cell(per_image: np.ndarray) -> str:
    """Mean and standard error of per-image values, in percentage points."""
    return f"{100 * per_image.mean():6.2f} ±{100 * per_image.std(ddof=1) / len(per_image) ** 0.5:.2f}"


def table(rows: dict[str, list[dict[str, np.ndarray]]], groups: dict[str, list[str]]) -> None:
    """Print, for each variant, its error by group and by how much it exceeds the control's.

    Seeds are averaged; ± is the standard error over images of these networks, and the last table has each seed apart.
    """

    def averaged(found: list[dict[str, np.ndarray]], names: list[str]) -> np.ndarray:
        places = [NAMES.index(name) for name in names]
        return np.mean([one["corrupted"][places].mean(axis=(0, 1)) for one in found], axis=0)

    control = next(iter(rows))
    heads = ["clean", "mean error", *groups]
    print(f"\n{'error in %':26s} " + " ".join(f"{head:>13s}" for head in heads))
    for name, found in rows.items():
        cells = [np.mean([one["clean"] for one in found], axis=0), averaged(found, NAMES)]
        cells += [averaged(found, names) for names in groups.values()]
        print(f"{name:26s} " + " ".join(f"{cell(one):>13s}" for one in cells))
    print(f"\n{'minus the control, points':26s} " + " ".join(f"{head:>13s}" for head in heads))
    for name, found in rows.items():
        if name == control:
            continue
        cells = [np.mean([a["clean"] * 1.0 - b["clean"] for a, b in zip(found, rows[control], strict=True)], axis=0)]
        cells += [averaged(found, names) - averaged(rows[control], names) for names in (NAMES, *groups.values())]
        print(f"{name:26s} " + " ".join(f"{cell(one):>13s}" for one in cells))
    print(f"\n{'minus the control, by seed':26s} mean error of each seed, points")
    for name, found in rows.items():
        pairs = zip(found, rows[control], strict=True)
        shown = [100.0 * float(a["corrupted"].mean() - b["corrupted"].mean()) for a, b in pairs]
        if name != control:
            print(f"{name:26s} " + " ".join(f"{value:7.2f}" for value in shown))
    print(f"\n{'times the control error':26s} " + " ".join(f"{head:>13s}" for head in heads[1:]))
    for name, found in rows.items():
        ratios = [
            averaged(found, names).mean() / averaged(rows[control], names).mean() for names in (NAMES, *groups.values())
        ]
        print(f"{name:26s} " + " ".join(f"{ratio:13.3f}" for ratio in ratios))


def noise_against_others(rows: dict[str, list[dict[str, np.ndarray]]]) -> None:
    """Whether noise rose by more than each other group, image by image."""
    control, *others = rows
    print("\nrise on noise minus the rise on another group, points (positive: noise is hurt more)")
    for name in others:
        rise = np.mean(
            [
                a["corrupted"].mean(axis=1) - b["corrupted"].mean(axis=1)
                for a, b in zip(rows[name], rows[control], strict=True)
            ],
            axis=0,
        )
        by_group = {
            group: rise[[NAMES.index(member) for member in members]].mean(axis=0)
            for group, members in CORRUPTIONS.items()
        }
        cells = [f"{group} {cell(by_group['noise'] - by_group[group])}" for group in CORRUPTIONS if group != "noise"]
        print(f"{name:26s} " + "   ".join(cells))


def classes(rows: dict[str, list[dict[str, np.ndarray]]], labels: np.ndarray) -> None:
    """Print accuracy, that of the worst class, and that of the three rarest classes, for each seed."""
    print(f"\n{'':34s} {'accuracy':>9s} {'worst class':>12s} {'three rarest':>13s}   worst class by seed")
    for name, found in rows.items():
        by_class = np.array([[1 - one["clean"][labels == label].mean() for label in range(10)] for one in found])
        accuracy = 1 - np.mean([one["clean"].mean() for one in found])
        worst = by_class.min(axis=1)
        seeds = " ".join(f"{100 * value:.1f}" for value in worst)
        error = np.sqrt(worst.mean() * (1 - worst.mean()) / (labels == by_class.mean(axis=0).argmin()).sum())
        print(
            f"{name:34s} {100 * accuracy:8.2f}% {100 * worst.mean():6.1f} ±{100 * error:.1f}% "
            f"{100 * by_class[:, -3:].mean():12.1f}%   {seeds}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("pruning", "augmentation", "long-tail"))
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="models/resnet20_cifar10.safetensors")
    parser.add_argument("--out", default="runs/corruption-findings")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=1000, help="test images that are corrupted; 0 only trains")
    parser.add_argument("--strength", type=float, default=0.5, help="of the naturalistic augmentation")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.experiment == "long-tail":
        args.images = 0
    torch.set_num_threads(args.threads)
    task = make_task(args)
    layers = inspect_layers(task.build_model(), task.input_shape)
    chosen = variants(args.experiment, layers, args.strength)
    rows: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in chosen}
    for number in range(args.first_seed, args.first_seed + args.seeds):
        for name, variant in chosen.items():
            train(args, name, variant, number, layers)
            rows[name].append(wrong(args, task, name, number))
    if args.images == 0 and args.experiment != "long-tail":
        return
    if args.experiment == "long-tail":
        classes(rows, task.evaluation("test").targets.cpu().numpy())
    elif args.experiment == "pruning":
        table(rows, {group: list(members) for group, members in CORRUPTIONS.items()})
        noise_against_others(rows)
    else:
        for augmentation in ("naturalistic", "augmix"):
            seen = [name for name in NAMES if name in SEEN[augmentation]]
            groups = {"seen": seen, "unseen": [name for name in NAMES if name not in seen]}
            print(f"\nseen by {augmentation}: {', '.join(seen) or 'none'}")
            table(rows, {group: names for group, names in groups.items() if names})


if __name__ == "__main__":
    main()
