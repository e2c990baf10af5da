"""Uniform random search, seeded by trial and without repeats: the baseline that a sampler has to beat."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from .configurations import Params
from .seeded import SeededSampler

__all__ = ["SeededRandomSampler", "random"]


def random(space: Mapping[str, BaseDistribution], seed: int) -> SeededRandomSampler:
    """Uniform draws from the declared space.

    Args:
        space: The declared search space.
        seed: The study's seed.
    """
    return SeededRandomSampler(space, seed)


class SeededRandomSampler(SeededSampler, RandomSampler):
    """Optuna's `RandomSampler`, seeded by trial and without repeats."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        RandomSampler.__init__(self)
        self._declare(space, seed)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A uniform draw that no trial holds yet."""
        return self._unseen(study, trial, search_space, lambda: self._uniform(study, trial, search_space))
