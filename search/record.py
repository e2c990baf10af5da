"""The study in its database: how trials are asked and told there, and what the record says of them."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..studies.conditions import measured_by
from ..studies.errors import RunError, StudyMismatchError
from ..studies.faults import nearest
from .engines.base import Standing
from .feasibility import score_numbers
from .fingerprint import compare
from .front import Front
from .hypervolume import HYPERVOLUME, hypervolume_history
from .observations import RUNGS
from .problem import CONTROL, Derived, Problem
from .repeats import combined
from .single_writer import SingleWriterStorage

__all__ = ["StudyRecord"]

FINGERPRINT, REFERENCE = "fingerprint", "reference_point"


class StudyRecord:
    """An Optuna study that this process alone writes to.

    Args:
        database: Where the study is, or will be.
        problem: The search.
        sampler: An Optuna sampler.

    Raises:
        StudyMismatchError: The database holds this study with other objectives, space, data or checkpoint.
    """

    def __init__(self, database: RDBStorage, problem: Problem, sampler: BaseSampler) -> None:
        self.problem = problem
        self._storage = SingleWriterStorage(database)
        self.warnings: list[str] = []
        directions = list(problem.directions.values())
        try:
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=problem.name,
                directions=[StudyDirection[direction.upper()] for direction in directions],
                sampler=sampler,
            )
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=problem.name, storage=self._storage, sampler=sampler)
        self._agree(directions)
        finished = [trial for trial in self.trials if trial.state.is_finished()]
        self._front = Front(self.study.directions, list(problem.directions), finished)
        self._rungs: list[list[Mapping[str, float]]] = [[] for _ in problem.rungs]
        for trial in finished:
            self._take_rungs(trial.user_attrs.get(RUNGS, ()))

    # reading

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    @property
    def finished(self) -> int:
        """How many trials are complete, stopped early or failed."""
        return sum(trial.state.is_finished() for trial in self.trials)

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return sum(trial.state == TrialState.FAIL for trial in self.trials)

    @property
    def running(self) -> list[FrozenTrial]:
        """Trials that were asked and not told."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @property
    def control(self) -> FrozenTrial | None:
        """Trial 0, None before it is asked."""
        trials = self.trials
        return trials[CONTROL] if trials else None

    @property
    def device_seconds(self) -> float:
        """Seconds of all finished trials together, as far as they are known."""
        return sum(float(trial.user_attrs.get("seconds") or 0.0) for trial in self.trials if trial.state.is_finished())

    @property
    def hypervolumes(self) -> list[float]:
        """Of the front after each complete trial, in the order in which they were told."""
        return hypervolume_history(self.trials)

    @property
    def front(self) -> tuple[int, ...]:
        """Numbers of the feasible non-dominated trials."""
        return self._front.numbers

    @property
    def hypervolume(self) -> float | None:
        """Hypervolume of the front against the stored reference point, None before the control is told."""
        reference = self.study.user_attrs.get(REFERENCE)
        return None if reference is None else self._front.hypervolume(reference)

    @property
    def standing(self) -> Standing:
        """What a trial that is handed out now is compared with."""
        front = self._front.values if self.problem.repeats > 1 else ()
        return Standing(front, tuple(map(tuple, self._rungs)))

    # writing

    def ask(self) -> FrozenTrial:
        """Create the next trial, whole, in one transaction: the control, then the seeds, then what the sampler says."""
        number = len(self.trials)
        if number == CONTROL:
            # written directly, so that no sampler ever takes it for one of its own
            template = create_trial(state=TrialState.RUNNING, user_attrs={"role": "control"})
            return self._storage.get_trial(self._storage.create_new_trial(self.study._study_id, template))
        seeds = self.problem.seeds
        if number <= len(seeds):
            trial = self.study.ask()
            params = seeds[number - 1]
            for name, space in self.problem.distributions.items():
                value = space.to_internal_repr(params[name])
                self._storage.set_trial_param(trial._trial_id, name, value, space)
            trial.set_user_attr("role", "seed")
        else:
            trial = self.study.ask(dict(self.problem.distributions))
            trial.set_user_attr("role", "search")
        return self._storage.get_trial(self._storage.flush(trial._trial_id))

    def tell(self, number: int, result: Mapping[str, Any]) -> FrozenTrial:
        """Finish a trial with its result, in one transaction.

        Scores are derived from the raw numbers of the trial and the control. A score, or a detail that a condition
        names, that is not a finite number fails the trial, as does a result that says so itself.

        Args:
            number: A running trial.
            result: Content of its result.json.
        """
        # as a resumed run would read it
        result = json.loads(json.dumps(result))
        for key in ("plan", "achieved", "seconds", "parity", "deviations", RUNGS):
            if result.get(key):
                self._note(number, key, _totals(result[key]) if key == "achieved" else result[key])
        state = result.get("state")
        if state == "pruned":
            self._note(number, "reason", str(result.get("reason") or "it was behind"))
            return self._finish(number, TrialState.PRUNED)
        reason = None if state == "complete" else str(result.get("reason") or "no reason given")
        scores: dict[str, dict[str, Any]] = {}
        if reason is None:
            raw = result.get("raw") or {}
            self._note(number, "raw", raw)
            scores, reason = self._scores(number, raw, result.get("repeats") or ())
        if reason is not None:
            self._note(number, "reason", reason)
            return self._finish(number, TrialState.FAIL)
        self._note(number, "scores", scores)
        numbers = score_numbers(scores)
        controls = self._control_numbers() if number != CONTROL else numbers
        violations = {
            str(condition): condition.violation(numbers[condition.metric], controls.get(condition.metric))
            for condition in self.problem.conditions
        }
        for name, violation in violations.items():
            self._constrain(number, name, violation)
        values = [float(scores[name]["value"]) for name in self.problem.directions]
        if all(violation <= 0.0 for violation in violations.values()):
            self._front.add(number, values)
        reference = self._reference(scores) if number == CONTROL else self.study.user_attrs[REFERENCE]
        self._note(number, HYPERVOLUME, self._front.hypervolume(reference))
        trial = self._finish(number, TrialState.COMPLETE, values)
        if number == CONTROL:
            self.study.set_user_attr(REFERENCE, reference)
        return trial

    # what the public part stands on

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.trial_at(self.study._study_id, number)

    def _note(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._trial(number)._trial_id, key, value)

    def _finish(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> FrozenTrial:
        self.study.tell(number, values, state=None if state == TrialState.COMPLETE else state)
        trial = self._trial(number)
        self._take_rungs(trial.user_attrs.get(RUNGS, ()))
        return trial

    def _take_rungs(self, reached: Sequence[Mapping[str, Any]]) -> None:
        for known, rung in zip(self._rungs, reached, strict=False):
            known.append(rung["values"])

    def _constrain(self, number: int, name: str, violation: float) -> None:
        # not through `optuna.Trial`, which has the sampler prepare the trial anew, the control too
        template = create_trial(state=TrialState.RUNNING, constraints={name: violation})
        for key, value in template.system_attrs.items():
            self._storage.set_trial_system_attr(self._trial(number)._trial_id, key, value)

    def _agree(self, directions: Sequence[str]) -> None:
        stored = self.study.user_attrs.get(FINGERPRINT)
        if stored is not None:
            self.warnings = compare(stored, self.problem.fingerprint)
        elif self.trials:
            raise RunError(
                f"the database must hold a study of Forgefront; found {self.problem.name!r} of another program in it."
            )
        found = [direction.name.lower() for direction in self.study.directions]
        if found != list(directions):
            raise StudyMismatchError(
                f"`objectives` must keep their directions ({', '.join(found)}); found {', '.join(directions)}."
            )
        if stored is None:
            with warnings.catch_warnings():
                # marked experimental since Optuna 3.2; every front end reads it
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.study.set_metric_names(list(self.problem.directions))
        if stored != self.problem.fingerprint and not self.warnings:
            self.study.set_user_attr(FINGERPRINT, self.problem.fingerprint)
        # a run that died between telling the control and fixing the reference point
        control = self.control
        if control is not None and control.state == TrialState.COMPLETE and REFERENCE not in self.study.user_attrs:
            self.study.set_user_attr(REFERENCE, self._reference(control.user_attrs["scores"]))

    def _scores(
        self, number: int, raw: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, dict[str, Any]], str | None]:
        """Scores by metric as they are stored, and why they are of no use if they are not."""
        control_raw = raw if number == CONTROL else self._trial(CONTROL).user_attrs["raw"]
        try:
            trainings = [self.problem.derive(each, control_raw) for each in (raw, *repeats)]
            stored = {name: combined([_score(scores[name]) for scores in trainings]) for name in trainings[0]}
        except Exception as error:  # a part of the user's may fail in any way, and must not stop the study
            return {}, f"its scores could not be derived ({type(error).__name__}: {error})"
        values = score_numbers(stored)
        needed = {*self.problem.directions, *(condition.metric for condition in self.problem.conditions)}
        wrong = [
            f"{name} is {values[name]}" if name in values else _missing(name, stored)
            for name in sorted(needed)
            if not math.isfinite(values.get(name, math.nan))
        ]
        # finite where this was a condition already when the control was told
        controls = values if number == CONTROL else self._control_numbers()
        relative = {condition.metric for condition in self.problem.conditions if condition.relative_to_control}
        wrong += [f"the control's {name} is missing" for name in sorted(relative & {*values}) if name not in controls]
        if wrong:
            return {}, "a score must be a finite number: " + ", ".join(wrong)
        if repeats:
            self._note(number, "repeats", [_values(scores) for scores in trainings])
        return stored, None

    def _control_numbers(self) -> dict[str, float]:
        return score_numbers(self._trial(CONTROL).user_attrs["scores"])

    def _reference(self, control: Mapping[str, Mapping[str, Any]]) -> list[float]:
        return [float(self.problem.worst(name, control[name]["value"])) for name in self.problem.directions]


def _values(scores: Mapping[str, Derived]) -> dict[str, float]:
    return {name: float(score.value) for name, score in scores.items()}


def _score(score: Derived) -> dict[str, Any]:
    if dataclasses.is_dataclass(score) and not isinstance(score, type):
        return dataclasses.asdict(score)
    return {"value": score.value}


def _missing(name: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    owner = measured_by(name, scores)
    if owner is None or owner == name:
        return f"{name} is missing"
    known = [key for key in score_numbers({owner: scores[owner]}) if key not in (owner, f"{owner}_se")]
    # by the detail alone, for all begin with the metric
    close = nearest(name.removeprefix(f"{owner}_"), [key.removeprefix(f"{owner}_") for key in known])
    hint = f", did you mean {owner}_{close}?" if close else f" ({owner} has {', '.join(known) or 'no details'})"
    return f"{name} is missing{hint}"


def _totals(achieved: Any) -> Any:
    # layers are in the trial's folder; the record keeps what tables show
    return achieved.get("totals", achieved) if isinstance(achieved, Mapping) else achieved
