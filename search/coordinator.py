"""The coordinator: holds the study's lock, asks, hands trials to an engine, tells; the only writer of a study."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from ..studies.errors import InputError, RunError
from .disk import disk_fails
from .engines.base import Engine, TrialOutcome, TrialProgress, TrialRequest, takes_timeout
from .events import Event, Preparing, StudyFinished, StudyStarted, TrialStarted
from .interrupts import Interrupts
from .lock import Held, coordinator_lock
from .problem import CONTROL, Prepared, Problem
from .record import StudyRecord
from .run_folder import RunFolder
from .server_record import PatientRecord
from .stopping import StopRules, stop_rules
from .storage import open_storage, sqlite_url
from .telling import ControlFailedError, check_control, finished_event, stored_outcome, tell

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["ControlFailedError", "Coordinator", "Interrupted", "coordinator_for"]

POLL_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the run; everything that had finished is stored, what was running will rerun."""


class Coordinator:
    """Runs a study until it holds the number of trials asked for; a failed trial counts as one.

    Started again after anything, it re-adopts what a dead run left running, under the same numbers: a stored result is
    told, anything else runs again with the same params. With one worker the whole is then, bit for bit, what an
    uninterrupted run would have been, for objectives that are themselves repeatable.

    Args:
        folder: The run's folder.
        problem: The search.
        engine: What runs the trials.
        sampler: An Optuna sampler.
        rules: When no further trial begins; its trials are how many the study shall hold, the control and the seeds
            included.
        url: Storage URL, None for SQLite in the run folder.
        prepare: Called once the lock is held and before anything is read or written, with a function that tells
            whoever watches, in a line, what takes a while. The inputs that it returns join the fingerprint's, so that
            a run that goes on with other ones is refused.
    """

    def __init__(
        self,
        folder: RunFolder,
        problem: Problem,
        engine: Engine,
        sampler: BaseSampler,
        *,
        rules: StopRules,
        url: str | None = None,
        prepare: Callable[[Callable[[str], None]], Prepared] | None = None,
    ) -> None:
        self._folder = folder
        self._problem = problem
        self._engine = engine
        self._sampler = sampler
        self._rules = rules
        self._trials = rules.trials
        self._stopped: str | None = None
        self._url = url or sqlite_url(folder.database)
        self._prepare = prepare
        self._interrupts = Interrupts()
        self._remarks: tuple[str, ...] = ()

    def run(self, on_event: Callable[[Event], None] = lambda event: None) -> StudyFinished:
        """Run the study; `on_event` is called in this thread.

        Raises:
            LockHeldError: Another coordinator holds the run.
            StudyMismatchError: The run began with another study, data or checkpoint.
            RunError: The database is damaged or foreign, or the engine cannot run trials here.
            ControlFailedError: Trial 0 failed, now or in a former life of the run.
            Interrupted: Ctrl-C or SIGTERM; the state is safe.
        """
        lock = coordinator_lock(self._folder.lock, self._url, name=self._problem.name)
        with lock as held, self._interrupts.caught():
            try:
                self._problem = self._prepared(on_event)
                database = open_storage(self._url, create=True)
                try:
                    finished = self._run(self._record(database, held, on_event), on_event)
                finally:
                    self._engine.stop()
                    # folds the write-ahead log into the database, so that a finished run is one file
                    database.engine.dispose()
            except KeyboardInterrupt:
                raise Interrupted("what had finished is stored, and what was running will rerun.") from None
            except (OSError, StorageInternalError) as error:
                if isinstance(error, OSError) and not disk_fails(error):
                    raise
                raise self._unwritable(error) from error
        on_event(finished)
        return finished

    def _unwritable(self, error: Exception) -> RunError:
        """A full or failing disk, or a server that has gone, in one line."""
        reason = " ".join(str(error.__cause__ or error).split("\n", 1)[0].split())
        return RunError(
            f"{self._folder.path} and its database must be writable while a study runs; found that they are not "
            f"({reason}). What had finished is stored: mend it, then resume."
        )

    def _record(self, database: RDBStorage, held: Held, on_event: Callable[[Event], None]) -> StudyRecord:
        if database.engine.name == "sqlite":
            return StudyRecord(database, self._problem, self._sampler)

        def say(text: str) -> None:
            on_event(Preparing(text))

        return PatientRecord(database, self._problem, self._sampler, renew=held.renew, say=say)

    def _prepared(self, on_event: Callable[[Event], None]) -> Problem:
        """The problem, with what is only known under the lock."""
        if self._prepare is None:
            return self._problem
        # whatever it makes, it makes whole or not at all
        with self._interrupts.waiting():
            prepared = self._prepare(lambda text: on_event(Preparing(text)))
        self._remarks = prepared.remarks
        fingerprint = self._problem.fingerprint
        merged = {**fingerprint, "inputs": {**fingerprint.get("inputs", {}), **prepared.inputs}}
        return dataclasses.replace(self._problem, fingerprint=merged)

    def _run(self, record: StudyRecord, on_event: Callable[[Event], None]) -> StudyFinished:
        start = time.monotonic()
        if not record.trials and self._folder.result(CONTROL) is not None:
            raise RunError(
                f"`storage.url` must hold the trials of {self._folder.path}; found a database without them beside "
                "their stored results. Did you mean another URL, or another --name?"
            )
        self._trials = max(self._trials, len(record.trials))
        self._check_control_files(record)
        self._folder.discard_attempts()
        adopted = record.running
        on_event(
            StudyStarted(
                self._problem.name,
                self._trials,
                record.finished,
                tuple(trial.number for trial in adopted),
                tuple(record.warnings),
                self._remarks,
            )
        )
        check_control(self._folder, record)
        told, flying = 0, set[int]()
        while True:
            self._interrupts.check()
            # the control runs alone: what follows is scored against it
            while len(flying) < self._engine.workers and CONTROL not in flying:
                trial = adopted.pop(0) if adopted else self._next(record, start)
                if trial is None:
                    break
                # also what was told to a database that has lost it since
                stored = stored_outcome(self._folder, trial)
                if stored is not None:
                    self._tell(record, stored, on_event)
                    told += 1
                    continue
                self._folder.discard(trial.number)
                role = trial.user_attrs["role"]
                on_event(TrialStarted(trial.number, role, trial.params))
                self._engine.submit(TrialRequest(trial.number, trial.params, role, record.standing))
                flying.add(trial.number)
                self._interrupts.check()
            if not flying:
                break
            outcomes = self._poll(on_event)
            for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
                flying.discard(outcome.number)
                self._tell(record, outcome, on_event)
                told += 1
        return StudyFinished(
            trials=len(record.trials),
            asked=self._trials,
            failed=record.failed,
            ran=told,
            front=record.front,
            hypervolume=record.hypervolume,
            stopped=self._stopped,
        )

    def _next(self, record: StudyRecord, start: float) -> FrozenTrial | None:
        if self._stopped is None and len(record.trials) < self._trials:
            self._stopped = self._rules.reason(record, elapsed=time.monotonic() - start)
            return record.ask() if self._stopped is None else None
        return None

    def _tell(self, record: StudyRecord, outcome: TrialOutcome, on_event: Callable[[Event], None]) -> None:
        trial = tell(self._folder, record, outcome)
        on_event(finished_event(record, trial, outcome, self._trials))
        check_control(self._folder, record)

    def _check_control_files(self, record: StudyRecord) -> None:
        control, missing = record.control, record.finished < self._trials
        told = control is not None and control.state == TrialState.COMPLETE
        if missing and told and self._folder.result(CONTROL) is None:
            where = self._folder.trial(CONTROL)
            raise RunError(
                f"`run` must hold the control's files, which every trial is measured against; found no {where}."
            )

    def _poll(self, on_event: Callable[[Event], None]) -> list[TrialOutcome]:
        def report(progress: TrialProgress) -> None:
            on_event(progress)

        with self._interrupts.waiting():
            return self._engine.poll(POLL_SECONDS, report)


