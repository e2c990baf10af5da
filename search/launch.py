"""Launch and resume: from a study file or a run folder to a coordinator with someone watching."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import optuna

from ..studies.load import load_study, study_to_toml
from ..studies.schema import Study
from .coordinator import coordinator_for
from .display import open_display
from .events import Event, StudyFinished, StudyStarted, TrialFinished
from .run_folder import RunFolder, write_text
from .tensorboard import write_trial

__all__ = ["launch", "resume"]


def launch(
    study: str,
    *,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    timeout: float | None = None,
    workers: int | None = None,
    engine: str | None = None,
) -> StudyFinished:
    """Run a study to the number of trials asked for; goes on where an earlier run of it stopped.

    Args:
        study: A study file, or the name of a shipped study.
        overrides: ``KEY=VALUE`` changes to the file.
        trials: Trials in all; None takes the study's.
        timeout: Seconds after which no further trial begins.
        workers: Processes that run trials.
        engine: Name of the engine; None chooses by the number of workers.

    Raises:
        InputError: Anything that the user gave is wrong.
    """
    budget = _budget(trials=trials, timeout=timeout, workers=workers, engine=engine)
    overrides = [*overrides, *budget]
    loaded = load_study(
        study, overrides=[*overrides, *_absolute(load_study(study, check_parts=False, overrides=overrides))]
    )
    path = Path(loaded.storage.folder) / loaded.study.name
    return _run(path, loaded)


def resume(
    run: Path,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    workers: int | None = None,
    engine: str | None = None,
) -> StudyFinished:
    """Go on with the run in folder `run`; otherwise as `launch`."""
    folder = RunFolder.open(run)
    budget = _budget(trials=trials, timeout=timeout, workers=workers, engine=engine)
    return _run(folder.path, load_study(folder.study_file, overrides=budget))


def _budget(*, trials: int | None, timeout: float | None, workers: int | None, engine: str | None) -> list[str]:
    given = {"trials": trials, "timeout": timeout, "workers": workers, "engine": engine}
    return [f"search.{key}={value}" for key, value in given.items() if value is not None]


def _absolute(study: Study) -> list[str]:
    # the frozen study file must mean the same from whatever folder the run is resumed
    options = study.task.data.options
    paths = {
        "task.model.weights": study.task.model.weights,
        "task.data.root": options.get("root"),
        "task.data.path": options.get("path"),
    }
    return [f"{key}={json.dumps(os.path.abspath(value))}" for key, value in paths.items() if isinstance(value, str)]


def _run(path: Path, study: Study) -> StudyFinished:
    # the display says what happens, in its own words
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # everything wrong in the user's input shows before a folder is made for it
    coordinator = coordinator_for(RunFolder(path), study)
    folder = RunFolder.create(path, study_to_toml(study))
    with open_display(study, folder) as show:

        def watch(event: Event) -> None:
            if isinstance(event, StudyStarted):
                # the lock is held and the study agrees: from here on `resume` asks for this budget
                write_text(folder.study_file, study_to_toml(study))
            elif isinstance(event, TrialFinished) and event.state == "complete":
                write_trial(
                    folder.tensorboard,
                    event.number,
                    history=event.history,
                    scores=event.values,
                    params=event.params,
                    role=event.role,
                )
            show(event)

        return coordinator.run(watch)
