"""From a study file or a run's folder to an independent worker with someone watching."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from ...studies.errors import InputError, RunError
from ...studies.load import load_study, study_to_toml
from ...studies.registry import bind
from ...studies.schema import Study
from ..coordinator import Interrupted
from ..display import near, open_display
from ..engines.base import Engine
from ..events import Event, StudyFinished, StudyStarted, TrialFinished
from ..launch import absolute_paths, with_budget
from ..parts import preparation, sampler_for
from ..problem import Prepared
from ..run_folder import RunFolder, write_text
from ..stopping import stop_rules
from ..tensorboard import write_finished
from .worker import PRESUMED_DEAD, Worker

if TYPE_CHECKING:
    from ..trial import TrialContext

__all__ = ["work"]


def work(
    source: str,
    *,
    storage: str | None = None,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    timeout: float | None = None,
    presumed_dead: float = PRESUMED_DEAD,
) -> StudyFinished:
    """Work on a study that others may work on too, until it holds its trials.

    Args:
        source: A run's folder, a study file, or the name of a shipped study.
        storage: URL of a PostgreSQL server; None takes the study's.
        overrides: ``KEY=VALUE`` changes to the study file; not with a run's folder, whose study is fixed.
        trials: Trials in all; None takes the study's.
        timeout: Seconds after which this worker begins no further trial.
        presumed_dead: See `Worker`.

    Raises:
        InputError: Anything that the user gave is wrong.
        Interrupted: Ctrl-C or SIGTERM; the trial that ran here is given back.
    """
    # the display says what happens, in its own words
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, path = _loaded(source, storage, overrides, trials)
    url = study.storage.url
    if url is None or url.startswith("sqlite"):
        raise RunError(
            "`--storage` must be the URL of a PostgreSQL server, such as postgresql://host/name, for independent "
            f"workers; found {url or 'none'}."
        )
    from ..trial import TrialContext

    context = TrialContext(path, 1, study)
    problem = context.problem()
    limit = {} if study.search.trial_timeout is None else {"timeout": study.search.trial_timeout}
    # a process of its own, so that this one can give signs of life, and end a trial that hangs
    engine: Engine = bind("engine", "processes", {}, "search.engine_options")(path, 1, **limit)
    limited = study if timeout is None else with_budget(study, timeout=timeout)
    worker = Worker(
        RunFolder(path),
        problem,
        engine,
        sampler_for(study, problem),
        rules=stop_rules(limited),
        url=url,
        presumed_dead=presumed_dead,
        prepare=_prepare(path, study, context),
    )
    folder = RunFolder(path)
    with open_display(study, folder) as show:

        def watch(event: Event) -> None:
            if isinstance(event, StudyStarted):
                # the study agrees: from here on its file asks for this budget
                text = study_to_toml(with_budget(study, trials=event.trials))
                if text != folder.study_file.read_text(encoding="utf-8"):
                    write_text(folder.study_file, text)
            elif isinstance(event, TrialFinished):
                write_finished(folder.tensorboard, event)
            show(event)

        try:
            return worker.run(watch)
        except Interrupted as interrupt:
            raise Interrupted(f"{interrupt} Go on with: forgefront worker {near(folder)}") from None


def _loaded(source: str, storage: str | None, overrides: Sequence[str], trials: int | None) -> tuple[Study, Path]:
    """The study and its run's folder, which need not exist."""
    changes = [] if storage is None else [f"storage.url={json.dumps(storage, ensure_ascii=False)}"]
    changes += [] if trials is None else [f"search.trials={trials}"]
    if Path(source).is_dir():
        if overrides:
            raise InputError(f"`--set` must go with a study file, not with a run's folder; found {overrides[0]!r}.")
        folder = RunFolder.open(source)
        return load_study(folder.study_file, overrides=changes), folder.path
    changes = [*overrides, *changes]
    study = load_study(source, overrides=changes)
    if paths := absolute_paths(study):
        study = load_study(source, overrides=[*changes, *paths])
    return study, Path(os.path.abspath(study.storage.folder)) / study.study.name


def _prepare(path: Path, study: Study, context: TrialContext) -> Callable[[Callable[[str], None]], Prepared]:
    measure = preparation(study, context)

    def prepare(announce: Callable[[str], None]) -> Prepared:
        # by one worker at a time, for another must not see half a folder
        RunFolder.create(path, study_to_toml(study))
        return Prepared({}) if measure is None else measure(announce)

    return prepare
