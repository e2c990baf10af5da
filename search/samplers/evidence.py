"""What models are given: points, losses with their errors, constraints and forecasts of the trials that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from ..knowledge import Forecast, Knowledge
from ..non_dominated import non_dominated
from ..observations import Observation
from ..projection import projected
from .unit_space import UnitSpace

__all__ = ["Evidence", "Fact", "Forecasts", "failures", "gather", "kept", "levelled"]

FRONT_SHARE = 0.6


class Forecasts:
    """What a plan tells of the objectives, as losses.

    Args:
        knowledge: Of the search, or None.
        names: The m objectives, in order.
        signs: (m,) what turns values into losses.
    """

    def __init__(self, knowledge: Knowledge | None, names: Sequence[str], signs: np.ndarray) -> None:
        self._knowledge = knowledge
        self._names = tuple(names)
        self._signs = signs

    def of(self, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(m,) losses, NaN where nothing is told, and (m,) bools where they are exact."""
        told = self._knowledge.forecast(params) if self._knowledge else {}
        known: list[Forecast | None] = [told.get(name) for name in self._names]
        losses = self._signs * np.array([np.nan if one is None else one.value for one in known], dtype=float)
        exact = np.array([one is not None and one.exact for one in known], dtype=bool)
        return losses, exact & np.isfinite(losses)

    @property
    def size(self) -> int:
        """The number of objectives."""
        return len(self._names)

    def hopeless(self, params: Mapping[str, Any]) -> bool:
        """Whether a condition on what is known exactly is broken."""
        return self._knowledge is not None and self._knowledge.hopeless(params)

    @property
    def conditional(self) -> bool:
        """Whether there are conditions at all."""
        return self._knowledge is not None and bool(self._knowledge.conditions)

    def settled(self, params: Mapping[str, Any]) -> frozenset[str]:
        """The conditions, as texts, of which `params` alone tell whether they are met."""
        return self._knowledge.settled(params) if self._knowledge else frozenset()


@dataclass(frozen=True)
class Fact:
    """What a trial's params alone tell.

    Args:
        point: (D,) in the unit cube.
        told: (m,) forecast losses, NaN where nothing is told.
        exact: (m,) bools, where they are exact.
        settled: Conditions that are told to be met or broken.
    """

    point: np.ndarray
    told: np.ndarray
    exact: np.ndarray
    settled: frozenset[str]


@dataclass(frozen=True)
class Evidence:
    """What is known of n trials.

    Args:
        numbers: Of the trials.
        points: (n, D) in the unit cube.
        losses: (n, m), NaN where there is none.
        errors: (n, m) standard errors of the losses, 0 where not known.
        told: (n, m) forecast losses, NaN where nothing is told.
        exact: (n, m) bools, where they are exact.
        complete: (n,) bools, trials that were trained to the end with a finite loss everywhere.
        feasible: (n,) bools, complete trials with a finite loss everywhere that meet every constraint.
        constraints: By name (n,) what must be at most 0, NaN where not known; only those that some trial broke and
            that some plan leaves open.
    """

    numbers: tuple[int, ...]
    points: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    told: np.ndarray
    exact: np.ndarray
    complete: np.ndarray
    feasible: np.ndarray
    constraints: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.numbers)


def gather(
    observations: Sequence[Observation],
    trials: Sequence[FrozenTrial],
    unit: UnitSpace,
    forecasts: Forecasts,
    known: dict[int, Fact | None],
) -> Evidence:
    """Put together what the models are given.

    Args:
        observations: In order of the trials' numbers.
        trials: The study's trials, by number.
        unit: The space; trials that are not of it are left out.
        forecasts: What plans tell.
        known: Points and forecasts by number, which is added to.
    """
    for one in observations:
        if one.number not in known:
            known[one.number] = _fact(one.params, unit, forecasts) if unit.holds(one.params) else None
    inside = [one for one in observations if known[one.number] is not None]
    losses, errors = levelled(inside, forecasts.size)
    usable = np.isfinite(losses).any(axis=1)
    inside = [one for one, use in zip(inside, usable, strict=True) if use]
    losses, errors = losses[usable], errors[usable]
    facts = [fact for one in inside if (fact := known[one.number]) is not None]
    count, size = losses.shape
    complete = np.array([one.fraction == 1.0 for one in inside], dtype=bool) & np.isfinite(losses).all(axis=1)
    unbroken = np.array([one.violation == 0.0 for one in inside], dtype=bool)
    return Evidence(
        numbers=tuple(one.number for one in inside),
        points=np.array([fact.point for fact in facts]).reshape(count, len(unit)),
        losses=losses,
        errors=errors,
        told=np.array([fact.told for fact in facts]).reshape(count, size),
        exact=np.array([fact.exact for fact in facts], dtype=bool).reshape(count, size),
        complete=complete,
        feasible=complete & unbroken,
        constraints=_constraints(inside, trials, facts),
    )


