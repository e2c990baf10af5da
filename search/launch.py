"""Launch and resume: from a study file or a run folder to a coordinator with someone watching."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import optuna

from ..studies.load import load_study, study_to_toml
from ..studies.schema import Study
from .coordinator import Interrupted, coordinator_for
from .display import near, open_display
from .events import Event, StudyFinished, StudyStarted, TrialFinished
from .run import load_run
from .run_folder import RunFolder, write_text
from .tensorboard import trial_folder, write_finished, write_trial

__all__ = ["absolute_paths", "launch", "resume", "with_budget"]


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
        timeout: Seconds after which no further trial begins, this time; None takes the study's.
        workers: Processes that run trials.
        engine: Name of the engine; None chooses by the number of workers.

    Raises:
        InputError: Anything that the user gave is wrong.
        Interrupted: Ctrl-C or SIGTERM; the state is safe.
    """
    overrides = [*overrides, *_budget(trials=trials, workers=workers, engine=engine)]
    loaded = load_study(study, overrides=overrides)
    if paths := absolute_paths(loaded):
        loaded = load_study(study, overrides=[*overrides, *paths])
    return _run(Path(loaded.storage.folder) / loaded.study.name, loaded, timeout)


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
    budget = _budget(trials=trials, workers=workers, engine=engine)
    return _run(folder.path, load_study(folder.study_file, overrides=budget), timeout)


def _budget(*, trials: int | None, workers: int | None, engine: str | None) -> list[str]:
    given = {"trials": trials, "workers": workers, "engine": engine}
    return [f"search.{key}={value}" for key, value in given.items() if value is not None]


def absolute_paths(study: Study) -> list[str]:
    """Overrides that make a study's paths absolute, for its file must mean the same from whatever folder it is read."""
    options = study.task.data.options
    paths = {
        "task.model.weights": study.task.model.weights,
        "task.data.root": options.get("root"),
        "task.data.path": options.get("path"),
    }
    absolute = {key: os.path.abspath(value) for key, value in paths.items() if isinstance(value, str)}
    url = study.storage.url or ""
    if url.startswith("sqlite:///") and ":memory:" not in url:
        absolute["storage.url"] = "sqlite:///" + os.path.abspath(url.removeprefix("sqlite:///"))
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in absolute.items()]


def _run(path: Path, study: Study, timeout: float | None) -> StudyFinished:
    # the display says what happens, in its own words
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    limited = study if timeout is None else with_budget(study, timeout=timeout)
    # everything wrong in the user's input shows before a folder is made for it
    coordinator = coordinator_for(RunFolder(path), limited)
    folder = RunFolder.create(path, study_to_toml(study))
    with open_display(study, folder) as show:

        def watch(event: Event) -> None:
            if isinstance(event, StudyStarted):
                # the lock is held and the study agrees: from here on `resume` asks for this budget
                write_text(folder.study_file, study_to_toml(with_budget(study, trials=event.trials)))
                _write_missing_logs(folder)
            elif isinstance(event, TrialFinished):
                write_finished(folder.tensorboard, event)
            show(event)

        try:
            return coordinator.run(watch)
        except Interrupted:
            raise Interrupted(f"what had finished is stored; go on with: forgefront resume {near(folder)}") from None


def with_budget(study: Study, **budget: float) -> Study:
    """A copy with other values of `[search]`."""
    return study.model_copy(update={"search": study.search.model_copy(update=budget)})


def _write_missing_logs(folder: RunFolder) -> None:
    """TensorBoard logs of trials that a run told just before it was killed."""
    run = load_run(folder.path)
    for trial in run.optuna_trials():
        if trial.state.name != "COMPLETE" or trial_folder(folder.tensorboard, trial.number).exists():
            continue
        write_trial(
            folder.tensorboard,
            trial.number,
            history=(folder.result(trial.number) or {}).get("history") or (),
            scores={name: score["value"] for name, score in trial.user_attrs["scores"].items()},
            params=trial.params,
            role=trial.user_attrs["role"],
        )
