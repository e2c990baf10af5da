"""One search of a benchmark problem by one sampler: Optuna's own and pymoo's NSGA-II untouched, or one of the house.

All begin with the same configurations, are told the same noise for the same trial of the same seed, and know nothing of
the noise-free values, which are returned.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from search_problems.base import BenchmarkProblem

from forgefront.studies.registry import names, resolve

__all__ = ["COMPETITORS", "search"]

OPTUNA: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna-nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "optuna-nsga2-20": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "optuna-nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed),
    "optuna-tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna-tpe-mv": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "optuna-random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PYMOO = "pymoo-own-nsga2"
PYMOO_POPULATION, PYMOO_OFFSPRING = 20, 10
COMPETITORS = (*OPTUNA, PYMOO)
"""What anyone could plug in himself."""


def search(
    problem: BenchmarkProblem, sampler: str, seed: int, *, trials: int, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run one search.

    Args:
        problem: What to search.
        sampler: One of `COMPETITORS`, or a sampler of the house with options, as ``name`` or ``name:{"option": 1}``.
        seed: Of the sampler and of the noise.
        trials: How many.
        seeds: How many of them are the problem's own first configurations.

    Returns:
        Noise-free values (trials, m) in order, and the seconds (trials,) that each took besides its measurement.

    Raises:
        ValueError: There is no such sampler.
    """
    if sampler == PYMOO:
        run = _pymoo(problem, seed, seeds)
    else:
        run = _optuna(problem, _sampler(problem, sampler, seed), seeds)
    values = np.zeros((trials, len(problem.directions)))
    seconds = np.zeros(trials)
    before = time.perf_counter()
    params = next(run)
    for number in range(trials):
        seconds[number] = time.perf_counter() - before
        values[number] = problem.true(params)
        measured = problem.noisy(params, values[number], np.random.default_rng([seed, number]))
        before = time.perf_counter()
        if number < trials - 1:
            params = run.send(measured)
    run.close()
    return values, seconds


def _sampler(problem: BenchmarkProblem, name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name in OPTUNA:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return OPTUNA[name](seed)
    own, _, options = name.partition(":")
    if own not in names("sampler"):
        known = ", ".join([*COMPETITORS, *names("sampler")])
        raise ValueError(f"`sampler` must be one of {known}; found {own!r}.")
    made = resolve("sampler", own)(problem.space, seed, **(json.loads(options) if options else {}))
    if hasattr(made, "inform"):
        made.inform(problem.known())
    return made


def _optuna(
    problem: BenchmarkProblem, sampler: optuna.samplers.BaseSampler, seeds: int
) -> Iterator[Mapping[str, Any]] | Any:
    study = optuna.create_study(directions=list(problem.directions.values()), sampler=sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(problem.directions))
    study.set_user_attr("reference_point", problem.reference.tolist())
    for params in problem.seeds(seeds):
        study.enqueue_trial(params)
    while True:
        trial = study.ask(dict(problem.space))
        measured = yield trial.params
        errors = problem.errors(measured)
        scores = {
            name: {"value": float(value), "standard_error": float(error)}
            for name, value, error in zip(problem.directions, measured, errors, strict=True)
        }
        trial.set_user_attr("scores", scores)
        study.tell(trial, measured.tolist())


def _pymoo(problem: BenchmarkProblem, seed: int, seeds: int) -> Iterator[Mapping[str, Any]] | Any:
    """NSGA-II with pymoo's mixed variables; ordinals and grids are integers, seeds are in the first population."""
    from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.operators.selection.tournament import TournamentSelection
    from search_problems.base import random_params

    variables = {name: _pymoo_variable(distribution) for name, distribution in problem.space.items()}
    first = [dict(params) for params in problem.seeds(seeds)]
    generator = np.random.default_rng([seed, 1])
    while len(first) < PYMOO_POPULATION:
        first.append(random_params(problem.space, generator))
    start = Population.new(
        X=[{name: _position(problem.space[name], params[name]) for name in variables} for params in first]
    )
    same = MixedVariableDuplicateElimination()
    algorithm = NSGA2(
        pop_size=max(PYMOO_POPULATION, len(first)),
        n_offsprings=PYMOO_OFFSPRING,
        sampling=start,
        mating=MixedVariableMating(
            selection=TournamentSelection(func_comp=binary_tournament), eliminate_duplicates=same
        ),
        eliminate_duplicates=same,
    )
    algorithm.setup(Problem(vars=variables, n_obj=len(problem.directions)), termination=("n_gen", 10**6), seed=seed)
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in problem.directions.values()])
    while True:
        offspring = algorithm.ask()
        for individual in offspring:
            params = {name: _value(problem.space[name], individual.X[name]) for name in variables}
            individual.F = signs * (yield params)
            individual.evaluated.add("F")
        algorithm.tell(infills=offspring)


def _pymoo_variable(distribution: BaseDistribution) -> Any:
    from pymoo.core.variable import Integer, Real

    if isinstance(distribution, IntDistribution):
        return Integer(bounds=(distribution.low, distribution.high))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return Real(bounds=(distribution.low, distribution.high))
    return Integer(bounds=(0, round((distribution.high - distribution.low) / distribution.step)))


def _position(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return round((value - distribution.low) / distribution.step)
    return value


def _value(distribution: BaseDistribution, position: Any) -> Any:
    if isinstance(distribution, IntDistribution):
        return int(position)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return float(position)
    return round(distribution.low + int(position) * distribution.step, 6)