def failures(trials: Sequence[FrozenTrial], unit: UnitSpace, limit: int) -> dict[int, np.ndarray]:
    """Points (D,) of the latest trials that failed, by number."""
    found: dict[int, np.ndarray] = {}
    for trial in reversed(trials):
        if trial.state == TrialState.FAIL and len(found) < limit and unit.holds(trial.params):
            found[trial.number] = unit.encode(trial.params)
    return dict(sorted(found.items()))


def _fact(params: Mapping[str, Any], unit: UnitSpace, forecasts: Forecasts) -> Fact:
    return Fact(unit.encode(params), *forecasts.of(params), forecasts.settled(params))


def kept(observations: Sequence[Observation], limit: int) -> list[Observation]:
    """At most `limit` observations, in order: of the feasible front up to a share of them, and the latest.

    A Gaussian process costs the cube of its points.
    """
    if len(observations) <= limit:
        return list(observations)
    feasible = [
        index
        for index, one in enumerate(observations)
        if one.fraction == 1.0 and one.violation == 0.0 and np.isfinite(one.losses).all()
    ]
    front = np.zeros(0, dtype=int)
    if feasible:
        losses = np.array([observations[index].losses for index in feasible])
        mask = non_dominated(losses)
        # evenly along the first objective where there are too many
        front = np.array(feasible)[mask][np.argsort(losses[mask][:, 0], kind="stable")]
        most = int(FRONT_SHARE * limit)
        if len(front) > most:
            front = front[np.linspace(0, len(front) - 1, most).round().astype(int)]
    chosen = set(front.tolist())
    for index in range(len(observations) - 1, -1, -1):
        if len(chosen) >= limit:
            break
        chosen.add(index)
    return [observations[index] for index in sorted(chosen)]


def levelled(observations: Sequence[Observation], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n, m) and standard errors (n, m) as if every trial had been trained to the end.

    A stopped trial's losses are what complete ones that passed its last rung tell of its end; how far those lie from
    what they would tell of each other adds to the error. NaN where fewer than three complete trials tell.

    Args:
        observations: n of them.
        size: m, the number of objectives.
    """
    losses = np.array([one.losses for one in observations], dtype=float).reshape(-1, size)
    errors = np.array([one.errors for one in observations], dtype=float).reshape(-1, size)
    losses[~np.isfinite(losses)] = np.nan
    fractions = np.array([one.fraction for one in observations])
    for fraction in sorted({*fractions[fractions < 1.0].tolist()}):
        stopped = np.flatnonzero(fractions == fraction)
        known = [
            (one.rungs[fraction], losses[index])
            for index, one in enumerate(observations)
            if one.fraction == 1.0 and one.rungs and fraction in one.rungs
        ]
        rungs, ends = np.array(known, dtype=float).reshape(-1, 2, size).transpose(1, 2, 0)
        for column in range(size):
            told, deviations = projected(losses[stopped, column], rungs[column], ends[column])
            losses[stopped, column] = told
            errors[stopped, column] = np.hypot(errors[stopped, column], deviations)
    return losses, errors


def _constraints(
    observations: Sequence[Observation], trials: Sequence[FrozenTrial], facts: Sequence[Fact]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    # most studies have none
    broken = any(one.violation > 0.0 for one in observations)
    # what some plans settle and others leave open needs a model for the others
    settled = frozenset.intersection(*(fact.settled for fact in facts)) if facts else frozenset()
    stored: list[Mapping[str, Any]] = [trials[one.number].constraints for one in observations] if broken else []
    for name in dict.fromkeys(name for values in stored for name in values):
        values = np.array([float(one.get(name, np.nan)) for one in stored])
        values[~np.isfinite(values)] = np.nan
        if name not in settled and (values > 0.0).any():
            found[name] = values
    return found
