"""Does class weighting raise the worst class on long-tailed data: digits at imbalance 100, λ = 0 against λ = 1.

Prints, for each weighting, accuracy and worst-class accuracy on the test split, as the mean over seeds.

    python tests/benchmarks/class_weighting.py [--seeds 5] [--steps 400] [--weightings none inverse …]
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch

from forgefront.compression.attach import attach
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.plan import Recipe, TrialPlan
from forgefront.studies.load import read_study_text
from forgefront.studies.registry import names
from forgefront.studies.seeds import trial_seed
from forgefront.trainers.fit import fit
from forgefront.trainers.tasks.classification import ClassificationTask

STUDY = """
[study]
name = "long-tail"
seed = {seed}

[task]
data = {{ name = "digits", imbalance = 100, validation = {{ from = "train", count = 300 }} }}
model = {{ name = "digits-cnn" }}

[training]
steps = {steps}
batch_size = 64
crop_padding = 2
optimizer = {{ learning_rate = 0.05 }}
device = "cpu"

[space]
weight_bits = [8]

[[objectives]]
name = "accuracy"

[search]
seeds = 0
trials = 1
"""


def scores(weighting: str, seed: int, steps: int) -> tuple[float, float]:
    """Accuracy and worst-class accuracy on the test split after one training."""
    study = read_study_text(STUDY.format(seed=seed, steps=steps), file="long tail")
    task = ClassificationTask(study, torch.device("cpu"))
    root = trial_seed(seed, 0)
    model = task.starting_model(root.child("model"))
    layers = inspect_layers(task.build_model(), task.input_shape)
    attached = attach(model, TrialPlan(), layers, task.example, seed=root.child("attach"))
    recipe = Recipe(class_weighting=weighting, class_weight_scale=0.0 if weighting == "none" else 1.0)
    fit(task, attached, recipe, study.training, seed=root.child("fit"))
    test = task.evaluation("test")
    with torch.inference_mode():
        batches = list(test.batches(300))
        outputs = torch.cat([attached.model(batch.images) for batch in batches])
    counts = task.tally(outputs, test.targets)
    by_class = [right / total for right, total in zip(counts["correct"], counts["total"], strict=True) if total]
    return sum(counts["correct"]) / sum(counts["total"]), min(by_class)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--weightings", nargs="+", default=names("class_weighting"), choices=names("class_weighting"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'weighting':18s} {'λ':>2s} {'accuracy':>9s} {'worst class':>12s}   worst class by seed")
    for weighting in arguments.weightings:
        found = [scores(weighting, 100 + seed, arguments.steps) for seed in range(arguments.seeds)]
        worst = [pair[1] for pair in found]
        shown = " ".join(f"{value:.2f}" for value in worst)
        scale = 0 if weighting == "none" else 1
        print(f"{weighting:18s} {scale:2d} {mean(p[0] for p in found):9.3f} {mean(worst):12.3f}   {shown}", flush=True)


if __name__ == "__main__":
    main()
