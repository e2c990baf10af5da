"""How fast samplers find the front: hypervolume over trials on frozen problems, against what anyone could plug in.

The hypervolume is of the noise-free values of everything that was tried, as a share of the box between the problem's
ideal and its reference. Every search is stored and not run again unless the problem or the sampler has changed. What
tells is a digest: of the problem; of the files in search/samplers and search/surrogate for a sampler of the house; of the
library's version for what anyone could plug in. It does not cover search/observations.py, non_dominated.py, knowledge.py
and hypervolume.py, studies/seeds.py, nor competitors.py beside this file: when one of these changes what a search does,
delete the stored rows that it concerns.

    python tests/benchmarks/samplers.py [--samplers NAME …] [--problems NAME …] [--seeds 10] [--trials 200] [--out runs/samplers]

A sampler of the house may have options: ``'nsga2:{"population": 10}'``.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna
from competitors import COMPETITORS, search
from search_problems import problem as problem_named
from search_problems.base import fingerprint, hypervolumes

import forgefront

DEFAULT = "surrogate-nsga2"
PROBLEMS = ("compression-10", "compression-11", "compression-12", "dtlz2", "wfg4", "digits")
MARKS = (25, 50, 100, 150, 200)
COLUMNS = ("problem", "problem_digest", "sampler", "sampler_digest", "seed", "ladder", "milliseconds", "hypervolumes")


@dataclass(frozen=True)
class Search:
    """One search to be done; the digests tell which version of problem and sampler it is of."""

    problem: str
    problem_digest: str
    sampler: str
    sampler_digest: str
    seed: int
    ladder: int


def main() -> None:
    """Search what is missing, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=[DEFAULT, *COMPETITORS])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--ladder", type=int, default=8, help="trials that are given, the same to all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/samplers"))
    parser.add_argument("--no-search", action="store_true", help="only show what is stored")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "trajectories.csv"
    digests = {name: fingerprint(problem_named(name)) for name in arguments.problems}
    # by seed first, so that what is there can be compared however far it got
    wanted = [
        Search(name, digests[name], sampler, sampler_digest(sampler), seed, arguments.ladder)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for name in arguments.problems
        for sampler in arguments.samplers
    ]
    stored = read(store)
    missing = [one for one in wanted if len(stored.get(one, ([], 0.0))[0]) < arguments.trials]
    if missing and not arguments.no_search:
        run(missing, arguments.trials, arguments.processes, store)
        stored = read(store)
    found = {one: stored[one] for one in wanted if one in stored}
    for name in arguments.problems:
        curves = by_sampler(found, name, arguments.samplers, arguments.trials)
        if curves:
            print(table(name, curves, found))
            draw(name, curves, arguments.out / f"{name}.png")


def sampler_digest(name: str) -> str:
    """Which version of a sampler: the library's, or of everything in the house that samplers are made of."""
    if name in COMPETITORS:
        library = name.partition("-")[0]
        return f"{library} {version(library)}"
    return _house_digest()


@functools.cache
def _house_digest() -> str:
    return source_digest("samplers/**/*.py", "surrogate*/**/*.py", "surrogate*.py")


def source_digest(*patterns: str) -> str:
    """Of the files in the package's ``search`` folder that match any of the patterns."""
    room = Path(forgefront.__file__).parent / "search"
    files = {path for pattern in patterns for path in room.glob(pattern)}
    content = [path.relative_to(room).as_posix() + path.read_text(encoding="utf-8") for path in sorted(files)]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:12]


def run(searches: Sequence[Search], trials: int, processes: int, store: Path) -> None:
    """Do the searches and append each to the store once it is done."""
    if not store.exists():
        with store.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
    one = functools.partial(run_one, trials=trials)
    # fresh interpreters, for a sampler may leave threads behind
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, (curve, milliseconds) in enumerate(pool.imap_unordered(one, searches), start=1):
            row = [getattr(curve[0], column) for column in COLUMNS[:6]]
            shares = " ".join(f"{share:.6f}" for share in curve[1])
            with store.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow([*row, f"{milliseconds:.2f}", shares])
            print(
                f"{done} of {len(searches)}: {curve[0].problem} {curve[0].sampler} {curve[0].seed}: {curve[1][-1]:.4f}",
                flush=True,
            )


