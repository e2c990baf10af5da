"""What an objective is: raw numbers measured on one candidate, and a score derived from them against the control's.

The two steps are apart because a trial may finish in any process while the control's numbers live with the coordinator
(law 4), and because a metric's published variants can then be derived later from what was stored (law 6).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..compression.candidate import Candidate
from ..studies.errors import InputError
from ..studies.faults import nearest
from ..studies.seeds import Seed
from ..trainers.tasks.base import EvaluationSet, SplitName, Task

if TYPE_CHECKING:
    from ..compression.targets.base import Artefact, Target
    from ..spaces.forecast import Forecast
    from ..spaces.plan import TrialPlan
    from .forecast_facts import PlanFacts

__all__ = ["Direction", "Judged", "Objective", "Score", "Subject", "binomial_error", "judge"]

Direction = Literal["minimize", "maximize"]


@dataclass
class Subject:
    """One trained candidate and all that is needed to measure it.

    Args:
        candidate: What is scored.
        task: Its data, losses and predictions.
        targets: Where it is to run.
        artefacts: Its exported file for each target, by the target's name.
        control_artefacts: The dense control's; the control's own when it is the subject.
        split: Which images to score on.
        seed: The trial's seed.
        study_seed: The study's seed, for draws that all trials share.
        batch_size: Images in one forward pass.
        corrupted: Folder in which all trials of a study share corrupted images; None keeps them in memory.
        cache: What objectives of one subject share.
    """

    candidate: Candidate
    task: Task
    targets: Sequence[Target]
    artefacts: Mapping[str, Artefact]
    control_artefacts: Mapping[str, Artefact]
    split: SplitName
    seed: Seed
    study_seed: int
    batch_size: int = 500
    corrupted: Path | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    def target(self, name: str | None) -> Target:
        """The target called `name`, the first one when None.

        Raises:
            InputError: The study has no such target.
        """
        known = [target.name for target in self.targets]
        if name is None and known:
            return self.targets[0]
        if name not in known:
            close = nearest(str(name), known)
            hint = f' Did you mean "{close}"?' if close else ""
            raise InputError(f"`target` must be one of the study's targets ({', '.join(known)}); found {name!r}.{hint}")
        return self.targets[known.index(name)]

    def clean(self, limit: int | None) -> Judged:
        """What the candidate makes of the first `limit` plain images, all when None; computed once a subject."""
        key = f"clean/{limit}"
        if key not in self.cache:
            images = self.task.evaluation(self.split, limit)
            self.cache[key] = judge(self.candidate.model, self.task, images, self.batch_size)
        judged: Judged = self.cache[key]
        return judged


@dataclass(frozen=True)
class Judged:
    """What a model makes of a set of images.

    Args:
        correct: bool, (N,), on the images' device: which ones it gets right.
        tally: The task's raw counts over all of them.
    """

    correct: Tensor
    tally: dict[str, list[int]]


def judge(model: nn.Module, task: Task, images: EvaluationSet, batch_size: int) -> Judged:
    """Run `model`, in evaluation mode and left in it, over a set of at least one image."""
    model.eval()
    right: list[Tensor] = []
    tally: dict[str, list[int]] = {}
    with torch.inference_mode():
        for batch in images.batches(batch_size):
            outputs = model(batch.images)
            right.append(task.correct(outputs, batch.targets))
            for key, counts in task.tally(outputs, batch.targets).items():
                tally[key] = [a + b for a, b in zip(tally[key], counts, strict=True)] if key in tally else list(counts)
    return Judged(torch.cat(right), tally)


@dataclass(frozen=True)
class Score:
    """One objective's result for one trial.

    Args:
        value: What the search compares.
        standard_error: Of `value`, from the finite number of images or rounds; None when nothing is sampled.
        details: Further variants of the metric, JSON values.
    """

    value: float
    standard_error: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON values."""
        return {"value": self.value, "standard_error": self.standard_error, "details": dict(self.details)}


class Objective(ABC):
    """A number that a study optimises or records; options are the keyword-only arguments of its class.

    Attributes:
        name: Its key in results and conditions.
        direction: Which way is better.
        numbers: Keys of all details that may be numbers, by which a condition on one is checked before anything runs;
            None where they are not known by then.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction]
    numbers: ClassVar[Sequence[str] | None] = None

    def inputs(self, split: SplitName) -> dict[str, Any]:
        """Files that it reads to measure, found to be usable: digests of their contents, part of the fingerprint.

        Called where something will be measured; one that is only made and derives must not need its files.

        Args:
            split: Which images will be scored.

        Raises:
            InputError: A file is not there, or not of these images.
        """
        return {}

    @abstractmethod
    def measure(self, subject: Subject) -> dict[str, Any]:
        """Raw numbers, JSON values, that need no control."""

    @abstractmethod
    def derive(self, raw: Mapping[str, Any], control_raw: Mapping[str, Any]) -> Score:
        """The score, from a trial's raw numbers and those of the control (the same ones for the control)."""

    @abstractmethod
    def worst(self, control_value: float) -> float:
        """A fixed value as bad as any that matters: this objective's part of the hypervolume's reference."""

    def forecast(self, plan: TrialPlan, facts: PlanFacts) -> Forecast | None:
        """What a plan tells of this number before anything is trained, in milliseconds; None where it tells nothing.

        Samplers choose among many plans by it, and a plan that breaks a constraint for certain is never trained. The
        control's is that of the empty plan.

        Args:
            plan: What a trial would carry out.
            facts: What is known of the model.
        """
        return None


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent images: sqrt(p (1 - p) / n), 0 for no images."""
    return math.sqrt(max(share * (1.0 - share), 0.0) / count) if count else 0.0
