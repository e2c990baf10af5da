"""One trial's way from a request to result.json: trained, measured, perhaps stopped early, perhaps repeated."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..compression.attach import Attached
from ..compression.bake import bake
from ..compression.targets.base import Artefact
from ..studies.conditions import parse_condition
from ..studies.errors import DeviceBusyError, ForgefrontError, RunError, TrialError
from ..studies.seeds import Seed, trial_seed
from ..trainers.checkpoint import Checkpoints
from ..trainers.memory import is_out_of_memory
from ..trainers.rungs import Rungs, StoppedError
from ..trainers.training_run import Progress
from .disk import unwritable_path
from .early_stopping import goes_on, joins_front
from .engines.base import Report, TrialOutcome, TrialProgress, TrialRequest
from .feasibility import meets, score_numbers
from .halving import measured_in_smaller_batches
from .problem import CONTROL
from .rung_values import FewImages, NotExported, rung_deviations, rung_values
from .trial import TrialContext

__all__ = ["TrialRun", "Trials"]


class _ControlUnusableError(RunError):
    """What every trial is measured against cannot be read."""


@dataclass(frozen=True)
class _Control:
    """What a trial is measured against: the control's exported files and its raw numbers."""

    artefacts: Mapping[str, Artefact]
    raw: Mapping[str, Any]


class Trials(TrialContext):
    """A study's real trials in this process: what they share, and called, one of them."""

    def __call__(self, request: TrialRequest, report: Report) -> TrialOutcome:
        """Run one trial and publish its folder, result.json last; a failure is a result too.

        Raises:
            RunError: The disk is full or fails, or the control's files cannot be used. The trial has no result then,
                and can run again.
        """
        torch.set_num_threads(self.threads)
        return TrialRun(self, request, report).outcome()