def run_one(one: Search, trials: int) -> tuple[tuple[Search, np.ndarray], float]:
    """One search: its hypervolume after each trial, and the mean milliseconds of its last fifth's asks and tells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = problem_named(one.problem)
    values, seconds = search(problem, one.sampler, one.seed, trials=trials, seeds=one.ladder)
    return (one, hypervolumes(problem, values)), 1e3 * float(np.mean(seconds[-max(1, trials // 5) :]))


def read(store: Path) -> dict[Search, tuple[list[float], float]]:
    """What is stored: each search's hypervolumes and milliseconds."""
    if not store.exists():
        return {}
    with store.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["hypervolumes"]]
    found = {}
    for row in rows:
        key = Search(*(row[column] for column in COLUMNS[:4]), seed=int(row["seed"]), ladder=int(row["ladder"]))
        found[key] = ([float(share) for share in row["hypervolumes"].split()], float(row["milliseconds"]))
    return found


def by_sampler(
    found: dict[Search, tuple[list[float], float]], name: str, samplers: Sequence[str], trials: int
) -> dict[str, np.ndarray]:
    """Hypervolumes (seeds, trials) by sampler, of those with any."""
    curves = {
        sampler: [
            curve[:trials]
            for one, (curve, _) in found.items()
            if (one.problem, one.sampler) == (name, sampler) and len(curve) >= trials
        ]
        for sampler in samplers
    }
    return {sampler: np.array(rows) for sampler, rows in curves.items() if rows}


def table(name: str, curves: dict[str, np.ndarray], found: dict[Search, tuple[list[float], float]]) -> str:
    """Means and standard errors over seeds at some trials, and how the default at 100 compares with the rest at 200."""
    marks = [mark for mark in MARKS if mark <= next(iter(curves.values())).shape[1]]
    wide = max(len(sampler) for sampler in curves)
    head = f"{'':{wide}}  seeds  " + "  ".join(f"{f'HV@{mark}':>15}" for mark in marks) + "  ms a trial"
    lines = [f"\n{name}", head]
    for sampler, rows in sorted(curves.items(), key=lambda item: -item[1][:, -1].mean()):
        cells = [f"{rows[:, mark - 1].mean():.4f} ± {standard_error(rows[:, mark - 1]):.4f}" for mark in marks]
        cost = np.mean([ms for one, (_, ms) in found.items() if (one.problem, one.sampler) == (name, sampler)])
        lines.append(
            f"{sampler:{wide}}  {len(rows):5d}  " + "  ".join(f"{cell:>15}" for cell in cells) + f"  {cost:10.1f}"
        )
    others = {sampler: rows[:, marks[-1] - 1].mean() for sampler, rows in curves.items() if sampler in COMPETITORS}
    if DEFAULT in curves and others:
        best = max(others, key=lambda sampler: others[sampler])
        half = curves[DEFAULT][:, marks[-1] // 2 - 1]
        verdict = "reached" if half.mean() >= others[best] else "not reached"
        lines.append(
            f"{DEFAULT} at {marks[-1] // 2}: {half.mean():.4f}; best other at {marks[-1]}: {others[best]:.4f} ({best}): "
            f"{verdict}"
        )
        lines.append(paired(found, name, (DEFAULT, marks[-1] // 2), (best, marks[-1])))
    return "\n".join(lines)


def paired(
    found: dict[Search, tuple[list[float], float]], name: str, one: tuple[str, int], other: tuple[str, int]
) -> str:
    """How far one sampler after some trials is ahead of another after its own, in seeds that both have searched."""
    volumes: list[dict[int, float]] = [
        {
            done.seed: curve[trials - 1]
            for done, (curve, _) in found.items()
            if (done.problem, done.sampler) == (name, sampler) and len(curve) >= trials
        }
        for sampler, trials in (one, other)
    ]
    gains = np.array([volumes[0][seed] - volumes[1][seed] for seed in volumes[0].keys() & volumes[1].keys()])
    if not len(gains):
        return "no seed was searched by both"
    return f"difference by seed: {gains.mean():+.4f} ± {standard_error(gains):.4f} ({len(gains)} seeds)"


def standard_error(values: np.ndarray) -> float:
    """Of the mean; 0 for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def draw(name: str, curves: dict[str, np.ndarray], path: Path) -> None:
    """Mean hypervolume over trials with a band of one standard error."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for sampler, rows in curves.items():
        mean = rows.mean(axis=0)
        error = np.array([standard_error(column) for column in rows.T])
        trials = np.arange(1, len(mean) + 1)
        own = sampler not in COMPETITORS
        (line,) = axes.plot(trials, mean, label=f"{sampler} ({len(rows)})", linewidth=2.2 if own else 1.2)
        axes.fill_between(trials, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(title=name, xlabel="trials", ylabel="hypervolume, share of the box (noise-free values)")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    # before libraries start their threads, here and in the processes of the pool
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
