"""The coordinator: holds the study's lock, asks, hands trials to an engine, tells; the only writer of a study."""

from __future__ import annotations

import dataclasses
import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ..studies.errors import InputError, RunError, TrialError
from .engines.base import Engine, TrialOutcome, TrialProgress, TrialRequest
from .events import Event, Preparing, StudyFinished, StudyStarted, TrialFinished, TrialStarted
from .lock import coordinator_lock
from .non_dominated import feasible
from .problem import CONTROL, Prepared, Problem
from .record import StudyRecord
from .run_folder import RunFolder
from .score_columns import audit_text
from .stopping import StopRules, stop_rules
from .storage import open_storage, sqlite_url

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["ControlFailedError", "Coordinator", "Interrupted", "coordinator_for"]

POLL_SECONDS = 0.5
# no room, over a quota, mounted read-only, a failing disk
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the run; everything that had finished is stored, what was running will rerun."""


class ControlFailedError(TrialError):
    """The dense control, which every score is stated against, failed; the study cannot go on."""


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
        self._stopping = False
        self._waiting = False
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
        with coordinator_lock(self._folder.lock, self._url, name=self._problem.name), self._signals():
            try:
                self._problem = self._prepared(on_event)
                database = open_storage(self._url, create=True)
                try:
                    finished = self._run(StudyRecord(database, self._problem, self._sampler), on_event)
                finally:
                    self._engine.stop()
                    # folds the write-ahead log into the database, so that a finished run is one file
                    database.engine.dispose()
            except KeyboardInterrupt:
                raise Interrupted("what had finished is stored, and what was running will rerun.") from None
            except (OSError, StorageInternalError) as error:
                raise self._unwritable(error) from error
        on_event(finished)
        return finished

    def _unwritable(self, error: Exception) -> Exception:
        """A full or failing disk, or a server that has gone, in one line; anything else as it is."""
        cause = error.__cause__ or error
        if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
            return error
        reason = " ".join(str(cause).split("\n", 1)[0].split())
        return RunError(
            f"{self._folder.path} and its database must be writable while a study runs; found that they are not "
            f"({reason}). What had finished is stored: mend it, then resume."
        )

    def _prepared(self, on_event: Callable[[Event], None]) -> Problem:
        """The problem, with what is only known under the lock."""
        if self._prepare is None:
            return self._problem
        # whatever it makes, it makes whole or not at all
        with self._interruptible():
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
        self._check_control(record)
        told, flying = 0, set[int]()
        while True:
            self._check_stop()
            # the control runs alone: what follows is scored against it
            while len(flying) < self._engine.workers and CONTROL not in flying:
                trial = adopted.pop(0) if adopted else self._next(record, start)
                if trial is None:
                    break
                stored = self._stored(trial)
                if stored is not None:
                    self._tell(record, stored, on_event)
                    told += 1
                    continue
                self._folder.discard(trial.number)
                role = trial.user_attrs["role"]
                on_event(TrialStarted(trial.number, role, trial.params))
                self._engine.submit(TrialRequest(trial.number, trial.params, role, record.standing))
                flying.add(trial.number)
                self._check_stop()
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
            self._stopped = self._rules.reason(
                elapsed=time.monotonic() - start,
                device_seconds=record.device_seconds,
                hypervolumes=record.hypervolumes,
            )
            return record.ask() if self._stopped is None else None
        return None

    def _stored(self, trial: FrozenTrial) -> TrialOutcome | None:
        """What a dead run finished but did not tell, or told to a database that has lost it since."""
        result = self._folder.result(trial.number)
        if result is None or result.get("params") != dict(trial.params):
            return None
        return TrialOutcome(trial.number, result)

    def _tell(self, record: StudyRecord, outcome: TrialOutcome, on_event: Callable[[Event], None]) -> None:
        if self._folder.result(outcome.number) is None:
            self._folder.publish(self._folder.attempt(outcome.number), outcome.number, outcome.result)
        trial = record.tell(outcome.number, outcome.result)
        attributes = trial.user_attrs
        on_event(
            TrialFinished(
                number=trial.number,
                role=attributes["role"],
                state=STATES[trial.state],
                params=trial.params,
                values={name: score["value"] for name, score in attributes.get("scores", {}).items()},
                feasible=feasible(trial),
                reason=attributes.get("reason"),
                seconds=attributes.get("seconds"),
                finished=record.finished,
                trials=self._trials,
                front=record.front,
                hypervolume=record.hypervolume,
                history=outcome.result.get("history") or (),
                audit=audit_text(attributes.get("scores", {})),
            )
        )
        self._check_control(record)

    def _check_control(self, record: StudyRecord) -> None:
        control = record.control
        if control is not None and control.state == TrialState.FAIL:
            reason = control.user_attrs.get("reason", "no reason stored")
            where = self._folder.trial(CONTROL)
            raise ControlFailedError(
                f"the dense control (trial 0) failed: {reason} (see {where}); to begin anew, remove the run's folder "
                "or give the run another --name."
            )

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

        with self._interruptible():
            self._check_stop()
            return self._engine.poll(POLL_SECONDS, report)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _check_stop(self) -> None:
        if self._stopping:
            raise KeyboardInterrupt

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end a wait at once, and anything else at its next safe point; a second one insists."""

        def stop(number: int, frame: Any) -> None:
            insist, self._stopping = self._stopping, True
            if self._waiting or insist:
                raise KeyboardInterrupt

        self._stopping = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def coordinator_for(folder: RunFolder, study: Study) -> Coordinator:
    """The coordinator of a real study: builds its data, space, objectives, targets, sampler and engine.

    Args:
        folder: The run's folder, which holds the frozen study file that engines read.
        study: The same study; its trials, timeout, workers, engine and storage may have been changed.

    Raises:
        InputError: Data, checkpoint, model, target, device, or an option of the sampler is wrong.
    """
    from ..studies.registry import bind
    from .cost import needs_cost_table
    from .cost_measurement import load_or_measure
    from .engines.serial import SerialEngine
    from .trial import TrialContext

    search = study.search
    context = TrialContext(folder.path, search.workers, study)
    problem = context.problem()
    # a process cannot end itself
    alone = search.workers == 1 and search.trial_timeout is None
    name = search.engine or ("serial" if alone else "processes")
    make = bind("engine", name, search.engine_options, "search.engine_options")
    limit = {} if search.trial_timeout is None else {"timeout": search.trial_timeout}
    engine: Engine = make(folder.path, search.workers, **limit)
    if isinstance(engine, SerialEngine):
        engine.runner = context
    try:
        sampler = bind("sampler", search.sampler, search.options, "search")(problem.distributions, study.study.seed)
    except ValueError as error:
        raise InputError(f"`search` must take its options; found that {error}") from None
    if problem.knowledge is not None and hasattr(sampler, "inform"):
        sampler.inform(problem.knowledge)

    def measure(announce: Callable[[str], None]) -> Prepared:
        table = load_or_measure(context, announce)
        return Prepared({"cost_table": table.digest}, tuple(table.remarks()))

    return Coordinator(
        folder,
        problem,
        engine,
        sampler,
        rules=stop_rules(study),
        url=study.storage.url,
        prepare=measure if needs_cost_table(study) else None,
    )
