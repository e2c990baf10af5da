"""Learned masks against uniform filter pruning at the same operations, and against pruning after training from scratch.

    python tests/benchmarks/learned_masks.py --data DIR --weights resnet20_cifar10.safetensors   # CIFAR-10, ResNet-20
    python tests/benchmarks/learned_masks.py --from-scratch                                        # digits, FGSM

Both sides start from the same weights, see the same batches for the same number of steps, and are scored on images that
neither saw; sides alternate within each seed.
"""

from __future__ import annotations

import argparse
import statistics
from math import prod
from typing import Literal

import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.objectives.size import count_macs
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import LayerPlan, Pruning, Recipe, Stages, TrialPlan
from forgefront.studies.load import load_study
from forgefront.studies.seeds import Seed
from forgefront.trainers.attacks.base import Victim
from forgefront.trainers.attacks.pgd import PGD
from forgefront.trainers.fit import fit
from forgefront.trainers.tasks.base import to_float
from forgefront.trainers.tasks.classification import ClassificationTask

CIFAR = [
    'training.regime="standard"',
    "training.augmentation_strength=0.0",
    "task.data.train_images=10000",
    "task.data.validation.count=5000",
    "training.optimizer.learning_rate=0.02",
]


def filter_layers(layers: tuple[LayerInfo, ...]) -> list[str]:
    """Layers whose filters may go: those that no sum ties to others."""
    return [layer.name for layer in layers if layer.prunable_filters and layer.coupled is None]


def uniform(names: list[str], sparsity: float) -> TrialPlan:
    return TrialPlan({name: LayerPlan(pruning=Pruning(sparsity, "filter")) for name in names})


def learned(
    names: list[str],
    target: float,
    strength: float,
    structure: str = "filter",
    cost: Literal["operations", "parameters"] = "operations",
    stages: Stages | None = None,
) -> TrialPlan:
    pruning = Pruning(0.0, structure, mask="learned", target=target, strength=strength, cost=cost)
    return TrialPlan({name: LayerPlan(pruning=pruning) for name in names}, stages=stages)


def train(task, study, plan, layers, seed, *, round_to=1):
    section = study.training
    attached = attach(
        task.starting_model(seed.child("model")),
        plan,
        layers,
        task.example,
        start=section.compression_start,
        end=section.compression_end,
        seed=seed.child("attach"),
        round_to=round_to,
    )
    fit(task, attached, plan.recipe, section, seed=seed.child("fit"))
    candidate = bake(attached, task.build_model, layers, task.example)
    return attached, candidate


@torch.inference_mode()
def accuracy(task, model, split) -> float:
    hits = [task.correct(model(batch.images), batch.targets) for batch in task.evaluation(split).batches(500)]
    return float(torch.cat(hits).float().mean())


def uniform_sparsity(task, layers, names, target) -> float:
    """The uniform filter sparsity whose operations come nearest to `target` of the dense network's."""
    dense = count_macs(task.build_model(), task.example)

    def share(sparsity: float) -> float:
        attached = attach(task.build_model(), uniform(names, sparsity), layers, task.example, seed=Seed(0))
        attached.finalize([])
        return count_macs(bake(attached, task.build_model, layers, task.example).model, task.example) / dense

    candidates = [step / 64 for step in range(1, 64)]
    low, high = 0, len(candidates) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if share(candidates[middle]) > target:
            low = middle
        else:
            high = middle
    return min((candidates[low], candidates[high]), key=lambda one: abs(share(one) - target))


