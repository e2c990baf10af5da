"""What early stopping saves: training until a hypervolume is reached, with and without it, on tabulated real trainings.

The tabulated problems have what real digits trainings showed at rungs: `digits-finetuned` of long trainings of a dense
network, compressed at their beginning, `digits` of short ones from scratch. One search trains every candidate to its
end; the other stops those that are behind at a rung, by the rule of real studies, and spends what it saves on further
candidates. Hypervolume is of the noise-free values of the candidates trained to their end. The target is what the plain
search has after all of its trainings.

    python tests/benchmarks/early_stopping.py [--problem digits-finetuned] [--samplers random nsga2 surrogate-nsga2]
        [--seeds 10] [--trainings 100]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from search_problems import problem as problem_named
from search_problems.base import BenchmarkProblem, hypervolumes
from search_problems.tabulated import SETTINGS

from forgefront.search.early_stopping import goes_on
from forgefront.search.observations import RUNGS
from forgefront.studies.registry import resolve
from forgefront.studies.schema_search import EarlyStoppingSection


@dataclass
class Search:
    """One search as it goes: what each trial cost, and what those that were trained to their end are worth.

    Args:
        costs: Trainings, in shares of a whole one, spent by the end of each trial.
        values: (m,) noise-free values of each trial, None where it was stopped.
    """

    costs: list[float] = field(default_factory=list)
    values: list[np.ndarray | None] = field(default_factory=list)

    def hypervolumes(self, problem: BenchmarkProblem) -> np.ndarray:
        """After each trial; one that was stopped adds nothing."""
        worst = np.asarray(problem.reference, dtype=float)
        return hypervolumes(problem, np.array([worst if one is None else one for one in self.values]))


def run(
    problem: BenchmarkProblem, name: str, seed: int, *, rule: EarlyStoppingSection | None, budget: float, ladder: int
) -> Search:
    """Search until `budget` whole trainings are spent.

    Args:
        problem: Has rungs.
        name: A sampler of the house.
        seed: Of the sampler and of the noise.
        rule: Of early stopping; None trains every candidate to its end.
        budget: In whole trainings.
        ladder: Candidates that are given, which are never stopped.
    """
    assert problem.rungs is not None
    sampler = resolve("sampler", name)(problem.space, seed)
    sampler.inform(problem.known())
    study = optuna.create_study(directions=list(problem.directions.values()), sampler=sampler)
    study.set_metric_names(list(problem.directions))
    study.set_user_attr("reference_point", problem.reference.tolist())
    for params in problem.seeds(ladder):
        study.enqueue_trial(params)
    found, spent = Search(), 0.0
    reached: dict[float, list[Mapping[str, float]]] = {fraction: [] for fraction in rule.rungs} if rule else {}
    while spent < budget - 1e-9:
        trial = study.ask(dict(problem.space))
        seen = problem.rungs(trial.params, np.random.default_rng([seed, trial.number]))
        passed: list[dict[str, Any]] = []
        stopped = False
        for fraction, others in reached.items():
            values = dict(zip(problem.directions, map(float, seen[fraction]), strict=True))
            passed.append({"fraction": fraction, "values": values})
            assert rule is not None
            ahead = goes_on(values, others, problem.directions, keep=rule.keep, warm_up=rule.warm_up)
            others.append(values)
            if trial.number >= ladder and not ahead:
                stopped = True
                break
        trial.set_user_attr(RUNGS, passed)
        spent += passed[-1]["fraction"] if stopped else 1.0
        found.costs.append(spent)
        if stopped:
            found.values.append(None)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        measured = problem.measure(trial.params, np.random.default_rng([seed, trial.number]))
        errors = problem.errors(measured)
        scores = {
            objective: {"value": float(value), "standard_error": float(error)}
            for objective, value, error in zip(problem.directions, measured, errors, strict=True)
        }
        trial.set_user_attr("scores", scores)
        found.values.append(problem.true(trial.params))
        study.tell(trial, measured.tolist())
    return found


def cost_of(target: float, costs: Sequence[float], shares: np.ndarray) -> float:
    """Trainings spent until `target` was reached; infinite where it never was."""
    at = np.flatnonzero(shares >= target - 1e-12)
    return float(costs[at[0]]) if len(at) else float("inf")


def main() -> None:
    """Print one row a seed and the median ratio for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=SETTINGS, default="digits-finetuned")
    parser.add_argument("--samplers", nargs="+", default=["random", "nsga2", "surrogate-nsga2"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trainings", type=float, default=100.0)
    parser.add_argument("--ladder", type=int, default=8)
    parser.add_argument("--rungs", type=float, nargs="+", default=None)
    parser.add_argument("--keep", type=float, default=None)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    problem = problem_named(given.problem)
    assert problem.rungs is not None
    looked_at = list(problem.rungs(problem.seeds(1)[0], np.random.default_rng(0)))
    chosen = {"rungs": given.rungs or looked_at, "keep": given.keep}
    rule = EarlyStoppingSection(**{key: value for key, value in chosen.items() if value is not None})
    print(f"rungs {rule.rungs}, keep {rule.keep}, warm-up {rule.warm_up}; cost in whole trainings")
    for name in given.samplers:
        ratios = []
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            plain, early = (
                run(problem, name, seed, rule=one, budget=given.trainings, ladder=given.ladder) for one in (None, rule)
            )
            plain_shares, early_shares = plain.hypervolumes(problem), early.hypervolumes(problem)
            target = float(plain_shares[-1])
            costs = [cost_of(target, plain.costs, plain_shares), cost_of(target, early.costs, early_shares)]
            ratios.append(costs[1] / given.trainings)
            print(
                f"{name} seed {seed}: plain {target:.4f} after {given.trainings:g} (last gain at {costs[0]:.1f}); early "
                f"stopping reaches it at {costs[1]:.2f}, ends at {early_shares[-1]:.4f} with {len(early.costs)} trials",
                flush=True,
            )
        print(f"{name}: early stopping needs {np.median(ratios):.2f} of the training (median of {len(ratios)} seeds)")


if __name__ == "__main__":
    main()
