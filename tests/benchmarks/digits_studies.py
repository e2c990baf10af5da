"""Samplers on real studies of the bundled digits: the hypervolume of 60 real trials, seed by seed.

Every trial trains a small network while it is pruned, clustered and quantized, and is scored on accuracy, corruption
error, compression ratio and MACs, all of which repeat exactly. Studies of one seed have the same control, the same 8
uniform compressions to start from and the same reference point; samplers without a name of ours are Optuna's, untouched.
What has run is kept in the folder, named by the version of its sampler: Optuna's, or a digest of the house's source. A
second call goes on, but for an untouched sampler's unfinished study, which begins anew: its generator would restart.

    python tests/benchmarks/digits_studies.py DIR [--samplers surrogate-nsga2 optuna-nsga2 …] [--seeds 5] [--trials 60]
"""

from __future__ import annotations

import argparse
import functools
import shutil
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from samplers import source_digest

from forgefront.search.coordinator import Coordinator
from forgefront.search.engines.serial import SerialEngine
from forgefront.search.hypervolume import HYPERVOLUME
from forgefront.search.record import REFERENCE
from forgefront.search.run import load_run
from forgefront.search.run_folder import RunFolder
from forgefront.search.stopping import StopRules
from forgefront.search.trial_run import Trials
from forgefront.studies.errors import RunError
from forgefront.studies.load import load_study, study_to_toml
from forgefront.studies.registry import bind

SAMPLERS = ("surrogate-nsga2", "optuna-nsga2", "optuna-tpe-multivariate")
MARKS = (20, 30, 40, 50, 60)
STUDY = (
    "training.epochs=6",
    "training.threads=1",
    # at severity 5, where the control errs often enough for a ratio of errors to mean something
    'objectives=[{name="accuracy"}, {name="mce", severities=[5], images=300, '
    'corruptions=["motion_blur", "snow", "frost", "fog", "brightness", "contrast"]}, '
    '{name="compression_ratio"}, {name="macs"}]',
    "metrics=[]",
)
SEEDS = 8
UNTOUCHED = "optuna-"
SOURCES = (
    *("samplers/**/*.py", "surrogate*/**/*.py", "surrogate*.py", "observations.py", "non_dominated.py"),
    *("knowledge.py", "study_knowledge.py", "hypervolume.py", "../spaces/*.py", "../studies/seeds.py"),
)
"""What a sampler of the house is made of, from the folder `search`."""


def sampler_called(name: str, problem: Any, seed: int) -> BaseSampler:
    """Untouched Optuna's where the name says so, otherwise the house's, told what it may know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "optuna-nsga2":
            return NSGAIISampler(seed=seed)
        if name == "optuna-tpe-multivariate":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    sampler: BaseSampler = bind("sampler", name, {})(problem.distributions, seed)
    if problem.knowledge is not None and hasattr(sampler, "inform"):
        sampler.inform(problem.knowledge)
    return sampler


def trajectory(folder: Path, name: str, seed: int, trials: int) -> list[float]:
    """Hypervolume after each trial of one study, run here as far as it has not been yet."""
    path = folder / f"{name}-{version_of(name)}-{seed}"
    if name.startswith(UNTOUCHED) and path.exists() and finished_trials(path) < trials:
        shutil.rmtree(path)
    search = f'search={{sampler="random", seeds={SEEDS}, trials={trials}}}'
    study = load_study("digits", overrides=[*STUDY, search, f"study.seed={seed}"])
    run = RunFolder.create(path, study_to_toml(study))
    context = Trials(path, 1, study)
    problem = context.problem()
    engine = SerialEngine(path)
    engine.runner = context
    Coordinator(run, problem, engine, sampler_called(name, problem, seed), rules=StopRules(trials)).run()
    record = load_run(path)
    assert record.record.user_attrs[REFERENCE]
    return history(record.optuna_trials())[:trials]


def version_of(name: str) -> str:
    """Optuna's version for what is its own, otherwise a digest of the house's source."""
    return version("optuna") if name.startswith(UNTOUCHED) else _house_version()


@functools.cache
def _house_version() -> str:
    # once, for what has been imported stays as it was when a file is edited meanwhile
    return source_digest(*SOURCES)


def finished_trials(path: Path) -> int:
    """Of a study's folder; 0 where it has not come to a database."""
    try:
        return sum(trial.state.is_finished() for trial in load_run(path).outline())
    except RunError:
        return 0


def history(trials: Sequence[FrozenTrial]) -> list[float]:
    """Hypervolume after each trial, in order of their numbers; one that failed leaves it as it was."""
    volumes = [0.0]
    for trial in trials:
        told = trial.user_attrs[HYPERVOLUME] if trial.state == TrialState.COMPLETE else 0.0
        volumes.append(max(volumes[-1], told))
    return volumes[1:]


def main() -> None:
    """Run what is missing and print one row a sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=60)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    found: dict[str, list[list[float]]] = {name: [] for name in given.samplers}
    for seed in seeds:
        for name in given.samplers:
            found[name].append(trajectory(given.folder, name, seed, given.trials))
            print(f"seed {seed}, {name}: {found[name][-1][-1]:.4f}", flush=True)
    marks = [mark for mark in MARKS if mark <= given.trials]
    print(f"{'hypervolume after':26s}" + "".join(f"{mark:>18d}" for mark in marks))
    for name, runs in found.items():
        rows = [[run[mark - 1] for run in runs] for mark in marks]
        cells = [f"{fmean(row):.4f} ± {stdev(row) / len(row) ** 0.5 if len(row) > 1 else 0.0:.4f}" for row in rows]
        print(f"{name:26s}" + "".join(f"{cell:>18s}" for cell in cells))
    first, *others = given.samplers
    for other in others:
        gains = [ours[-1] - theirs[-1] for ours, theirs in zip(found[first], found[other], strict=True)]
        ahead = sum(gain > 0 for gain in gains)
        print(f"{first} is ahead of {other} with {ahead} of {len(gains)} seeds, by {fmean(gains):+.4f} on average")


if __name__ == "__main__":
    main()
