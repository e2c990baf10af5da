"""One trial's way from a request to result.json: trained, measured, perhaps stopped early, perhaps repeated."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compression.attach import Attached
from ..compression.bake import bake
from ..compression.targets.base import Artefact
from ..studies.errors import ForgefrontError, RunError
from ..studies.seeds import Seed, trial_seed
from ..trainers.checkpoint import Checkpoints
from ..trainers.rungs import Rungs, StoppedError
from ..trainers.training_run import Progress
from .disk import disk_fails
from .early_stopping import goes_on, joins_front
from .engines.base import Report, TrialOutcome, TrialProgress, TrialRequest
from .rung_values import FewImages, NotExported, rung_values

if TYPE_CHECKING:
    from .trial import TrialContext

__all__ = ["TrialRun"]


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

    def outcome(self) -> TrialOutcome:
        """Run it and publish its folder, result.json last.

        Raises:
            RunError: The disk is full or fails.
        """
        started, number = time.perf_counter(), self.request.number
        attempt: Path | None = None
        try:
            attempt = self.folder.attempt(number)
            result = self._result(attempt)
            result["seconds"] = time.perf_counter() - started
            self.folder.publish(attempt, number, result)
        except Exception as error:  # a disk that fails stops the study; what breaks one trial is its result
            if attempt is not None:
                shutil.rmtree(attempt, ignore_errors=True)
            if not disk_fails(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise RunError(
                f"{self.folder.path} must be writable while a study runs; found that it is not ({reason}). What had "
                "finished is stored: mend it, then resume."
            ) from error
        return TrialOutcome(number, result)

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
            made = self._run(attempt)
            # what a part of the user's measures must be JSON, or this trial fails
            json.dumps(made)
            return result | made
        except StoppedError as stop:
            plan = self.context.plan(request).to_dict()
            return result | {"state": "pruned", "reason": str(stop), "plan": plan, "rungs": stop.rungs}
        except Exception as error:  # whatever breaks one trial must not break the study
            if disk_fails(error):
                raise
            (attempt / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            return result | {"state": "failed", "reason": _reason(error)}

    def _run(self, attempt: Path) -> dict[str, Any]:
        # before the training, which would be in vain without them
        control = None if self.request.role == "control" else self.context.control_artefacts()
        found = self._train_and_measure(control, self.seed, attempt, rungs=self._rungs())
        repeats: list[dict[str, Any]] = []
        if self.study.search.repeats > 1 and self._joins_front(found["raw"]):
            for number in range(1, self.study.search.repeats):
                folder = attempt / f"repeat-{number}"
                folder.mkdir()
                seed = self.seed.child("repeat").child(number)
                repeats.append(self._train_and_measure(control, seed, folder, repeat=number)["raw"])
                # the first one is the trial's candidate
                shutil.rmtree(folder)
        return {**found, "repeats": repeats} if repeats else found

    def _train_and_measure(
        self,
        control: Mapping[str, Artefact] | None,
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

        made = context.make(
            context.plan(self.request),
            seed,
            folder,
            on_progress,
            checkpoints=Checkpoints(self.folder.checkpoint(number, repeat)),
            rungs=rungs,
            halvings=self.request.halvings,
        )
        artefacts = made.artefacts
        subject = context.subject(made.candidate, artefacts, control or artefacts, seed=seed, split="validation")
        raw, deviations = context.measured(subject)
        for target in context.targets:
            target.release(artefacts[target.name])
        found = made.to_dict()
        return {**found, "deviations": [*found["deviations"], *deviations], "raw": raw}

    def _joins_front(self, raw: Mapping[str, Any]) -> bool:
        """Whether the candidate would be on the front as it was when the trial was handed out."""
        directions = self.context.directions
        scores = self.context.derive(raw, raw if self.request.role == "control" else self.context.control_raw())
        return joins_front({name: scores[name].value for name in directions}, self.request.standing, directions)

    def _rungs(self) -> Rungs | None:
        """Where and how the trial is compared with others in training; the control, first of all, is not."""
        section = self.study.search.early_stopping
        if section is None or self.request.role == "control":
            return None
        context, directions = self.context, self.context.directions
        control_raw, forecasts = context.control_raw(), context.knowledge.forecast(self.request.params)
        task = FewImages.of(context.task, section.images)

        def look(index: int, fraction: float, step: int, attached: Attached) -> tuple[dict[str, Any], str | None]:
            candidate = bake(attached, context.task.build_model, context.layers, context.task.example)
            seed = self.seed.child("rung").child(index)
            subject = context.subject(candidate, NotExported(), NotExported(), seed=seed, split="validation")
            subject = dataclasses.replace(subject, task=task)
            values = rung_values(context.rung_objectives, subject, forecasts, control_raw)
            standing = self.request.standing.rungs
            others = standing[index] if index < len(standing) else ()
            reason = None
            if self.request.role == "search" and not goes_on(
                values, others, directions, keep=section.keep, warm_up=section.warm_up
            ):
                reason = f"stopped after {100 * fraction:g} % of its training, behind others of {len(others)} there"
            return {"fraction": fraction, "step": step, "values": values}, reason

        return Rungs(tuple(section.rungs), look)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ForgefrontError):
        return text
    return f"{type(error).__name__}: {text[:300]}"
