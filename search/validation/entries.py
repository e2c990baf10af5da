"""Who is scored: the control, the trials, and a dense control for every other recipe among them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...compression.candidate import DESCRIPTION, Candidate, load_candidate
from ...compression.targets.base import Artefact
from ...spaces.plan import Recipe, TrialPlan
from ...studies.seeds import Seed
from ..problem import CONTROL
from ..run_folder import read_json, write_json
from .store import writing

if TYPE_CHECKING:
    from ...objectives.base import Subject as Measured
    from ..run import Run
    from ..trial import TrialContext

__all__ = ["Entry", "EntryModel", "entries_of"]

MADE = "made.json"
ATTEMPT = ".attempt-"


@dataclass(frozen=True)
class Entry:
    """One row of the tables.

    Args:
        key: Name of its folder.
        number: Of the trial, or of the first trial with the recipe of a recipe control.
        role: ``"control"``, ``"trial"`` or ``"recipe control"``.
        recipe: How it was, or is to be, trained.
        technique: The trial's, where the study compares techniques.
        cost: Seconds that a dense training takes, as far as is known.
    """

    key: str
    number: int
    role: str
    recipe: Recipe
    technique: str | None = None
    cost: float | None = None

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
    seconds = trials[CONTROL].user_attrs.get("seconds")
    found = [Entry(f"trial-{CONTROL}", CONTROL, "control", plans[CONTROL].recipe)]
    recipes = {plans[CONTROL].recipe}
    for number in numbers:
        recipe = replace(plans[number].recipe, budget=1.0)
        if recipe not in recipes:
            recipes.add(recipe)
            digest = hashlib.sha256(TrialPlan({}, recipe).to_json().encode()).hexdigest()[:12]
            found.append(Entry(f"control-{digest}", number, "recipe control", recipe, cost=seconds))
        if number != CONTROL:
            technique = trials[number].params.get("technique")
            found.append(Entry(f"trial-{number}", number, "trial", recipe, technique))
    return found


class EntryModel:
    """A candidate on the study's device, read or trained when it is first needed.

    Args:
        context: The study's.
        entry: Which one.
        folder: Where what is measured of it is kept, and a recipe control itself.

    Attributes:
        measured: What the study's objectives take; None until the first does.
    """

    def __init__(self, context: TrialContext, entry: Entry, folder: Path) -> None:
        self.context, self.entry, self.folder = context, entry, folder
        self.measured: Measured | None = None
        self._candidate: Candidate | None = None
        self._identity: str | None = None

    @property
    def home(self) -> Path:
        """The folder of its weights."""
        return self.folder / "candidate" if self.must_be_made else self.context.folder.trial(self.entry.number)

    @property
    def must_be_made(self) -> bool:
        """Whether it is no trial of the run, but trained for the comparison."""
        return self.entry.role == "recipe control"

    @property
    def identity(self) -> str | None:
        """A digest of its weights and plan; None while it is still to be made."""
        if self._identity is None and not (self.must_be_made and not (self.home / MADE).exists()):
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

    def make(self) -> None:
        """Train a recipe control; its folder appears, whole, when it is done.

        Raises:
            RunError: The folder cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"{ATTEMPT}*"):
                shutil.rmtree(left, ignore_errors=True)
            attempt = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=self.folder))
        seed = Seed(self.context.study.study.seed).child("recipe control")
        made = self.context.make(TrialPlan({}, self.entry.recipe), seed, attempt)
        kept = made.to_dict()
        with writing(self.folder):
            write_json(attempt / MADE, {key: kept[key] for key in ("artefacts", "parity", "deviations")})
            attempt.chmod(0o755)
            if self.home.exists():
                shutil.rmtree(self.home)
            os.replace(attempt, self.home)
        self._identity = None

    def forget(self) -> None:
        """Free the weights, and what targets keep ready for them; the next use reads them again."""
        # the control's exported files are what others are timed against
        if self.measured is not None and self.entry.role != "control":
            for target in self.context.targets:
                target.release(self.measured.artefacts[target.name])
        self._candidate = self.measured = None
