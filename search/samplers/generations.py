"""What every genetic sampler of the house shares: generations that seeds and stopped trials belong to, at any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ...studies.seeds import Seed
from ..observations import RUNGS
from .configurations import Params
from .seeded import SeededSampler, words
from .trial_reader import TrialReader

__all__ = ["GenerationalSampler", "Generations", "by_rung"]


WAITING = "forgefront:waiting:"


class Generations(TrialReader):
    """The complete and the stopped trials of each generation.

    Args:
        key: System attribute that holds a trial's generation.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self._members: dict[int, dict[int, FrozenTrial]] = {}

    def members(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The finished trials of a generation that did not fail, by number."""
        self.read(study)
        return [trial for _, trial in sorted(self._members.get(generation, {}).items())]

    def next(self, study: Study, size: int) -> int:
        """The generation of a trial that begins now: the last one, or the one after when that has `size` members."""
        self.read(study)
        last = max(self._members, default=0)
        return last if len(self._members.get(last, {})) < size else last + 1

    def _add(self, trial: FrozenTrial) -> None:
        generation = trial.system_attrs.get(self._key)
        if generation is not None and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._members.setdefault(generation, {})[trial.number] = trial

    def _forget(self) -> None:
        self._members = {}


class GenerationalSampler(SeededSampler):
    """Mixin in front of a `BaseGASampler`, seeded by trial, warm-startable, without repeats, and quick at any size.

    - Every trial that passes `before_trial` belongs to a generation, those with fixed parameters included; Optuna
      tags only what it has bred, so that seeds would never become parents. A trial written directly to the storage,
      as the control is, has no tag and never breeds.
    - Trials stopped in training count as members of their generation. They become parents only where there are fewer
      complete ones than a generation has, and are behind all of these.
    - Finished trials are read once; Optuna reads all of them for each trial.
    """

    _generations: Generations | None = None
    _parents: tuple[tuple[Any, int, int], list[FrozenTrial]] | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed the trial's draws and give it its generation."""
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """The trial's generation, stored with it when it has none."""
        key = self._genetic()._get_generation_key()
        # `trial` may be older than its tag
        stored = study._storage.get_trial(trial._trial_id).system_attrs.get(key)
        if stored is not None:
            return int(stored)
        size = self._genetic().population_size
        assert size is not None
        generation = self._read_generations().next(study, size)
        study._storage.set_trial_system_attr(trial._trial_id, key, generation)
        return generation

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The completed trials of a generation that have every variable, as parents must."""
        return [trial for trial in self._breeders(study, generation) if trial.state == TrialState.COMPLETE]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, by number, selected once and stored.

        Optuna gives them in order of merit when it selects them and by number when it reads them back, so that a run
        killed in between would breed otherwise than one that was not.
        """
        key = (study._storage, study._study_id, generation)
        if self._parents is None or self._parents[0][1:] != key[1:] or self._parents[0][0] is not key[0]:
            prefix = self._genetic()._get_parent_cache_key_prefix()
            stored = study._storage.get_study_system_attrs(study._study_id)
            first = generation
            while first > 1 and f"{prefix}{first - 1}" not in stored:
                first -= 1
            # from the oldest that is missing, for a recursion over hundreds of generations would end the process
            for missing in range(first, generation):
                super().get_parent_population(study, missing)  # type: ignore[misc]
            parents = super().get_parent_population(study, generation)  # type: ignore[misc]
            self._parents = key, sorted(parents, key=lambda trial: trial.number)
        return self._parents[1]

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The elite of the last generation and its parents; stopped trials where complete ones are too few.

        Of several that run at once, some finish after the generation that follows theirs has its parents: these are
        up for the next selection.
        """
        size = self._genetic().population_size
        assert size is not None
        before = self.get_parent_population(study, generation - 1)
        # first, for what finishes in between must not be lost
        self._note_waiting(study, generation)
        pool = {trial.number: trial for trial in [*before, *self._late(study, generation - 1)]}
        pool |= {trial.number: trial for trial in self._breeders(study, generation - 1)}
        complete = [trial for trial in pool.values() if trial.state == TrialState.COMPLETE]
        state = getattr(self, "_rng", None)
        if state is not None:
            # a selection that draws does so alike whichever trial begins the generation
            state.rng.seed(words(self._selection_seed(generation)))
        elite = self._select(study, complete, generation) if complete else []
        if len(elite) >= size:
            return elite
        stopped = [trial for trial in pool.values() if trial.state == TrialState.PRUNED]
        return elite + by_rung(study, stopped)[: size - len(elite)]

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A child of the last generation's elite, or a uniform draw in generation 0, that no trial holds yet."""
        generation = self.get_trial_generation(study, trial)
        parents = self.get_parent_population(study, generation)
        # selecting parents may have drawn, which a run that found them selected does not do
        self._seed_draws(trial)
        breed = self._breeding(study, trial, search_space, parents) if len(parents) >= self._least_parents() else None

        def propose() -> Params:
            child = breed() if breed is not None else {}
            # what mutation dropped, all of it in generation 0, is drawn uniformly
            missing = {name: space for name, space in search_space.items() if name not in child}
            drawn = self._uniform(study, trial, missing)
            return {name: child[name] if name in child else drawn[name] for name in search_space}

        return self._unseen(study, trial, search_space, propose)

    # what an algorithm decides

    def _select(self, study: Study, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        """The trials that survive to breed a generation, as many as it has at most."""
        raise NotImplementedError

    def _breeding(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> Any:
        """A function that gives a child, another one at each call; variables left out are drawn uniformly."""
        raise NotImplementedError

    def _least_parents(self) -> int:
        return 2

    # what the public part stands on

    def _selection_seed(self, generation: int) -> Seed:
        return Seed(self._study_seed).child("parents").child(generation)

    def _genetic(self) -> BaseGASampler:
        assert isinstance(self, BaseGASampler)
        return self

    def _read_generations(self) -> Generations:
        if self._generations is None:
            self._generations = Generations(self._genetic()._get_generation_key())
        return self._generations

    def _breeders(self, study: Study, generation: int) -> list[FrozenTrial]:
        return [trial for trial in self._read_generations().members(study, generation) if self._breeds(trial)]

    def _breeds(self, trial: FrozenTrial) -> bool:
        names = {name for name, space in self._declared.items() if not space.single()}
        return names <= trial.params.keys()

    def _note_waiting(self, study: Study, generation: int) -> None:
        """Store which trials of earlier generations are not finished when the parents of this one are selected."""
        key = self._genetic()._get_generation_key()
        waiting = [
            trial.number
            for trial in self._read_generations().read(study)
            if key in trial.system_attrs and trial.system_attrs[key] < generation
        ]
        stored = study._storage.get_study_system_attrs(study._study_id).get(f"{WAITING}{generation}", [])
        if waiting != stored:
            study._storage.set_study_system_attr(study._study_id, f"{WAITING}{generation}", waiting)

    def _late(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Those that were not finished when the parents of a generation were selected, and now are."""
        waiting = study._storage.get_study_system_attrs(study._study_id).get(f"{WAITING}{generation}", [])
        trials = study._get_trials(deepcopy=False, use_cache=True)
        finished = (TrialState.COMPLETE, TrialState.PRUNED)
        return [
            trials[number] for number in waiting if trials[number].state in finished and self._breeds(trials[number])
        ]


def by_rung(study: Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Stopped trials, the best first: those that came furthest, and of these the least dominated at their last rung.

    Args:
        study: What tells the objectives' names and directions.
        trials: Trials with the user attribute `RUNGS`; those without any rung come last.
    """
    names = study.metric_names or [str(index) for index in range(len(study.directions))]
    signs = [-1.0 if way.name == "MAXIMIZE" else 1.0 for way in study.directions]
    rungs: list[Mapping[str, Any]] = [max(trial.user_attrs.get(RUNGS) or [{}], key=_fraction) for trial in trials]

    def loss(sign: float, rung: Mapping[str, Any], name: str) -> float:
        value = rung.get("values", {}).get(name, np.nan)
        # None is what was measured and is no number: worse than anything
        return np.inf if value is None else sign * value

    losses = np.array(
        [[loss(sign, rung, name) for sign, name in zip(signs, names, strict=True)] for rung in rungs]
    ).reshape(len(trials), len(names))

    def dominators(index: int) -> int:
        known = ~np.isnan(losses[index])
        rivals = [other for other in range(len(trials)) if _fraction(rungs[other]) == _fraction(rungs[index])]
        # what a rung does not measure is NaN for all of them, and decides nothing
        others = losses[np.ix_(np.array(rivals), np.flatnonzero(known))]
        mine = losses[index][known]
        return int(((others <= mine).all(axis=1) & (others < mine).any(axis=1)).sum()) if known.any() else 0

    merit = [(-_fraction(rungs[index]), dominators(index), trial.number) for index, trial in enumerate(trials)]
    return [trials[index] for index in sorted(range(len(trials)), key=merit.__getitem__)]


def _fraction(rung: Mapping[str, Any]) -> float:
    return float(rung.get("fraction", 0.0))
