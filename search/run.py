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
from .hypervolume import HYPERVOLUME
from .non_dominated import front_numbers
from .pick import Choice, Shortlist, shortlist
from .problem import CONTROL
from .reading import read_trials
from .record import FINGERPRINT, REFERENCE
from .run_folder import RunFolder
from .storage import open_storage, sqlite_url
from .tables import ATTRIBUTES, LABELS, PARAMETERS, enumerated, trials_frame
from .told_apart import alike_members

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
        trials = self._read([CONTROL])
        if not any("scores" in trial.user_attrs for trial in trials):
            trials = self._read([trial.number for trial in self.outline() if trial.state == TrialState.COMPLETE][:1])
        scored = [name for trial in trials for name in trial.user_attrs.get("scores", {})]
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
        """Optuna's own trials, whole, in order of their numbers."""
        return read_trials(self.record)

    def outline(self, *attributes: str) -> list[FrozenTrial]:
        """As `optuna_trials`, with state, values, dates and constraints alone, and the `attributes` that are named."""
        return read_trials(self.record, attributes=attributes, params=())

    def trials(self) -> pd.DataFrame:
        """One row a trial; see `tables.trials_frame` for the columns."""
        trials = self._read(None)
        return trials_frame(trials, front_numbers(trials, self.record.directions))

    def front(self) -> pd.DataFrame:
        """The feasible non-dominated trials, the best of the first objective first.

        Its column ``alike`` names the other members, by number, that a member cannot be told apart from; see
        `told_apart.alike_members`.
        """
        members = front_numbers(self.outline(), self.record.directions)
        frame = trials_frame(self._read(members), members)
        first, direction = next(iter(self.objectives.items()))
        if frame.empty:
            return frame
        frame = frame.sort_values(first, ascending=direction == "minimize", ignore_index=True)
        return frame.assign(alike=alike_members(frame, list(self.objectives)))

    def control(self) -> pd.Series | None:
        """The control's row, None before it has finished."""
        rows = trials_frame(self._read([CONTROL]), [])
        rows = rows[(rows["role"] == "control") & (rows["state"] == "complete")]
        return None if rows.empty else rows.iloc[0]

    def pick(self, *, where: Sequence[str] = (), prefer: str = "knee") -> Choice:
        """Choose one trial of the front; see `pick.shortlist`."""
        return self.shortlist(where=where, prefer=prefer).choose()

    def shortlist(self, *, where: Sequence[str] = (), prefer: str = "knee") -> Shortlist:
        """Members of the front by preference; see `pick.shortlist`."""
        return shortlist(self.front(), self.objectives, where=where, prefer=prefer, control=self.control())

    def complete(self, number: int) -> FrozenTrial:
        """Trial `number`, which must be complete.

        Raises:
            RunError: There is no such trial, or it failed or is not finished.
        """
        trials = self.outline()
        finished = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        if number not in finished:
            state = next((trial.state.name.lower() for trial in trials if trial.number == number), "none")
            allowed = enumerated(finished) or "none yet"
            raise RunError(f"`--trial` must be a complete trial ({allowed}); found {number} (state {state}).")
        return read_trials(self.record, numbers=[number])[0]

    def plot_front(self, file: Path) -> None:
        """Draw every pair of objectives, parallel coordinates and the hypervolume's history to a PNG, PDF or SVG file.

        Raises:
            InputError: The ending is none of these, the folder does not exist, or no trial is complete.
        """
        from .plot import plot_front, writing_plot
        from .plot_history import history_by_trial

        frame = self.trials()
        complete = frame[frame["state"] == "complete"]
        with writing_plot(file):
            if complete.empty:
                raise InputError("`--plot` needs a complete trial; this run has none yet.")
            reference = self.record.user_attrs.get(REFERENCE)
            history = []
            if reference is not None:
                history = history_by_trial(self.outline(HYPERVOLUME), self.record.directions, reference)
            title = f"{self.study.study.name}: {len(complete)} trials"
            plot_front(complete, self.objectives, LABELS, file, title, history)

    def _read(self, numbers: Sequence[int] | None) -> list[FrozenTrial]:
        """What a row of a frame is made of."""
        return read_trials(self.record, numbers=numbers, attributes=ATTRIBUTES, params=PARAMETERS)


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
