"""What every process that asks for trials makes of a study file: its sampler, and what must be ready before it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna.samplers import BaseSampler

from ..studies.errors import InputError
from ..studies.registry import bind
from .problem import Prepared, Problem

if TYPE_CHECKING:
    from ..studies.schema import Study
    from .trial import TrialContext

__all__ = ["preparation", "sampler_for"]


def sampler_for(study: Study, problem: Problem) -> BaseSampler:
    """The study's sampler, told what is known of the problem besides its trials.

    Raises:
        InputError: One of its options is wrong.
    """
    search = study.search
    try:
        sampler: BaseSampler = bind("sampler", search.sampler, search.options, "search")(
            problem.distributions, study.study.seed
        )
    except ValueError as error:
        raise InputError(f"`search` must take its options; found that {error}") from None
    inform = getattr(sampler, "inform", None)
    if problem.knowledge is not None and inform is not None:
        inform(problem.knowledge)
    return sampler


def preparation(study: Study, context: TrialContext) -> Callable[[Callable[[str], None]], Prepared] | None:
    """What is measured once, under a lock, before the study opens; None where nothing is."""
    from .cost import needs_cost_table
    from .cost_measurement import load_or_measure

    if not needs_cost_table(study):
        return None

    def measure(announce: Callable[[str], None]) -> Prepared:
        table = load_or_measure(context, announce)
        return Prepared({"cost_table": table.digest}, tuple(table.remarks()))

    return measure
