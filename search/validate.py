"""Score chosen trials on the test split, beside dense controls trained with the same recipe.

What is measured is kept in ``validation/`` of the run, one file a subject, written as soon as it is known: a second
call measures only what is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..compression.targets.base import Artefact
from ..objectives.score import derive_all, measure_all
from ..spaces.plan import Recipe, TrialPlan
from ..studies.errors import RunError
from ..studies.registry import bind
from ..studies.seeds import Seed
from .problem import CONTROL
from .run_folder import read_json, write_json
from .tables import score_columns
from .trial import TrialContext

if TYPE_CHECKING:
    from ..compression.candidate import Candidate
    from .run import Run

__all__ = ["validate"]


@dataclass(frozen=True)
class _Subject:
    """One row: a trial, or a dense control with a trial's recipe."""

    key: str
    number: int
    role: str
    recipe: Recipe


def validate(run: Run, numbers: Sequence[int] | None, *, say: Callable[[str], None]) -> pd.DataFrame:
    """Score trials on the test split.

    Args:
        run: The run.
        numbers: Complete trials; None takes the front.
        say: Called with a line for each subject that is measured.

    Returns:
        One row each for the control, the trials, and a dense control for every other recipe among them (`role`
        ``"recipe control"``, `number` that of the first trial with the recipe); columns as in `Run.trials`.
        A trial that is not trained, or for a part of the steps, has the control of its recipe at the full budget.

    Raises:
        RunError: There is no such complete trial.
    """
    chosen = list(dict.fromkeys(run.front()["number"].tolist() if numbers is None else numbers))
    for number in (CONTROL, *chosen):
        run.complete(number)
    context = TrialContext(run.folder.path, 1, run.study)
    for line in context.agree(run.fingerprint):
        say(f"changed since this run began, results may move slightly: {line}")
    folder = run.folder.path / "validation"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(
            f"`run` must be a folder that can be written; found {run.folder.path} ({error.strerror})."
        ) from None
    subjects = _subjects(run, context, chosen)
    raws = {}
    for index, subject in enumerate(subjects):
        file = folder / f"{subject.key}.json"
        if not file.exists():
            say(f"validating {index + 1} of {len(subjects)}: {subject.role} {subject.number}")
            write_json(file, _measure(context, subject, folder / subject.key))
        raws[subject.key] = read_json(file)
    rows = [_row(run, subject) | _scores(context, raws[subject.key], raws[subjects[0].key]) for subject in subjects]
    return pd.DataFrame(rows)


def _subjects(run: Run, context: TrialContext, numbers: Sequence[int]) -> list[_Subject]:
    plans = {number: TrialPlan.from_dict(run.complete(number).user_attrs["plan"]) for number in (CONTROL, *numbers)}
    control = _Subject(f"trial-{CONTROL}", CONTROL, "control", plans[CONTROL].recipe)
    subjects, recipes = [control], {plans[CONTROL].recipe}
    for number in numbers:
        recipe = replace(plans[number].recipe, budget=1.0)
        if recipe not in recipes:
            recipes.add(recipe)
            digest = hashlib.sha256(TrialPlan({}, recipe).to_json().encode()).hexdigest()[:12]
            subjects.append(_Subject(f"control-{digest}", number, "recipe control", recipe))
        if number != CONTROL:
            subjects.append(_Subject(f"trial-{number}", number, "trial", recipe))
    return subjects


def _measure(context: TrialContext, subject: _Subject, folder: Path) -> dict[str, Any]:
    candidate, artefacts = _made(context, subject, folder)
    # what limits a trial's cost has no place here: the whole test split is scored
    objectives = [
        bind(
            "objective", part.name, {key: value for key, value in part.options.items() if key != "images"}, part.name
        )()
        for part in (*context.study.objectives, *context.study.metrics)
    ]
    seed = Seed(context.study.study.seed).child("validate")
    control = context.control_artefacts() if subject.role != "control" else artefacts
    measured = context.subject(candidate, artefacts, control, seed=seed, split="test")
    return measure_all(objectives, measured)


def _made(context: TrialContext, subject: _Subject, folder: Path) -> tuple[Candidate, Mapping[str, Artefact]]:
    if subject.role != "recipe control":
        candidate = context.candidate(subject.number)
        return candidate, context.artefacts(subject.number, candidate)
    seed = Seed(context.study.study.seed).child("recipe control")
    made = context.make(TrialPlan({}, subject.recipe), seed, folder)
    (folder / "plan.json").write_text(json.dumps(made.candidate.plan.to_dict(), indent=1) + "\n", encoding="utf-8")
    return made.candidate, made.artefacts


def _row(run: Run, subject: _Subject) -> dict[str, Any]:
    row: dict[str, Any] = {"number": subject.number, "role": subject.role, "state": "complete", "seconds": None}
    params = run.complete(subject.number).params
    if subject.role == "trial" and "technique" in params:
        row["technique"] = params["technique"]
    return row


def _scores(context: TrialContext, raw: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, score in derive_all(context.objectives, raw, control).items():
        columns |= score_columns(name, score.to_dict())
    return columns
