"""One trial, from params to result.json: a pure function of the study, the params and the trial's number."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..compression.attach import attach
from ..compression.bake import bake
from ..compression.candidate import Candidate, save_candidate
from ..compression.targets.base import Artefact, Target
from ..compression.targets.parity import check_parity
from ..objectives.base import Objective, Score, Subject
from ..objectives.score import derive_all, measure_all
from ..spaces.known import ladder
from ..spaces.layers import LayerInfo, inspect_layers
from ..spaces.plan import TrialPlan
from ..spaces.space import SearchSpace
from ..studies.conditions import parse_condition
from ..studies.errors import ForgefrontError, TrialError
from ..studies.load import load_study
from ..studies.registry import bind, resolve
from ..studies.seeds import Seed, trial_seed
from ..trainers.device import resolve_device
from ..trainers.fit import Progress, fit
from ..trainers.tasks.base import Task
from .engines.base import Report, TrialOutcome, TrialProgress, TrialRequest, threads_per_worker
from .fingerprint import fingerprint
from .problem import Derived, Problem
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["TrialContext", "artefact_from_dict", "artefact_to_dict"]

PARITY_IMAGES = 256
CONTROL = 0


class TrialContext:
    """All that trials of a study share in one process, each part built when first needed; call it to run a trial.

    Args:
        run_folder: The run's folder.
        workers: How many processes share this machine's cores.
        study: The study; None to read the run's frozen study file.
    """

    def __init__(self, run_folder: Path, workers: int = 1, study: Study | None = None) -> None:
        self.folder = RunFolder(run_folder)
        self.study = study or load_study(self.folder.study_file)
        self.threads = self.study.training.threads or threads_per_worker(workers)

    @functools.cached_property
    def device(self) -> torch.device:
        """Where models are trained."""
        return resolve_device(self.study.training.device)

    @functools.cached_property
    def task(self) -> Task:
        """The task, with its data loaded."""
        task: Task = resolve("task", self.study.task.type)(self.study, self.device)
        return task

    @functools.cached_property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The dense model's compressible layers."""
        return inspect_layers(self.task.build_model(), self.task.input_shape)

    @functools.cached_property
    def space(self) -> SearchSpace:
        """What may vary."""
        return SearchSpace(self.study.space, self.study.training, self.layers)

    @functools.cached_property
    def objectives(self) -> list[Objective]:
        """Objectives, then metrics that are only recorded."""
        parts = {"objectives": self.study.objectives, "metrics": self.study.metrics}
        return [
            bind("objective", part.name, part.options, f"{key}[{index}]")()
            for key, sections in parts.items()
            for index, part in enumerate(sections)
        ]

    @functools.cached_property
    def targets(self) -> list[Target]:
        """The study's targets, found to be usable here."""
        targets: list[Target] = [
            bind("target", part.name, part.options, f"target[{index}]")()
            for index, part in enumerate(self.study.target)
        ]
        for target in targets:
            target.check_available()
        return targets

    @property
    def directions(self) -> dict[str, str]:
        """Objective to ``"minimize"`` or ``"maximize"``: the study's word, or else the objective's own."""
        pairs = zip(self.study.objectives, self.objectives, strict=False)
        return {objective.name: section.direction or objective.direction for section, objective in pairs}

    def problem(self) -> Problem:
        """The search, as a coordinator needs to know it; builds everything, so that wrong input shows up here."""
        objectives = {objective.name: objective for objective in self.objectives}
        assert self.targets

        def worst(name: str, control: Derived) -> float:
            return objectives[name].worst(control.value)

        inputs = self.task.fingerprint()
        return Problem(
            name=self.study.study.name,
            directions=self.directions,
            distributions=self.space.distributions,
            derive=self.derive,
            worst=worst,
            seeds=ladder(self.space, self.study.search.seeds),
            conditions=[parse_condition(text) for text in self.study.constraints],
            fingerprint=fingerprint(self.study, inputs, threads=self.threads, device=str(self.device)),
        )

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> dict[str, Score]:
        """Scores by metric, from a trial's raw numbers and the control's."""
        return derive_all(self.objectives, raw, control_raw)

    def plan(self, request: TrialRequest) -> TrialPlan:
        """The plan that a request means."""
        return self.space.control() if request.role == "control" else self.space.decode(request.params)

    def __call__(self, request: TrialRequest, report: Report) -> TrialOutcome:
        """Run one trial and publish its folder, result.json last; a failure is a result too."""
        torch.set_num_threads(self.threads)
        started = time.perf_counter()
        attempt = self.folder.attempt(request.number)
        result: dict[str, Any] = {
            "number": request.number,
            "role": request.role,
            "state": "complete",
            "reason": None,
            "params": dict(request.params),
        }
        try:
            result |= self._run(request, attempt, report)
        except Exception as error:  # whatever breaks one trial must not break the study
            result |= {"state": "failed", "reason": _reason(error)}
            (attempt / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        result["seconds"] = time.perf_counter() - started
        self.folder.publish(attempt, request.number, result)
        return TrialOutcome(request.number, result)

    def _run(self, request: TrialRequest, attempt: Path, report: Report) -> dict[str, Any]:
        task, training = self.task, self.study.training
        seed = trial_seed(self.study.study.seed, request.number)
        plan = self.plan(request)

        def on_progress(progress: Progress) -> None:
            place = (progress.epoch, progress.epochs, progress.step, progress.steps)
            report(TrialProgress(request.number, *place, loss=progress.loss))

        attached = attach(
            task.starting_model(seed.child("model")),
            plan,
            self.layers,
            task.example,
            start=training.compression_start,
            end=training.compression_end,
            seed=seed.child("attach"),
        )
        fitted = fit(task, attached, plan.recipe, training, seed=seed.child("fit"), on_progress=on_progress)
        candidate = bake(attached, task.build_model, self.layers, task.example)
        save_candidate(candidate, attempt)
        artefacts = {target.name: target.export(candidate, attempt, task.example) for target in self.targets}
        parity = {target.name: self._parity(candidate, target, artefacts[target.name]) for target in self.targets}
        raw = measure_all(self.objectives, self._subject(request, candidate, artefacts, seed))
        return {
            "plan": plan.to_dict(),
            "raw": raw,
            "achieved": candidate.achieved,
            "history": fitted.history,
            "deviations": [*candidate.achieved.get("deviations", []), *fitted.deviations],
            "parity": parity,
            "artefacts": {name: artefact_to_dict(artefact) for name, artefact in artefacts.items()},
        }

    def _subject(
        self, request: TrialRequest, candidate: Candidate, artefacts: dict[str, Artefact], seed: Seed
    ) -> Subject:
        return Subject(
            candidate=candidate,
            task=self.task,
            targets=self.targets,
            artefacts=artefacts,
            control_artefacts=artefacts if request.role == "control" else self.control_artefacts(),
            layers=self.layers,
            split="validation",
            seed=seed.child("measure"),
            study_seed=self.study.study.seed,
        )

    def control_artefacts(self) -> dict[str, Artefact]:
        """The dense control's exported files.

        Raises:
            TrialError: Trial 0 has not published any.
        """
        result = self.folder.result(CONTROL) or {}
        if result.get("state") != "complete":
            raise TrialError(f"the control's artefacts must be in {self.folder.trial(CONTROL)}; found none.")
        folder = self.folder.trial(CONTROL)
        return {name: artefact_from_dict(stored, folder) for name, stored in result["artefacts"].items()}

    def _parity(self, candidate: Candidate, target: Target, artefact: Artefact) -> dict[str, Any]:
        batch = next(self.task.evaluation("validation", PARITY_IMAGES).batches(PARITY_IMAGES))
        with torch.inference_mode():
            simulated = candidate.model(batch.images).float().cpu().numpy()
        exported = target.run(artefact, batch.images.cpu().numpy())
        return check_parity(simulated, exported, predictions=self.task.predictions).to_dict()


def artefact_to_dict(artefact: Artefact) -> dict[str, Any]:
    """An artefact as JSON values; its path is its file's name, because a trial's folder moves when it is published."""
    return {
        "target": artefact.target,
        "path": artefact.path.name,
        "bytes": artefact.bytes,
        "zipped_bytes": artefact.zipped_bytes,
        "details": artefact.details,
    }


def artefact_from_dict(stored: Mapping[str, Any], folder: Path) -> Artefact:
    """The artefact that `artefact_to_dict` stored, in a trial's folder."""
    return Artefact(**{**stored, "path": folder / stored["path"]})


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ForgefrontError):
        return text
    return f"{type(error).__name__}: {text[:300]}"
