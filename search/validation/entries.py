"""Who is scored: the control, the trials, and a dense control for every other recipe among them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compression.candidate import DESCRIPTION, Candidate, load_candidate
from ...compression.targets.base import Artefact
from ...spaces.plan import Recipe, TrialPlan
from ...studies.errors import RunError, TrialError
from ...studies.seeds import Seed, trial_seed
from ..problem import CONTROL
from ..run_folder import read_json, write_json
from .store import writing

if TYPE_CHECKING:
    from ...objectives.base import Subject as Measured
    from ..run import Run
    from ..trial import TrialContext

__all__ = ["Entry", "EntryModel", "entries_of"]

MADE, PLAN = "made.json", "plan"
ATTEMPT = ".attempt-"


@dataclass(frozen=True)
class Entry:
    """One row of the tables.

    Args:
        key: Name of its folder.
        number: Of the trial, or of the first trial with the recipe of a recipe control.
        role: ``"control"``, ``"trial"`` or ``"recipe control"``.
        plan: How it was, or is to be, compressed and trained.
        technique: The trial's, where the study compares techniques.
        cost: Seconds that a training takes, as far as is known: what the trial took, measured on the validation split.
    """

    key: str
    number: int
    role: str
    plan: TrialPlan
    technique: str | None = None
    cost: float | None = None

    @property
    def recipe(self) -> Recipe:
        """How it was, or is to be, trained."""
        return self.plan.recipe

    @property
    def title(self) -> str:
        """What a table's head and a picture's legend call it."""
        return {"control": "control", "trial": f"trial {self.number}"}.get(self.role, f"control like {self.number}")


def entries_of(run: Run, numbers: Sequence[int]) -> list[Entry]:
    """The control, then each trial with, before the first of its recipe, the dense control of that recipe.

    A trial that is not trained, or for a part of the steps, has the control of its recipe at the full budget.

    Raises:
        RunError: There is no such complete trial.
    """
    trials = {number: run.complete(number) for number in (CONTROL, *numbers)}
    plans = {number: TrialPlan.from_dict(trial.user_attrs["plan"]) for number, trial in trials.items()}
    seconds = {number: trial.user_attrs.get("seconds") for number, trial in trials.items()}
    found = [Entry(f"trial-{CONTROL}", CONTROL, "control", plans[CONTROL], cost=seconds[CONTROL])]
    recipes = {plans[CONTROL].recipe}
    for number in numbers:
        recipe = replace(plans[number].recipe, budget=1.0)
        if recipe not in recipes:
            recipes.add(recipe)
            dense = TrialPlan({}, recipe)
            digest = hashlib.sha256(dense.to_json().encode()).hexdigest()[:12]
            found.append(Entry(f"control-{digest}", number, "recipe control", dense, cost=seconds[CONTROL]))
        if number != CONTROL:
            technique = trials[number].params.get("technique")
            found.append(Entry(f"trial-{number}", number, "trial", plans[number], technique, seconds[number]))
    return found


class EntryModel:
    """A candidate on the study's device, read or trained when it is first needed.

    Args:
        context: The study's.
        entry: Which one.
        folder: Where what is measured of the entry is kept, and a recipe control itself.
        training: Which of the entry's trainings, from 0. Those after the first are kept below ``repeats`` in `folder`.

    Attributes:
        folder: Where what is measured of this training is kept, and its candidate if the run has none.
        measured: What the study's objectives take; None until the first does.
    """

    def __init__(self, context: TrialContext, entry: Entry, folder: Path, training: int = 0) -> None:
        self.context, self.entry, self.training = context, entry, training
        self.folder = folder / "repeats" / str(training) if training else folder
        self.measured: Measured | None = None
        self._candidate: Candidate | None = None
        self._identity: str | None = None

    @property
    def name(self) -> str:
        """Its entry's title, and which training it is where that is not the first."""
        return self.entry.title + (f", training {self.training + 1}" if self.training else "")

    @property
    def home(self) -> Path:
        """The folder of its weights."""
        return self.folder / "candidate" if self.must_be_made else self.context.folder.trial(self.entry.number)

    @property
    def must_be_made(self) -> bool:
        """Whether it is no trial of the run, but trained for the comparison."""
        return self.entry.role == "recipe control" or self.training > 0

    @property
    def is_reference(self) -> bool:
        """Whether it is the candidate that others are timed against."""
        return self.entry.role == "control" and not self.training

    @property
    def seed(self) -> Seed:
        """The root of all draws of a training that is made here."""
        study = self.context.study.study.seed
        recipe_control = self.entry.role == "recipe control"
        root = Seed(study).child("recipe control") if recipe_control else trial_seed(study, self.entry.number)
        return root.child("repeat").child(self.training) if self.training else root

    @property
    def identity(self) -> str | None:
        """A digest of its weights and plan; None while it is still to be made."""
        if self._identity is None and not (self.must_be_made and not self._is_made()):
            digest = hashlib.sha256()
            for file in sorted(self.home.glob("*")):
                if file.suffix == ".safetensors" or file.name == DESCRIPTION:
                    digest.update(file.name.encode())
                    digest.update(file.read_bytes())
            self._identity = digest.hexdigest()
        return self._identity

    @property
    def candidate(self) -> Candidate:
        """The candidate, on the study's device.

        Raises:
            RunError: Its files are missing or damaged.
        """
        if self._candidate is None:
            task = self.context.task
            self._candidate = load_candidate(self.home, task.build_model, task.example).to(self.context.device)
        return self._candidate

    def artefacts(self) -> Mapping[str, Artefact]:
        """Its exported file for each target, usable in this process."""
        if not self.must_be_made:
            return self.context.artefacts(self.entry.number, self.candidate)
        stored = read_json(self.home / MADE)["artefacts"]
        found = {}
        for target in self.context.targets:
            found[target.name] = Artefact.from_dict(stored[target.name], self.home)
            target.restore(found[target.name], self.candidate)
        return found

    def _is_made(self) -> bool:
        try:
            made = read_json(self.home / MADE)
        except RunError:
            return False
        # of an earlier candidate under that number; a recipe control's folder is named by its plan
        return self.entry.role == "recipe control" or made.get(PLAN) == _as_read(self.entry.plan)

    def make(self) -> None:
        """Train it; its folder appears, whole, when that is done.

        Raises:
            RunError: The folder cannot be written.
            TrialError: The training failed.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"{ATTEMPT}*"):
                shutil.rmtree(left, ignore_errors=True)
            attempt = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=self.folder))
        try:
            made = self.context.make(self.entry.plan, self.seed, attempt)
        except TrialError as error:
            raise TrialError(f"{self.name} could not be trained: {error}") from error
        kept = {key: made.to_dict()[key] for key in ("artefacts", "parity", "deviations")}
        with writing(self.folder):
            write_json(attempt / MADE, {PLAN: _as_read(self.entry.plan), **kept})
            attempt.chmod(0o755)
            if self.home.exists():
                shutil.rmtree(self.home)
            os.replace(attempt, self.home)
        self._identity = None

    def forget(self) -> None:
        """Free the weights, and what targets keep ready for them; the next use reads them again."""
        if self.measured is not None and not self.is_reference:
            for target in self.context.targets:
                target.release(self.measured.artefacts[target.name])
        self._candidate = self.measured = None


def _as_read(plan: TrialPlan) -> dict[str, Any]:
    # tuples come back from JSON as lists
    values: dict[str, Any] = json.loads(plan.to_json())
    return values
