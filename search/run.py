"""A run opened for reading: its study, its trials as frames, its front, a choice from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from ..studies.errors import InputError, RunError
from ..studies.load import load_study
from ..studies.schema import Study
from .non_dominated import front_numbers
from .pick import Choice, pick
from .record import FINGERPRINT
from .run_folder import RunFolder
from .storage import open_storage, sqlite_url
from .tables import LABELS, trials_frame

__all__ = ["Run", "load_run"]


class Run:
    """A study on disk, read only.

    Args:
        folder: The run's folder.
        study: Its frozen study file.
        record: The Optuna study.
    """

    def __init__(self, folder: RunFolder, study: Study, record: optuna.Study) -> None:
        self.folder = folder
        self.study = study
        self.record = record

    @property
    def objectives(self) -> dict[str, str]:
        """Objective name to ``"minimize"`` or ``"maximize"``, in the order of the study file."""
        names = self.record.metric_names or [objective.name for objective in self.study.objectives]
        return {name: way.name.lower() for name, way in zip(names, self.record.directions, strict=True)}

    @property
    def metrics(self) -> list[str]:
        """Objectives, then what is recorded but not optimised."""
        scored: dict[str, Any] = next(
            (trial.user_attrs["scores"] for trial in self.optuna_trials() if "scores" in trial.user_attrs), {}
        )
        return list(dict.fromkeys([*self.objectives, *scored]))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the run's results depend on, as it began.

        Raises:
            RunError: The study in the database is not one of Forgefront's.
        """
        stored: dict[str, Any] | None = self.record.user_attrs.get(FINGERPRINT)
        if stored is None:
            raise RunError(
                f"the database of {self.folder.path} must hold a study of Forgefront; found another program's."
            )
        return stored

    def optuna_trials(self) -> list[FrozenTrial]:
        """Optuna's own trials, in order of their numbers."""
        return self.record.get_trials(deepcopy=False)

    def trials(self) -> pd.DataFrame:
        """One row a trial; see `tables.trials_frame` for the columns."""
        trials = self.optuna_trials()
        return trials_frame(trials, front_numbers(trials, self.record.directions))

    def front(self) -> pd.DataFrame:
        """The feasible non-dominated trials, the best of the first objective first."""
        frame = self.trials()
        first, direction = next(iter(self.objectives.items()))
        kept = frame[frame["on_front"]]
        return kept if kept.empty else kept.sort_values(first, ascending=direction == "minimize", ignore_index=True)

    def control(self) -> pd.Series | None:
        """The control's row, None before it has finished."""
        frame = self.trials()
        rows = frame[(frame["role"] == "control") & (frame["state"] == "complete")]
        return None if rows.empty else rows.iloc[0]

    def pick(self, *, where: Sequence[str] = (), prefer: str = "knee") -> Choice:
        """Choose one trial of the front; see `pick.pick`."""
        return pick(self.front(), self.objectives, where=where, prefer=prefer, control=self.control())

    def complete(self, number: int) -> FrozenTrial:
        """Trial `number`, which must be complete.

        Raises:
            RunError: There is no such trial, or it failed or is not finished.
        """
        trials = self.optuna_trials()
        finished = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        if number not in finished:
            state = next((trial.state.name.lower() for trial in trials if trial.number == number), "none")
            allowed = ", ".join(map(str, finished)) or "none yet"
            raise RunError(f"`--trial` must be a complete trial ({allowed}); found {number} (state {state}).")
        return trials[number]

    def plot_front(self, file: Path) -> None:
        """Draw every pair of objectives to a PNG, PDF or SVG file.

        Raises:
            InputError: The ending is none of these, the folder does not exist, or no trial is complete.
        """
        from .plot import plot_front, writing_plot

        frame = self.trials()
        complete = frame[frame["state"] == "complete"]
        with writing_plot(file):
            if complete.empty:
                raise InputError("`--plot` needs a complete trial; this run has none yet.")
            plot_front(complete, self.objectives, LABELS, file, f"{self.study.study.name}: {len(complete)} trials")


def load_run(path: str | Path) -> Run:
    """Open a run for reading.

    Args:
        path: Folder of the run, for example ``runs/digits``.

    Raises:
        RunError: The folder or its database is missing, foreign or damaged.
        StudyFileError: Its frozen study file is damaged.
    """
    folder = RunFolder.open(path)
    study = load_study(folder.study_file, check_parts=False)
    storage = open_storage(study.storage.url or sqlite_url(folder.database))
    try:
        record = optuna.load_study(study_name=study.study.name, storage=storage)
    except KeyError:
        raise RunError(f"the database of {path} holds no study named {study.study.name!r}.") from None
    return Run(folder, study, record)
