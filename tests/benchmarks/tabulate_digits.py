"""Trains real digits candidates and writes what each measured, at rungs of its training and at the end, to a table.

Each row is one training of the digits network under filter pruning, clustering and quantization by layer, as a study's
trial is: a ladder of uniform compressions, samples spread around a network level, uniform samples, and repeats of
earlier rows under new seeds, which tell the noise. `search_problems.tabulated` makes a problem of each table: `digits`
of short trainings from scratch, `digits-finetuned` of long trainings of a dense network that was trained before.

    python tests/benchmarks/tabulate_digits.py [--table digits-finetuned] [--rows 500] [--jobs 2] [--out FILE]

Rows that the file holds already are not trained again, so that it can be interrupted. About 2 and 14 seconds a row on
one core.
"""

from __future__ import annotations

import argparse
import csv
import functools
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from safetensors.torch import save_file
from search_problems.base import random_params, uniform_ladder

from forgefront.compression.attach import Attached, attach
from forgefront.compression.bake import bake
from forgefront.compression.packing import packed_sizes
from forgefront.objectives.base import Subject
from forgefront.objectives.size import count_macs
from forgefront.search.trial import TrialContext
from forgefront.spaces.plan import TrialPlan
from forgefront.studies.load import read_study_text
from forgefront.studies.seeds import Seed, trial_seed
from forgefront.trainers.fit import fit
from forgefront.trainers.rungs import Rungs

SCRATCH = """
[study]
name = "tabulated-digits"
seed = 5

[task]
data = { name = "digits", validation = { from = "train", count = 300 } }
model = { name = "digits-cnn" }

[training]
regime = "naturalistic"
epochs = 6
batch_size = 64
optimizer = { name = "sgd", learning_rate = 0.1 }
augmentation_strength = 0.5
compression_end = 0.6
threads = 1

[space]
granularity = "layer"
sparsity = { low = 0.0, high = 0.9, structure = ["filter"] }
clusters = ["none", 64, 32, 16, 8]
weight_bits = [8, 6, 4, 3]
activation_bits = [8]
augmentation_strength = { low = 0.0, high = 1.0 }

[[target]]
name = "onnxruntime-cpu"

[[objectives]]
name = "accuracy"

[[objectives]]
name = "mce"
severities = [5]
images = 300
corruptions = ["motion_blur", "snow", "frost", "fog", "brightness", "contrast"]

[[metrics]]
name = "macs"

[search]
trials = 10
"""
DENSE = "dense.safetensors"


def changed(study: str, changes: Mapping[str, str]) -> str:
    """A study with some of its text replaced, every piece of which it must hold."""
    for old, new in changes.items():
        assert old in study, old
        study = study.replace(old, new)
    return study


FINETUNED = changed(
    SCRATCH,
    {
        'name = "tabulated-digits"': 'name = "tabulated-digits-finetuned"',
        "count = 300": "count = 400",
        "images = 300": "images = 400",
        'name = "digits-cnn" }': f'name = "digits-cnn", weights = "{DENSE}", trained_on = "other" }}',
        "epochs = 6": "epochs = 24\nweight_averaging = 0.99",
        "learning_rate = 0.1": "learning_rate = 0.03",
        "compression_end = 0.6": "compression_end = 0.06",
        "high = 0.9,": "high = 0.95,",
        '"none", 64, 32, 16, 8': '"none", 32, 16, 8, 4',
        "[8, 6, 4, 3]": "[8, 4, 3, 2]",
    },
)


@dataclass(frozen=True)
class Design:
    """What a table is made of.

    Args:
        study: Of its trainings, as TOML.
        rungs: Shares of a training after which it is measured too.
        training: In words.
    """

    study: str
    rungs: tuple[float, ...]
    training: str


DESIGNS = {
    "digits": Design(SCRATCH, (0.25, 0.5), "a training from scratch"),
    "digits-finetuned": Design(
        FINETUNED, (0.125, 0.25, 0.5), "a training of a dense network that had 16 epochs from scratch"
    ),
}
DENSE_EPOCHS = 16
RECIPE = {"augmentation_strength": 0.5}
LADDER = 16
REPEAT_EVERY = 12
FOLDER = Path(__file__).parent / "data"


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=DESIGNS, default="digits")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or FOLDER / f"{arguments.table}.csv"
    with tempfile.TemporaryDirectory() as folder:
        tabulate(Path(folder), DESIGNS[arguments.table], out, arguments.rows, arguments.jobs)