def coordinator_for(folder: RunFolder, study: Study) -> Coordinator:
    """The coordinator of a real study: builds its data, space, objectives, targets, sampler and engine.

    Args:
        folder: The run's folder, which holds the frozen study file that engines read.
        study: The same study; its trials, timeout, workers, engine and storage may have been changed.

    Raises:
        InputError: Data, checkpoint, model, target, device, or an option of the sampler is wrong.
    """
    from ..studies.registry import bind
    from .engines.serial import SerialEngine
    from .parts import preparation, sampler_for
    from .trial_run import Trials

    search = study.search
    context = Trials(folder.path, search.workers, study)
    problem = context.problem()
    # a process cannot end itself
    alone = search.workers == 1 and search.trial_timeout is None
    name = search.engine or ("serial" if alone else "processes")
    make = bind("engine", name, search.engine_options, "search.engine_options")
    limit = {} if search.trial_timeout is None else {"timeout": search.trial_timeout}
    if limit and not takes_timeout(make):
        rule = "`search.engine` must take `timeout` where `search.trial_timeout` is set"
        raise InputError(f"{rule}; found {name!r}, which does not.")
    engine: Engine = make(folder.path, search.workers, **limit)
    if isinstance(engine, SerialEngine):
        engine.runner = context
    return Coordinator(
        folder,
        problem,
        engine,
        sampler_for(study, problem),
        rules=stop_rules(study),
        url=study.storage.url,
        prepare=preparation(study, context),
    )