def on_cifar(args: argparse.Namespace) -> None:
    overrides = [*CIFAR, f"task.data.root={args.data}", f"task.model.weights={args.weights}", *args.set]
    study = load_study("cifar10-resnet20-naturalistic", overrides=overrides)
    study = study.model_copy(
        update={"training": study.training.model_copy(update={"steps": None, "epochs": args.epochs})}
    )
    task = ClassificationTask(study, torch.device(args.device))
    layers = inspect_layers(task.build_model(), task.input_shape)
    names, dense = filter_layers(layers), count_macs(task.build_model(), task.example)
    print(f"{args.epochs} epochs of 10,000 images; scored on 5,000 images; strength {args.strength:g}")
    for target in args.targets:
        sparsity = uniform_sparsity(task, layers, names, target)
        rows: dict[str, list[float]] = {"learned": [], "uniform": []}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            plans = {"learned": learned(names, target, args.strength), "uniform": uniform(names, sparsity)}
            for side, plan in plans.items():
                if args.only and side != args.only:
                    continue
                attached, candidate = train(task, study, plan, layers, Seed(seed))
                share = count_macs(candidate.model, task.example) / dense
                rows[side].append(accuracy(task, candidate.model, args.split))
                kept = [candidate.achieved["layers"][name]["channels"] for name in names]
                print(
                    f"target {target:g} seed {seed} {side:8s} operations {share:.4f} accuracy {rows[side][-1]:.4f}  {kept}"
                )
                if attached.learned is not None and args.verbose:
                    print(
                        "   ",
                        attached.learned.report(),
                        [round(float(u.scores.mean()), 2) for u in attached.learned._units],
                    )
                for deviation in attached.deviations[-2:]:
                    print("   ", deviation)
        for side, values in rows.items():
            if values:
                print(f"target {target:g} {side:8s} mean accuracy {statistics.mean(values):.4f}")


def from_scratch(args: argparse.Namespace) -> None:
    study = load_study("digits-adversarial", overrides=["training.epochs=16", *args.set])
    task = ClassificationTask(study, torch.device("cpu"))
    layers = inspect_layers(task.build_model(), task.input_shape)
    names = [layer.name for layer in layers if layer.kind != "depthwise"]
    training = study.training
    recipe = Recipe("adversarial", method=training.method, epsilon=training.epsilon)
    print(
        f"{training.method} at epsilon {training.epsilon:g}, {training.epochs} epochs, digits; PGD-20 on the test split"
    )
    for size in args.sizes:
        sizes = {layer.name: prod(layer.weight_shape) for layer in layers}
        total, pruned = sum(sizes.values()), sum(sizes[name] for name in names)
        # the same size in all: what no side prunes (depthwise filters) counts too
        sparsity = 1.0 - (size * total - (total - pruned)) / pruned
        after = Stages(0.5, 0.75, 0.75, 0.75)
        plans = {
            "learned": learned(names, size, args.strength, "weight", "parameters", Stages(0.0, 0.75, 0.75, 0.75)),
            "after training, per layer": magnitude(names, sparsity, "layer", after),
            "after training, global": magnitude(names, sparsity, "global", after),
        }
        rows: dict[str, list[tuple[float, float]]] = {side: [] for side in plans}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for side, plan in plans.items():
                if args.only and not side.startswith(args.only):
                    continue
                planned = TrialPlan(plan.layers, recipe, plan.stages)
                attached, candidate = train(task, study, planned, layers, Seed(seed))
                weights = [candidate.model.get_parameter(f"{layer.name}.weight") for layer in layers]
                share = sum(int((one != 0).sum()) for one in weights) / sum(one.numel() for one in weights)
                figures = accuracy(task, candidate.model, args.split), robust(task, candidate.model, args.split)
                rows[side].append(figures)
                print(
                    f"size {share:.4f} seed {seed} {side:26s} natural {figures[0]:.4f} PGD {figures[1]:.4f}", flush=True
                )
                for deviation in attached.deviations[-2:] if args.verbose else ():
                    print("   ", deviation)
        for side, values in rows.items():
            if not values:
                continue
            clean, attacked = (statistics.mean(part) for part in zip(*values, strict=True))
            print(f"size {size:g} {side:26s} mean natural {clean:.4f} PGD {attacked:.4f}", flush=True)


def magnitude(names: list[str], sparsity: float, scope: str, stages: Stages) -> TrialPlan:
    plan = LayerPlan(pruning=Pruning(sparsity, "weight", scope=scope))
    return TrialPlan(dict.fromkeys(names, plan), stages=stages)


def robust(task, model, split: str) -> float:
    images = task.evaluation(split)
    epsilon = task.study.training.epsilon
    attack = PGD(epsilon=epsilon, steps=20, restarts=1, step_size=epsilon / 4)
    victim = Victim(model, task.attack_losses, task.correct)
    right = attack(victim, to_float(images.images), images.targets, Seed(7).torch(task.device)).robust
    return float(right.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--weights", default="models/resnet20_cifar10.safetensors")
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", choices=("learned", "uniform", "after"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.16, 0.04])
    args = parser.parse_args()
    if args.from_scratch:
        from_scratch(args)
    else:
        on_cifar(args)


if __name__ == "__main__":
    main()