def tabulate(folder: Path, design: Design, out: Path, rows: int, jobs: int) -> None:
    """Append the rows that `out` lacks."""
    context = context_of(folder, design)
    space = context.space.distributions
    points = samples(space, rows)
    done = read_rows(out)
    # the control's errors are what corruption errors are measured by
    control = measure_row(context, design.rungs, context.space.control(), trial_seed(context.study.study.seed, 0))
    columns = ["row", "kind", *space, *measures(design.rungs)]
    if not done:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            for line in conditions(design):
                file.write(f"# {line}\n")
            csv.DictWriter(file, columns, lineterminator="\n").writeheader()
    missing = [(row, *point) for row, point in enumerate(points) if row not in done]
    spawn = multiprocessing.get_context("spawn")
    with out.open("a", encoding="utf-8", newline="") as file, spawn.Pool(jobs) as pool:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        for row, kind, params, measured in pool.imap(functools.partial(trained, folder, design), missing):
            scores = relative(measured, control, design.rungs)
            writer.writerow({"row": row, "kind": kind, **params, **{k: f"{v:.5g}" for k, v in scores.items()}})
            file.flush()


@functools.cache
def context_of(folder: Path, design: Design) -> TrialContext:
    """What the trainings of a process share; the dense network is trained by the first that needs it."""
    torch.set_num_threads(1)
    dense = folder / DENSE
    if DENSE in design.study and not dense.exists():
        train_dense(folder, dense)
    return TrialContext(folder, study=read_study_text(design.study.replace(DENSE, str(dense)), file="digits table"))


def trained(
    folder: Path, design: Design, point: tuple[int, str, dict[str, Any]]
) -> tuple[int, str, dict[str, Any], dict[str, Any]]:
    """A row's number, kind, params and raw numbers."""
    row, kind, params = point
    context = context_of(folder, design)
    seed = trial_seed(context.study.study.seed, row + 1)
    return row, kind, params, measure_row(context, design.rungs, context.space.decode(params), seed)


def train_dense(folder: Path, path: Path) -> None:
    """Write the state of the dense network."""
    text = changed(SCRATCH, {"epochs = 6": f"epochs = {DENSE_EPOCHS}"})
    context = TrialContext(folder, study=read_study_text(text, file="digits table"))
    seed, plan = trial_seed(context.study.study.seed, 0), context.space.control()
    attached = attached_to(context, plan, seed)
    fit(context.task, attached, plan.recipe, context.study.training, seed=seed.child("fit"))
    network = bake(attached, context.task.build_model, context.layers, context.task.example).model
    # without what normalizes its inputs, which a task adds itself
    state = {
        name.removeprefix("network."): tensor.contiguous()
        for name, tensor in network.state_dict().items()
        if name.startswith("network.")
    }
    save_file(state, path)


def read_rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows of a table by number; those that a kill cut off in the middle are cut out of the file."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = [line for line in whole.splitlines() if not line.startswith("#")]
    return {int(row["row"]): row for row in csv.DictReader(lines)}


