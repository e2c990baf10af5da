"""Tree-structured Parzen estimator (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022), multivariate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from .configurations import Params
from .seeded import SeededSampler

__all__ = ["SeededTPESampler", "tpe"]


def tpe(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    startup: Annotated[int, Field(ge=1)] = 10,
    candidates: Annotated[int, Field(ge=1)] = 24,
) -> SeededTPESampler:
    """The strongest of Optuna's samplers on 100 to 400 trials of many variables.

    Args:
        space: The declared search space.
        seed: The study's seed.
        startup: Completed trials, control and seeds included, before the model is trusted; uniform draws until then.
        candidates: Draws from the model among which the best is asked.
    """
    return SeededTPESampler(space, seed, startup=startup, candidates=candidates)


class SeededTPESampler(SeededSampler, TPESampler):
    """Optuna's `TPESampler`, multivariate and with the constant liar, seeded by trial and without repeats."""

    # each proposal fits the model anew
    _retries = 10

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, startup: int, candidates: int) -> None:
        TPESampler.__init__(
            self, n_startup_trials=startup, n_ei_candidates=candidates, multivariate=True, constant_liar=True
        )
        self._declare(space, seed)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A draw from the model, or a uniform one while it starts up, that no trial holds yet."""

        def propose() -> Params:
            # not `sample_relative`: it stores the draw for other processes that write to the study, which has but one
            drawn = self._sample_relative(study, trial, search_space)
            return drawn or self._uniform(study, trial, search_space)

        return self._unseen(study, trial, search_space, propose)
