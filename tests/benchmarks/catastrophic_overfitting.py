"""Does single-step adversarial training overfit catastrophically, and does the guard catch it where it does?

Trains the small CNN from scratch on digits (epsilon 0.1) or on 10,000 CIFAR-10 images (epsilon 8/255), with N-FGSM under
the guard and with plain FGSM at a too large step without and with it, and prints clean, FGSM and PGD accuracy on test images.
The sign of catastrophic overfitting is a high FGSM accuracy beside a PGD accuracy near zero.

    python tests/benchmarks/catastrophic_overfitting.py [--data DIR_OF_CIFAR] [--seeds 3]
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction

import torch

from forgefront.compression.attach import attach
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Recipe, TrialPlan
from forgefront.studies.load import load_study
from forgefront.studies.seeds import Seed
from forgefront.trainers.attacks.base import EvaluationAttack, Victim
from forgefront.trainers.attacks.pgd import FGSM, PGD
from forgefront.trainers.fit import fit
from forgefront.trainers.tasks.base import to_float
from forgefront.trainers.tasks.classification import ClassificationTask

CIFAR = [
    "task.data.train_images=10000",
    "task.data.test_images=2000",
    "task.model.name=digits-cnn",
    "task.model.width=32",
    "training.optimizer.learning_rate=0.1",
]


def survivors(attack: EvaluationAttack, task: ClassificationTask, model: torch.nn.Module, images: int) -> float:
    """Share of test images that withstand an attack."""
    plain = task.evaluation("test", images)
    victim = Victim(model, task.attack_losses, task.correct)
    result = attack(victim, to_float(plain.images), plain.targets, Seed(7).torch(task.device))
    return float(result.robust.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CIFAR-10; digits when it is left out")
    parser.add_argument("--methods", nargs="+", default=["n-fgsm", "fgsm"])
    parser.add_argument("--fgsm-step", type=float, default=1.25, help="of plain FGSM, in units of epsilon")
    parser.add_argument(
        "--epsilon", type=lambda text: float(Fraction(text)), help="such as 8/255; by default the study's"
    )
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--images", type=int, default=500, help="test images that are attacked")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the study file")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    study_name = "cifar10-resnet20-adversarial" if args.data else "digits-adversarial"
    print(f"{'method':8s} {'guard':5s} {'seed':4s} {'clean':>7s} {'FGSM':>7s} {'PGD-50':>7s}  what the guard did")
    for method in args.methods:
        for guard in (False, True):
            if method != "fgsm" and not guard:
                continue
            settings = [f"training.method={method}", f"training.overfitting_guard={str(guard).lower()}"]
            settings += [*CIFAR, f"task.data.root={args.data}"] if args.data else []
            settings += [f"training.attack_step_size={args.fgsm_step}"] if method == "fgsm" else []
            settings += [f"training.epsilon={args.epsilon}"] if args.epsilon else []
            settings += args.set
            study = load_study(study_name, overrides=settings, check_parts=False)
            training = study.training.model_copy(update={"steps": None, "epochs": args.epochs})
            task = ClassificationTask(study.model_copy(update={"training": training}), torch.device("cpu"))
            layers, epsilon = inspect_layers(task.build_model(), task.input_shape), training.epsilon
            assert epsilon is not None
            for number in range(args.seeds):
                seed, started = Seed(number), time.perf_counter()
                attached = attach(
                    task.starting_model(seed.child("model")),
                    TrialPlan(),
                    layers,
                    task.example,
                    start=training.compression_start,
                    end=training.compression_end,
                    seed=seed.child("attach"),
                )
                recipe = Recipe("adversarial", method=method, epsilon=epsilon)
                fitted = fit(task, attached, recipe, training, seed=seed.child("fit"))
                found = [
                    survivors(attack, task, attached.model, args.images)
                    for attack in (
                        PGD(epsilon=0.0, steps=1, restarts=1),
                        FGSM(epsilon=epsilon),
                        PGD(epsilon=epsilon, steps=50, restarts=1),
                    )
                ]
                shown = " ".join(f"{100 * share:6.1f}%" for share in found)
                taken = time.perf_counter() - started
                print(
                    f"{method:8s} {'on' if guard else 'off':5s} {number:4d} {shown}  "
                    f"{'; '.join(fitted.deviations) or 'nothing'} ({taken:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
