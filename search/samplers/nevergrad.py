"""nevergrad's evolutionary optimizers, made anew for each trial from what the study holds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import moocore
import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from ..observations import Observation, Observations
from .configurations import Params
from .encoding import Encoding, encoding_of
from .seeded import OwnSampler

__all__ = ["NevergradSampler", "nevergrad"]

Algorithm = Literal["DE", "TwoPointsDE", "RotatedTwoPointsDE", "OnePlusOne"]
REFERENCE = "reference_point"


def nevergrad(
    space: Mapping[str, BaseDistribution],
    seed: int,
    *,
    algorithm: Algorithm = "DE",
    history: Annotated[int, Field(ge=30)] = 400,
) -> NevergradSampler:
    """An optimizer of nevergrad's by its name there.

    Args:
        space: The declared search space.
        seed: The study's seed.
        algorithm: Differential evolution, whole, with two-point crossover or with a rotated one; or a (1+1) strategy
            on the hypervolume. Others do not take trials that they have not asked for, or not repeatably.
        history: Latest trials that the optimizer is told, besides the front.
    """
    return NevergradSampler(space, seed, algorithm=algorithm, history=history)


class NevergradSampler(OwnSampler):
    """Tells a new optimizer what the study holds, in order of the trials' numbers, and asks it.

    Args:
        space: The declared search space.
        seed: The study's seed.
        algorithm: nevergrad's name of the optimizer.
        history: Latest trials that the optimizer is told, besides the front.
    """

    _retries = 30

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, algorithm: str, history: int) -> None:
        self._declare(space, seed)
        self._algorithm = algorithm
        self._history = history
        self._observations = Observations()

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """What the optimizer asks for that no trial holds yet."""
        if not search_space:
            return {}
        encodings = {name: encoding_of(space) for name, space in search_space.items()}
        optimizer = self._told(study, trial, encodings)

        def propose() -> Params:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asked = optimizer.ask().value
            return _params(encodings, asked)

        return self._unseen(study, trial, search_space, propose)

    def _told(self, study: Study, trial: FrozenTrial, encodings: Mapping[str, Encoding]) -> Any:
        with warnings.catch_warnings():
            # it and what it imports change the filters of the whole process, and it warns of small budgets
            warnings.simplefilter("ignore")
            import nevergrad as ng

            # one array: a parameter for each variable costs a hundred times as much
            size = sum(_width(one) for one in encodings.values())
            parametrization = ng.p.Array(init=np.full(size, 0.5), lower=0.0, upper=1.0)
            seed = self._seed(trial).child("nevergrad").numpy()
            parametrization.random_state = np.random.RandomState(seed.integers(2**32, dtype=np.uint32))
            optimizer = ng.optimizers.registry[self._algorithm](parametrization)
            told = [one for one in self._observations.of(study) if encodings.keys() <= one.params.keys()]
            told = [one for one in told if one.fraction == 1.0 and np.isfinite(one.losses).all()]
            told = _latest_and_front(told, self._history)
            if told and len(study.directions) > 1:
                reference = _reference(study, told)
                optimizer.tell(ng.p.MultiobjectiveReference(), reference)
                optimizer._hypervolume_pareto._hypervolume = _Hypervolume(reference)
            for one in told:
                candidate = parametrization.spawn_child(new_value=_coordinates(encodings, one.params))
                # identifiers are random texts, whose order in a set differs between processes
                candidate.uid = one.number
                candidate.heritage["lineage"] = one.number
                loss = one.losses if len(one.losses) > 1 else float(one.losses[0])
                optimizer.tell(candidate, loss, constraint_violation=[one.violation] if one.violation > 0 else None)
            # a new optimizer's next parent is always its first one: go on where the last trial was
            for _ in range(trial.number % min(len(told), 30) if told else 0):
                optimizer.ask()
        return optimizer


class _Hypervolume:
    """nevergrad's `HypervolumeIndicator`, hundreds of times as fast."""

    def __init__(self, reference: np.ndarray) -> None:
        self._reference = reference

    def compute(self, points: Any) -> float:
        return float(moocore.hypervolume(np.asarray(points, dtype=float), ref=self._reference))


def _latest_and_front(told: list[Observation], count: int) -> list[Observation]:
    if len(told) <= count:
        return told
    keep = np.array([one.violation <= 0 for one in told])
    if keep.any():
        # among feasible ones, for what is not allowed may dominate everything that is
        keep[keep] = moocore.is_nondominated(np.array([one.losses for one in told])[keep])
    keep[-count:] = True
    return [one for one, kept in zip(told, keep, strict=True) if kept]


def _reference(study: Study, told: list[Observation]) -> np.ndarray:
    stored = study.user_attrs.get(REFERENCE)
    if stored is None:
        return np.asarray(np.max([one.losses for one in told], axis=0))
    signs = [-1.0 if way.name == "MAXIMIZE" else 1.0 for way in study.directions]
    return np.array(signs) * np.array(stored, dtype=float)


def _width(encoding: Encoding) -> int:
    return int(encoding.high) + 1 if encoding.kind == "choice" else 1


def _coordinates(encodings: Mapping[str, Encoding], params: Mapping[str, Any]) -> np.ndarray:
    """Params in the unit cube: a coordinate for each number, and one for each choice, of which the largest counts."""
    parts = []
    for name, encoding in encodings.items():
        code = encoding.encode(params[name])
        if encoding.kind == "choice":
            parts.append(np.where(np.arange(_width(encoding)) == code, 0.75, 0.25))
        else:
            low, high = _ends(encoding)
            parts.append(np.array([(code - low) / (high - low)]))
    return np.clip(np.concatenate(parts), 0.0, 1.0)


def _params(encodings: Mapping[str, Encoding], coordinates: np.ndarray) -> Params:
    params: Params = {}
    for name, encoding in encodings.items():
        own, coordinates = coordinates[: _width(encoding)], coordinates[_width(encoding) :]
        low, high = _ends(encoding)
        code = float(np.argmax(own)) if encoding.kind == "choice" else low + float(own[0]) * (high - low)
        params[name] = encoding.decode(code)
    return params


def _ends(encoding: Encoding) -> tuple[float, float]:
    # half a step beyond the ends of a grid, so that rounding makes them as likely as their neighbours
    margin = 0.5 if encoding.kind == "grid" else 0.0
    return encoding.low - margin, encoding.high + margin
