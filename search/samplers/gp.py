"""Gaussian processes and expected hypervolume improvement: Optuna's `GPSampler`, for few variables and few trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from .configurations import Params
from .seeded import SeededSampler

__all__ = ["SeededGPSampler", "gp"]


def gp(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    startup: Annotated[int, Field(ge=1)] = 10,
    candidates: Annotated[int, Field(ge=16)] = 2048,
) -> SeededGPSampler:
    """One process for each objective; seconds to minutes a trial with four objectives and dozens of variables.

    Args:
        space: The declared search space.
        seed: The study's seed.
        startup: Completed trials, seeds included, before the model is trusted; uniform draws until then.
        candidates: Points among which the search for the best one begins.
    """
    return SeededGPSampler(space, seed, startup=startup, candidates=candidates)


class SeededGPSampler(SeededSampler, GPSampler):
    """Optuna's `GPSampler`, seeded by trial and without repeats; it learns from complete trials only."""

    # each proposal fits the models anew
    _retries = 3

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, startup: int, candidates: int) -> None:
        GPSampler.__init__(self, n_startup_trials=startup, warn_independent_sampling=False)
        self._declare(space, seed)
        self._n_preliminary_samples = candidates
        # under the name by which it is seeded
        self._random_sampler = self._independent_sampler

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """The best point of the model, or a uniform draw while it starts up, that no trial holds yet."""
        trials = [
            other
            for other in study._get_trials(deepcopy=False, use_cache=True)
            if other.number != trial.number and search_space.keys() <= other.params.keys()
        ]
        complete = [other for other in trials if other.state == TrialState.COMPLETE]
        running = [other for other in trials if other.state == TrialState.RUNNING]

        def propose() -> Params:
            if len(complete) < max(self._n_startup_trials, 1) or not search_space:
                return self._uniform(study, trial, search_space)
            return self._model(study, complete, running, search_space)

        return self._unseen(study, trial, search_space, propose)

    def _model(
        self,
        study: Study,
        complete: list[FrozenTrial],
        running: list[FrozenTrial],
        space: dict[str, BaseDistribution],
    ) -> Params:
        import torch

        # fits that start from the last ones would differ in a resumed run
        self._gprs_cache_list = self._constraints_gprs_cache_list = None
        with torch.device("cpu"):
            return self._sample_relative_impl(study, complete, running, space)