class TrialRun:
    """A request being carried out.

    Args:
        context: What the study's trials share.
        request: The trial.
        report: Told how far it is.
    """

    def __init__(self, context: TrialContext, request: TrialRequest, report: Report) -> None:
        self.context, self.request, self.report = context, request, report
        self.study, self.folder = context.study, context.folder
        self.seed = trial_seed(self.study.study.seed, request.number)
        self._checkpoints: list[Checkpoints] = []
        self._looked_at: dict[str, Any] = {}

    def outcome(self) -> TrialOutcome:
        """Run it and publish its folder, result.json last.

        Raises:
            RunError: The disk is full or fails, or the control's files cannot be used: no trial would fare better.
        """
        started, number = time.perf_counter(), self.request.number
        attempt: Path | None = None
        try:
            attempt = self.folder.attempt(number)
            result = self._result(attempt)
            before = sum(checkpoints.seconds_before for checkpoints in self._checkpoints)
            result["seconds"] = before + time.perf_counter() - started
            self.folder.publish(attempt, number, result)
        except Exception as error:  # a disk that fails stops the study; what breaks one trial is its result
            # asked before what it wrote is removed, and the disk has room again
            failed = None if isinstance(error, RunError) else self._disk_fails(error)
            if attempt is not None:
                shutil.rmtree(attempt, ignore_errors=True)
            if failed is None:
                raise
            raise failed from error
        return TrialOutcome(number, result)

    def _control(self) -> _Control:
        """What the trial is measured against.

        Raises:
            RunError: A file of the control is missing or damaged.
            Exception: Memory is short.
        """
        try:
            artefacts, raw = self.context.control_artefacts(), self.context.control_raw()
            for artefact in artefacts.values():
                if artefact.path.stat().st_size == 0:
                    raise RunError(f"{artefact.path.name} is empty")
        except Exception as error:  # whatever is wrong with them is wrong for every trial
            if is_out_of_memory(error):
                raise
            where = self.folder.trial(CONTROL)
            raise _ControlUnusableError(
                f"`run` must hold the control's files, which every trial is measured against; found {where} unusable "
                f"({_reason(error)})."
            ) from error
        return _Control(artefacts, raw)

    def _disk_fails(self, error: BaseException) -> RunError | None:
        """What to say where `error` means that the run's folder cannot be written; None where it does not."""
        control = self.folder.trial(CONTROL)
        room = sum(path.stat().st_size for path in control.glob("*") if path.is_file())
        path = unwritable_path(error, self.folder.path, room=room)
        if path is None:
            return None
        reason = " ".join(str(error).split())[:200]
        return RunError(
            f"{path} must be writable while a study runs; found that it is not ({reason}). What had finished is "
            "stored: mend it, then resume."
        )

    def _result(self, attempt: Path) -> dict[str, Any]:
        """Content of result.json, whatever becomes of the trial; a failing disk is passed on."""
        request = self.request
        result: dict[str, Any] = {
            "number": request.number,
            "role": request.role,
            "state": "complete",
            "reason": None,
            "params": dict(request.params),
        }
        try:
            # before the training, which would be in vain without it
            made = self._run(attempt, None if request.role == "control" else self._control())
            # what a part of the user's measures must be JSON, or this trial fails
            json.dumps(made)
            return result | made
        except _ControlUnusableError:
            raise
        except StoppedError as stop:
            deviations = [*self._looked_at.get("deviations", []), *stop.deviations, *rung_deviations(stop.rungs)]
            stopped = {
                "state": "pruned",
                "reason": str(stop),
                "plan": self.context.plan(request).to_dict(),
                "achieved": self._looked_at,
                "history": stop.history,
                "deviations": deviations,
                "rungs": stop.rungs,
            }
            return result | stopped
        except Exception as error:  # whatever breaks one trial must not break the study
            # the machine's fault, and no trial after it would fare better
            if isinstance(error, DeviceBusyError):
                raise
            if (failed := self._disk_fails(error)) is not None:
                raise failed from error
            (attempt / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            return result | {"state": "failed", "reason": _reason(error)}

    def _run(self, attempt: Path, control: _Control | None) -> dict[str, Any]:
        found = self._train_and_measure(control, self.seed, attempt, rungs=self._rungs(control))
        # the control's first training is what all others are stated against
        if self.study.search.repeats == 1 or control is None or not self._joins_front(found["raw"], control):
            return found
        repeats: list[dict[str, Any]] = []
        deviations: list[str] = found["deviations"]
        # such as rounded channel counts, which follow from the plan in every training
        planned = found["achieved"].get("deviations", [])
        for number in range(1, self.study.search.repeats):
            folder = attempt / f"repeat-{number}"
            folder.mkdir()
            seed = self.seed.child("repeat").child(number)
            try:
                again = self._train_and_measure(control, seed, folder, repeat=number)
                self._check_finite(again["raw"], control)
            except Exception as error:  # what has been trained counts
                if isinstance(error, DeviceBusyError) or self._disk_fails(error) is not None:
                    raise
                deviations.append(f"repeat {number} failed: {_reason(error)}")
            else:
                repeats.append(again["raw"])
                deviations += [f"repeat {number}: {line}" for line in again["deviations"] if line not in planned]
            # the first one is the trial's candidate
            shutil.rmtree(folder)
        return {**found, "repeats": repeats} if repeats else found

    def _train_and_measure(
        self,
        control: _Control | None,
        seed: Seed,
        folder: Path,
        *,
        rungs: Rungs | None = None,
        repeat: int = 0,
    ) -> dict[str, Any]:
        """One training and its raw numbers, as result.json keeps them."""
        context, number = self.context, self.request.number

        def on_progress(progress: Progress) -> None:
            place = (progress.epoch, progress.epochs, progress.step, progress.steps)
            self.report(TrialProgress(number, *place, loss=progress.loss))

        checkpoints = Checkpoints(self.folder.checkpoint(number, repeat))
        self._checkpoints.append(checkpoints)
        made = context.make(
            context.plan(self.request),
            seed,
            folder,
            on_progress,
            checkpoints=checkpoints,
            rungs=rungs,
            halvings=self.request.halvings,
        )
        artefacts = made.artefacts
        against = artefacts if control is None else control.artefacts
        subject = context.subject(made.candidate, artefacts, against, seed=seed, split="validation")
        raw, deviations = context.measured(subject)
        for target in context.targets:
            target.release(artefacts[target.name])
        found = made.to_dict()
        return {**found, "deviations": [*found["deviations"], *deviations], "raw": raw}

    def _numbers(self, raw: Mapping[str, Any], control: _Control) -> dict[str, float]:
        scores = self.context.derive(raw, control.raw)
        return score_numbers({name: score.to_dict() for name, score in scores.items()})

    def _joins_front(self, raw: Mapping[str, Any], control: _Control) -> bool:
        """Whether the candidate is feasible and would be on the front as it was when the trial was handed out."""
        numbers = self._numbers(raw, control)
        conditions = [parse_condition(text) for text in self.study.constraints]
        if not meets(conditions, numbers, self._numbers(control.raw, control) if conditions else {}):
            return False
        return joins_front(numbers, self.request.standing, self.context.directions)

    def _check_finite(self, raw: Mapping[str, Any], control: _Control) -> None:
        """Raise TrialError for a training without which the mean over all is a number, and with which it is not."""
        numbers = self._numbers(raw, control)
        conditions = [parse_condition(text).metric for text in self.study.constraints]
        for name in [*self.context.directions, *conditions]:
            if not math.isfinite(numbers.get(name, math.nan)):
                raise TrialError(f"{name} is {numbers.get(name, 'missing')}")

    def _rungs(self, control: _Control | None) -> Rungs | None:
        """Where and how the trial is compared with others in training; the control, first of all, is not."""
        section = self.study.search.early_stopping
        if section is None or control is None:
            return None
        context, directions = self.context, self.context.directions
        forecasts = context.knowledge.forecast(self.request.params)
        task = FewImages.of(context.task, section.images)

        def look(index: int, fraction: float, step: int, attached: Attached) -> tuple[dict[str, Any], str | None]:
            candidate = bake(attached, context.task.build_model, context.layers, context.task.example)
            seed = self.seed.child("rung").child(index)
            subject = context.subject(candidate, NotExported(), NotExported(), seed=seed, split="validation")
            values, deviations = measured_in_smaller_batches(
                lambda part: rung_values(context.rung_objectives, part, forecasts, control.raw),
                dataclasses.replace(subject, task=task),
            )
            self._looked_at = candidate.achieved
            standing = self.request.standing.rungs
            others = standing[index] if index < len(standing) else ()
            reason = None
            if self.request.role == "search" and not goes_on(
                values, others, directions, keep=section.keep, warm_up=section.warm_up
            ):
                reason = f"stopped after {100 * fraction:g} % of its training, behind others of {len(others)} there"
            found = {"fraction": fraction, "step": step, "values": values}
            return {**found, "deviations": deviations} if deviations else found, reason

        return Rungs(tuple(section.rungs), look)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ForgefrontError):
        return text
    return f"{type(error).__name__}: {text[:300]}"
