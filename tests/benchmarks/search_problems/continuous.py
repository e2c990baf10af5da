"""DTLZ2 (Deb et al. 2002) and WFG4 (Huband et al. 2006) with four objectives, as pymoo has them: no noise, no forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
from scipy.stats import qmc

from .base import BenchmarkProblem

__all__ = ["dtlz2", "wfg4"]

OBJECTIVES = 4


def dtlz2() -> BenchmarkProblem:
    """12 variables in [0, 1]; the front is the unit sphere's positive part, the reference 1.5 in each objective."""
    from pymoo.problems.many.dtlz import DTLZ2

    return _continuous("dtlz2", DTLZ2(n_var=12, n_obj=OBJECTIVES), np.full(OBJECTIVES, 1.5))


def wfg4() -> BenchmarkProblem:
    """13 variables, 6 of them of position; the reference is the worst value of each objective, 2 i + 1."""
    from pymoo.problems.many.wfg import WFG4

    worst = 2.0 * np.arange(1, OBJECTIVES + 1) + 1.0
    return _continuous("wfg4", WFG4(n_var=13, n_obj=OBJECTIVES, k=6), worst)


def _continuous(name: str, problem: Any, reference: np.ndarray) -> BenchmarkProblem:
    names = [f"x{index:02d}" for index in range(problem.n_var)]
    low, high = np.asarray(problem.xl, dtype=float), np.asarray(problem.xu, dtype=float)

    def true(params: Mapping[str, Any]) -> np.ndarray:
        point = np.array([params[variable] for variable in names], dtype=float)
        return np.asarray(problem.evaluate(point[None, :], return_values_of=["F"]), dtype=float)[0]

    def seeds(count: int) -> list[dict[str, Any]]:
        shares = qmc.LatinHypercube(d=len(names), rng=np.random.default_rng(7)).random(count)
        return [dict(zip(names, (low + row * (high - low)).tolist(), strict=True)) for row in shares]

    return BenchmarkProblem(
        name=name,
        directions={f"f{index + 1}": "minimize" for index in range(OBJECTIVES)},
        space={
            variable: FloatDistribution(lowest, highest)
            for variable, lowest, highest in zip(names, low.tolist(), high.tolist(), strict=True)
        },
        true=true,
        reference=reference,
        ideal=np.zeros(OBJECTIVES),
        seeds=seeds,
    )
