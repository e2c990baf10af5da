"""One trial, from params to result.json: a pure function of the study, the params and the trial's number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..compression.attach import Attached, attach
from ..compression.bake import bake
from ..compression.candidate import Candidate, load_candidate, save_candidate
from ..compression.targets import exclusive
from ..compression.targets.base import Artefact, Target
from ..compression.targets.cost_table import CostTable
from ..objectives.base import Objective, Score, Subject
from ..objectives.score import derive_all, measure_all
from ..spaces.known import ladder
from ..spaces.layers import LayerInfo, inspect_layers
from ..spaces.plan import TrialPlan
from ..spaces.space import SearchSpace
from ..studies.conditions import measured_by, parse_condition
from ..studies.errors import InputError, RunError
from ..studies.load import load_study
from ..studies.registry import bind, resolve
from ..studies.seeds import Seed
from ..trainers.checkpoint import Checkpoints
from ..trainers.device import resolve_device
from ..trainers.fit import FitResult, Progress, fit, training_steps
from ..trainers.rungs import Rungs, check_rungs
from ..trainers.tasks.base import SplitName, Task, to_float
from .cost import cost_inputs, needs_cost_table, read_cost_table
from .engines.base import TrialRequest, threads_per_worker
from .fingerprint import compare, fingerprint
from .halving import in_smaller_batches, measured_in_smaller_batches
from .knowledge import Knowledge
from .problem import CONTROL, Problem
from .run_folder import RunFolder
from .rung_values import rung_deviations
from .study_knowledge import study_knowledge

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["Made", "TrialContext"]

PARITY_IMAGES = 256
MEASURED = "objectives"


@dataclass(frozen=True)
class Made:
    """A plan carried out.

    Args:
        candidate: The trained, baked model.
        artefacts: Its exported file for each target.
        parity: How closely each agrees with the candidate.
        fitted: The training's history and deviations.
    """

    candidate: Candidate
    artefacts: dict[str, Artefact]
    parity: dict[str, dict[str, Any]]
    fitted: FitResult

    def to_dict(self) -> dict[str, Any]:
        """What result.json keeps of it."""
        return {
            "plan": self.candidate.plan.to_dict(),
            "achieved": self.candidate.achieved,
            "history": self.fitted.history,
            "deviations": [
                *self.candidate.achieved.get("deviations", []),
                *self.fitted.deviations,
                *rung_deviations(self.fitted.rungs),
            ],
            "parity": self.parity,
            "artefacts": {name: artefact.to_dict() for name, artefact in self.artefacts.items()},
            **({"rungs": self.fitted.rungs} if self.fitted.rungs else {}),
        }


class TrialContext:
    """All that trials of a study share in one process, each part built when first needed; `trial_run.Trials` runs them.

    Args:
        run_folder: The run's folder.
        workers: How many processes share this machine's cores.
        study: The study; None to read the run's frozen study file.
    """

    def __init__(self, run_folder: Path, workers: int = 1, study: Study | None = None) -> None:
        self.folder = RunFolder(run_folder)
        self.study = study or load_study(self.folder.study_file)
        self.threads = self.study.training.threads or threads_per_worker(workers)
        self._control_artefacts: dict[str, Artefact] = {}

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
        pretrained = self.study.task.model.weights is not None
        return SearchSpace(self.study.space, self.study.training, self.layers, pretrained=pretrained)

    @functools.cached_property
    def cost_table(self) -> CostTable | None:
        """What learned masks count as latency, as it was measured when the run began; None where none is needed."""
        return read_cost_table(self.folder.path) if needs_cost_table(self.study) else None

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        """What is known of the search before anything is trained."""
        return study_knowledge(
            self.study,
            self.space,
            self.layers,
            self.objectives,
            build_model=self.task.build_model,
            example=self.task.example,
            cost_table=lambda: self.cost_table,
        )

    @functools.cached_property
    def objectives(self) -> list[Objective]:
        """Objectives, then metrics that are only recorded."""
        return self._make_objectives()

    @functools.cached_property
    def rung_objectives(self) -> list[Objective]:
        """Those that are searched, for rungs; others than those that measure at the end, which keep their images."""
        return self._make_objectives()[: len(self.study.objectives)]

    def _make_objectives(self) -> list[Objective]:
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

    def problem(self, split: SplitName | None = "validation") -> Problem:
        """The search, as a coordinator needs to know it; builds everything, so that wrong input shows up here.

        Args:
            split: Which images will be scored; None where none will be, and no file that objectives read is looked for.
        """
        objectives = {objective.name: objective for objective in self.objectives}
        # found usable here, or told in one line, before anything is trained
        space = self.study.space
        for target in self.targets:
            target.check_activation_bits((8,) if space.techniques else space.activation_bits or ())
        conditions = [parse_condition(text) for text in self.study.constraints]
        for condition in conditions:
            if measured_by(condition.metric, objectives) is None:
                known = ", ".join(objectives)
                raise InputError(
                    f"`constraints` must be on what the study measures ({known}); found {condition.metric!r}."
                )

        def worst(name: str, control: float) -> float:
            return objectives[name].worst(control)

        inputs = {**self.task.fingerprint(), **cost_inputs(self.folder.path, self.study)}
        read = {} if split is None else {name: objective.inputs(split) for name, objective in objectives.items()}
        read = {name: digests for name, digests in read.items() if digests}
        if read:
            inputs[MEASURED] = read
        return Problem(
            name=self.study.study.name,
            directions=self.directions,
            distributions=self.space.distributions,
            derive=self.derive,
            worst=worst,
            # a study of techniques is those, each once
            seeds=ladder(self.space, len(space.techniques) if space.techniques else self.study.search.seeds),
            conditions=conditions,
            fingerprint=fingerprint(self.study, inputs, threads=self.threads, device=str(self.device)),
            rungs=self._rung_fractions(),
            knowledge=self.knowledge,
            repeats=self.study.search.repeats,
        )

    def _rung_fractions(self) -> tuple[float, ...]:
        """Where trials are compared in training, found to be late enough to tell anything."""
        section = self.study.search.early_stopping
        if section is None:
            return ()
        check_rungs(section.rungs, training_steps(self.task, self.space.control().recipe, self.study.training))
        return tuple(section.rungs)

    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> dict[str, Score]:
        """Scores by metric, from a trial's raw numbers and the control's."""
        return derive_all(self.objectives, raw, control_raw)

    def plan(self, request: TrialRequest) -> TrialPlan:
        """The plan that a request means."""
        return self.space.control() if request.role == "control" else self.space.decode(request.params)

    def control_raw(self) -> Mapping[str, Any]:
        """The control's raw numbers by metric.

        Raises:
            RunError: It has no stored result.
        """
        result = self.folder.result(CONTROL)
        if result is None or "raw" not in result:
            raise RunError(f"the control's result must be in {self.folder.trial(CONTROL)}; found none there.")
        raw: Mapping[str, Any] = result["raw"]
        return raw

    def make(
        self,
        plan: TrialPlan,
        seed: Seed,
        folder: Path,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        rungs: Rungs | None = None,
        halvings: int = 0,
    ) -> Made:
        """Train, bake, export and check one plan; the candidate and its artefacts are kept in `folder`.

        Args:
            plan: What to carry out.
            seed: Of all draws.
            folder: Where files go.
            on_progress: As of `fit`.
            checkpoints: As of `fit`.
            rungs: As of `fit`.
            halvings: How often the batch is halved from the start; where memory is short, it is halved further.
        """
        task, training = self.task, self.study.training

        def train(halvings: int) -> tuple[Attached, FitResult]:
            attached = self._attach(plan, seed)
            fitted = fit(
                task,
                attached,
                plan.recipe,
                training,
                seed=seed.child("fit"),
                on_progress=on_progress,
                checkpoints=checkpoints,
                rungs=rungs,
                halvings=halvings,
            )
            return attached, fitted

        # a trial works while no other measures time, and makes way at every batch and between its stages
        with exclusive.shared(self.device):
            attached, fitted = in_smaller_batches(train, training.batch_size, halvings=halvings)
            exclusive.make_way(self.device)
            candidate = bake(attached, task.build_model, self.layers, task.example)
            save_candidate(candidate, folder)
            artefacts, parity = {}, {}
            for target in self.targets:
                exclusive.make_way(self.device)
                artefacts[target.name] = target.export(candidate, folder, task.example)
                exclusive.make_way(self.device)
                parity[target.name] = self._parity(candidate, target, artefacts[target.name])
        return Made(candidate, artefacts, parity, fitted)

    def _attach(self, plan: TrialPlan, seed: Seed) -> Attached:
        training = self.study.training
        return attach(
            self.task.starting_model(seed.child("model")),
            plan,
            self.layers,
            self.task.example,
            start=training.compression_start,
            end=training.compression_end,
            seed=seed.child("attach"),
            round_to=self.study.space.sparsity.round_to if self.study.space.sparsity else 1,
            cost_table=self.cost_table,
        )

    def measured(self, subject: Subject) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Raw numbers by objective, and what went otherwise than planned, one line each."""
        return measured_in_smaller_batches(lambda part: measure_all(self.objectives, part), subject)

    def subject(
        self,
        candidate: Candidate,
        artefacts: Mapping[str, Artefact],
        control_artefacts: Mapping[str, Artefact],
        *,
        seed: Seed,
        split: SplitName,
    ) -> Subject:
        """What objectives measure, on the images of `split`."""
        return Subject(
            candidate=candidate,
            task=self.task,
            targets=self.targets,
            artefacts=artefacts,
            control_artefacts=control_artefacts,
            split=split,
            seed=seed.child("measure"),
            study_seed=self.study.study.seed,
            batch_size=self.batch_size,
            corrupted=self.folder.corrupted,
        )

    @property
    def batch_size(self) -> int:
        """Images in one forward pass of a measurement: 500 of up to 64x64, fewer of larger ones."""
        _, height, width = self.task.input_shape
        return max(1, min(500, 500 * 64 * 64 // (height * width)))

    def agree(self, stored: Mapping[str, Any], *, split: SplitName | None = "test") -> list[str]:
        """Check a run's stored fingerprint against study, data and checkpoint as they are now; see `compare`.

        Args:
            stored: The fingerprint.
            split: Which images will be scored, None for none; see `problem`.
        """
        if split is None:
            stored = {**stored, "inputs": {k: v for k, v in stored.get("inputs", {}).items() if k != MEASURED}}
        return compare(stored, self.problem(split).fingerprint)

    def candidate(self, number: int) -> Candidate:
        """The candidate of a complete trial, on the study's device."""
        candidate = load_candidate(self.folder.trial(number), self.task.build_model, self.task.example)
        return candidate.to(self.device)

    def artefacts(self, number: int, candidate: Candidate) -> dict[str, Artefact]:
        """The exported files of a complete trial, usable in this process.

        Raises:
            RunError: The trial has no stored result.
        """
        folder, result = self.folder.trial(number), self.folder.result(number)
        if result is None or result.get("state") != "complete":
            raise RunError(f"the exported files of trial {number} must be in {folder}; found no complete result there.")
        found = {}
        for target in self.targets:
            found[target.name] = Artefact.from_dict(result["artefacts"][target.name], folder)
            target.restore(found[target.name], candidate)
        return found

    def control_artefacts(self) -> dict[str, Artefact]:
        """The dense control's exported files, usable in this process."""
        if not self._control_artefacts:
            self._control_artefacts = self.artefacts(CONTROL, self.candidate(CONTROL))
        return self._control_artefacts

    def _parity(self, candidate: Candidate, target: Target, artefact: Artefact) -> dict[str, Any]:
        images = to_float(self.task.evaluation("validation", PARITY_IMAGES).images).cpu().numpy()
        return target.verify(candidate, artefact, images, predictions=self.task.predictions).to_dict()