def conditions(design: Design) -> list[str]:
    """What the table was measured with, in words."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread"
    return [
        f"Written by tests/benchmarks/tabulate_digits.py ({versions}). One row {design.training};",
        "the first columns are what is varied, the others what was measured on the validation images: accuracy; mce in",
        "percent of the dense control's; packed_share of the control's packed bytes; macs_share of its operations; seconds",
        f"of the whole row. accuracy@f and mce@f are those of the model finalized after the share f of {design.rungs}",
        "of its steps. Rows of the kind repeat have an earlier row's params under another seed. The study was:",
        *(f"  {line}" for line in design.study.strip().splitlines() if line),
    ]


def measures(fractions: Sequence[float]) -> list[str]:
    """The measured columns."""
    rungs = [f"{name}@{fraction:g}" for fraction in fractions for name in ("accuracy", "mce")]
    return [*rungs, "accuracy", "mce", "packed_share", "macs_share", "seconds"]


def samples(space: Mapping[str, BaseDistribution], rows: int) -> list[tuple[str, dict[str, Any]]]:
    """What is trained in each row; the first rows of a longer table are those of a shorter one."""
    points: list[tuple[str, dict[str, Any]]] = [("ladder", rung) for rung in uniform_ladder(space, LADDER, RECIPE)]
    originals = list(range(LADDER))
    while len(points) < rows:
        row = len(points)
        generator = np.random.default_rng([11, row])
        if row % REPEAT_EVERY == 0:
            chosen = originals[int(generator.integers(len(originals)))]
            points.append(("repeat", points[chosen][1]))
            continue
        originals.append(row)
        if row % 3 == 0:
            points.append(("uniform", random_params(space, generator)))
        else:
            points.append(("level", around_a_level(space, generator)))
    return points[:rows]


def around_a_level(space: Mapping[str, BaseDistribution], generator: np.random.Generator) -> dict[str, Any]:
    """A network level, spread evenly, a deviation of each kind of variable and one of each variable."""
    level = float(generator.random())
    kinds = {name.partition("/")[0] for name in space}
    by_kind = {kind: float(generator.normal(0.0, 0.2)) for kind in sorted(kinds)}
    params: dict[str, Any] = {}
    for name, distribution in space.items():
        share = level + by_kind[name.partition("/")[0]] + float(generator.normal(0.0, 0.15))
        share = min(max(share, 0.0), 1.0) if "/" in name else float(generator.random())
        if isinstance(distribution, IntDistribution):
            params[name] = int(distribution.low + share * (distribution.high - distribution.low) + 0.5)
        elif isinstance(distribution, FloatDistribution):
            step = distribution.step or 1e-6
            steps = int(share * (distribution.high - distribution.low) / step + 0.5)
            params[name] = min(round(distribution.low + steps * step, 6), distribution.high)
    return params


def measure_row(context: TrialContext, fractions: Sequence[float], plan: TrialPlan, seed: Seed) -> dict[str, Any]:
    """Train one plan; raw numbers at its rungs and at its end."""
    started = time.perf_counter()
    task, training = context.task, context.study.training
    found: dict[str, Any] = {}

    def quality(attached: Attached, suffix: str) -> None:
        candidate = bake(attached, task.build_model, context.layers, task.example)
        subject = Subject(candidate, task, [], {}, {}, "validation", seed.child("measure"), context.study.study.seed)
        for objective in context.objectives[:2]:
            found[objective.name + suffix] = (objective, objective.measure(subject))
        if not suffix:
            found["packed"] = packed_sizes(candidate).total_bytes
            found["macs"] = count_macs(candidate.model, task.example)

    def look(index: int, fraction: float, step: int, attached: Attached) -> tuple[dict[str, Any], None]:
        quality(attached, f"@{fraction:g}")
        return {}, None

    attached = attached_to(context, plan, seed)
    fit(task, attached, plan.recipe, training, seed=seed.child("fit"), rungs=Rungs(fractions, look))
    quality(attached, "")
    found["seconds"] = time.perf_counter() - started
    return found


def attached_to(context: TrialContext, plan: TrialPlan, seed: Seed) -> Attached:
    """The network under a plan's compression, before its training."""
    task, training = context.task, context.study.training
    return attach(
        task.starting_model(seed.child("model")),
        plan,
        context.layers,
        task.example,
        start=training.compression_start,
        end=training.compression_end,
        seed=seed.child("attach"),
    )


def relative(row: Mapping[str, Any], control: Mapping[str, Any], fractions: Sequence[float]) -> dict[str, float]:
    """A row's raw numbers as scores against the control's."""
    suffixes = ["", *(f"@{fraction:g}" for fraction in fractions)]
    scores = {}
    for name in (name + suffix for suffix in suffixes for name in ("accuracy", "mce")):
        objective, raw = row[name]
        scores[name] = objective.derive(raw, control[name.partition("@")[0]][1]).value
    shares = {"packed_share": row["packed"] / control["packed"], "macs_share": row["macs"] / control["macs"]}
    return {name: {**scores, **shares, "seconds": row["seconds"]}[name] for name in measures(fractions)}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
