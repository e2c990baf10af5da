"""One independent worker: asks, runs and tells trials of a study that others work on too, one writer at a time."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ...studies.errors import RunError
from ..coordinator import Interrupted
from ..engines.base import Engine, TrialOutcome, TrialRequest
from ..events import Event, Preparing, StudyFinished, StudyStarted, TrialStarted
from ..holder import Holder
from ..interrupts import Interrupts
from ..patience import patiently
from ..problem import CONTROL, Prepared, Problem
from ..run_folder import RunFolder
from ..server_lock import ServerSession, is_lost
from ..server_record import ServerRecord
from ..stopping import StopRules
from ..storage import open_storage
from ..telling import check_control, finished_event, stored_outcome, tell
from .claims import Claims

__all__ = ["PRESUMED_DEAD", "Worker"]

PRESUMED_DEAD = 60.0
POLL_SECONDS = 0.5
LONGEST_WAIT = 5.0
# stretches of work that one worker does at a time, beside trials 0 and up
WRITING, PREPARING = -1, -2


@dataclass(frozen=True)
class _Next:
    """What comes next: a trial to run, or waiting for others' trials, or the end and why it came early."""

    trial: FrozenTrial | None = None
    wait: bool = False
    stopped: str | None = None


class Worker:
    """Works on a study until it holds the trials asked for and none of them runs any more.

    Asking and telling happen under a lock on the server, with the study as it then stands, so that the rules of a
    single writer hold: every number once, no configuration twice, the control before anything else, and a stored result
    is told and not computed again. A trial whose worker died is taken over under its own number.

    Args:
        folder: The run's folder, on storage that all workers share.
        problem: The search.
        engine: What runs this worker's trials, one at a time.
        sampler: An Optuna sampler.
        rules: When no further trial begins; its `timeout` counts this worker's life.
        url: Storage URL of a PostgreSQL server.
        presumed_dead: Seconds without a sign of life after which a worker whose session is gone counts as dead.
        prepare: Called by one worker at a time, before the study is opened; see `Coordinator`.
    """

    _session: ServerSession
    _claims: Claims

    def __init__(
        self,
        folder: RunFolder,
        problem: Problem,
        engine: Engine,
        sampler: BaseSampler,
        *,
        rules: StopRules,
        url: str,
        presumed_dead: float = PRESUMED_DEAD,
        prepare: Callable[[Callable[[str], None]], Prepared] | None = None,
    ) -> None:
        self._folder = folder
        self._problem = problem
        self._engine = engine
        self._sampler = sampler
        self._rules = rules
        self._url = url
        self._presumed_dead = presumed_dead
        self._prepare = prepare
        self._interrupts = Interrupts()
        self._on_event: Callable[[Event], None] = lambda event: None
        self._told: set[int] = set()
        self._begun = time.monotonic()

    def run(self, on_event: Callable[[Event], None] = lambda event: None) -> StudyFinished:
        """Work; `on_event` is called in this thread.

        Raises:
            LockHeldError: A coordinator holds the study.
            StudyMismatchError: The study began with another study file, data or checkpoint.
            RunError: The server does not answer or is not PostgreSQL, or no trial can run here.
            ControlFailedError: Trial 0 failed, here or elsewhere.
            Interrupted: Ctrl-C or SIGTERM; the trial is given back.
        """
        self._on_event, self._begun = on_event, time.monotonic()
        holder = Holder.myself()
        with self._interrupts.caught():
            try:
                session = ServerSession(self._url, self._problem.name, holder, role="worker")
                try:
                    session.hold_study(shared=True)
                    self._session = session
                    self._claims = Claims(session, holder, self._presumed_dead)
                    finished = self._work(*self._opened())
                finally:
                    self._engine.stop()
                    session.close()
            except KeyboardInterrupt:
                raise Interrupted("what had finished is stored, and the trial that ran here was given back.") from None
            except (SQLAlchemyError, StorageInternalError) as error:
                reason = " ".join(str(error.__cause__ or error).split("\n", 1)[0].split())
                raise RunError(f"`storage.url` must name a server that answers; found that {reason}.") from error
        on_event(finished)
        return finished

    def _opened(self) -> tuple[ServerRecord, tuple[str, ...]]:
        """The study, made by whichever worker comes first, and remarks on it."""
        problem = self._problem
        remarks: tuple[str, ...] = ()
        with self._session.alone(PREPARING, self._interrupts.check):
            if self._prepare is not None:
                prepared = self._prepare(self._say)
                remarks = prepared.remarks
                inputs = {**problem.fingerprint.get("inputs", {}), **prepared.inputs}
                problem = dataclasses.replace(problem, fingerprint={**problem.fingerprint, "inputs": inputs})
            with self._session.alone(WRITING, self._interrupts.check):
                return ServerRecord(open_storage(self._url, create=True), problem, self._sampler), remarks

    def _work(self, record: ServerRecord, remarks: tuple[str, ...]) -> StudyFinished:
        if not record.trials and self._folder.result(CONTROL) is not None:
            raise RunError(
                f"`storage.url` must hold the trials of {self._folder.path}; found a database without them beside "
                "their stored results. Did you mean another URL, or another --name?"
            )
        name, trials = self._problem.name, max(self._rules.trials, len(record.trials))
        self._on_event(StudyStarted(name, trials, record.finished, (), tuple(record.warnings), remarks))
        outcome: tuple[FrozenTrial, TrialOutcome] | None = None
        while True:
            following = self._between_trials(record, outcome)
            outcome = None
            if following.trial is not None:
                outcome = self._run_trial(record, following.trial)
            elif following.wait:
                self._pause(random.uniform(0.5, 1.0) * min(LONGEST_WAIT, self._presumed_dead / 2))
            else:
                break
        return StudyFinished(
            trials=len(record.trials),
            asked=max(self._rules.trials, len(record.trials)),
            failed=record.failed,
            ran=len(self._told),
            front=record.front,
            hypervolume=record.hypervolume,
            stopped=following.stopped,
        )

    # under the lock

    def _between_trials(self, record: ServerRecord, ended: tuple[FrozenTrial, TrialOutcome] | None) -> _Next:
        """Tell what has ended and claim what comes next, with nobody else writing meanwhile."""

        def write() -> _Next:
            with self._session.alone(WRITING, self._interrupts.check):
                record.refresh()
                if ended is not None:
                    self._settle(record, *ended)
                check_control(self._folder, record)
                return self._claimed(record)

        def recover() -> None:
            self._rejoin()
            with self._session.alone(WRITING, self._interrupts.check):
                record.reopen()

        try:
            return patiently(write, recover, say=self._say, wait=self._pause)
        except BaseException:
            if ended is not None:
                self._give_back(record, ended[0])
            raise

    def _settle(self, record: ServerRecord, trial: FrozenTrial, outcome: TrialOutcome) -> None:
        found = record.trials[trial.number]
        if not self._claims.is_mine(found):
            self._say(f"trial {trial.number} is not told: {self._claims.owner(found)} has taken it over")
        else:
            # told already where the connection was lost between the server's commit and its answer
            if not found.state.is_finished():
                found = tell(self._folder, record, outcome)
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._on_event(finished_event(record, found, outcome, max(self._rules.trials, len(record.trials))))
        self._claims.release(trial)

    def _claimed(self, record: ServerRecord) -> _Next:
        while (trial := self._claims.take_over(record)) is not None:
            stored = stored_outcome(self._folder, trial)
            if stored is None:
                self._say(f"taking over trial {trial.number}, whose worker is gone")
                return _Next(trial)
            record.refresh()
            self._settle(record, trial, stored)
            check_control(self._folder, record)
        control, count = record.control, len(record.trials)
        if control is not None and control.state == TrialState.RUNNING:
            return _Next(wait=True)
        stopped = None
        if count < self._rules.trials:
            stopped = self._rules.reason(record, elapsed=time.monotonic() - self._begun)
            if stopped is None:
                trial = record.ask()
                self._claims.take(record, trial)
                return _Next(trial)
        if record.running:
            # someone must be left to take over what dies at the very end
            return _Next(wait=True)
        # not when a trial is taken over: whoever left it may only seem to be dead, and still write there
        self._folder.discard_attempts()
        return _Next(stopped=stopped)

    # beside the others

    def _run_trial(self, record: ServerRecord, trial: FrozenTrial) -> tuple[FrozenTrial, TrialOutcome] | None:
        """Run a trial to its end; None when someone else has it by then."""
        try:
            self._folder.discard(trial.number)
            role = trial.user_attrs["role"]
            self._on_event(TrialStarted(trial.number, role, trial.params))
            self._engine.submit(TrialRequest(trial.number, trial.params, role, record.standing))
            signed = time.monotonic()
            while True:
                with self._interrupts.waiting():
                    outcomes = self._engine.poll(POLL_SECONDS, self._on_event)
                if outcomes:
                    return trial, outcomes[0]
                if time.monotonic() - signed > self._presumed_dead / 4:
                    signed = time.monotonic()
                    if not self._still_mine(trial):
                        self._leave(trial)
                        return None
        except BaseException as error:
            # the folder of an attempt is removed once others have finished the study without it
            if isinstance(error, Exception) and not self._still_mine(trial):
                self._leave(trial)
                return None
            self._engine.stop()
            self._give_back(record, trial)
            raise

    def _leave(self, trial: FrozenTrial) -> None:
        self._say(f"trial {trial.number} is left: another worker has taken it over")
        self._engine.stop()
        self._claims.release(trial)

    def _still_mine(self, trial: FrozenTrial) -> bool:
        """Give a sign of life; without a connection the trial goes on, for its result will be on disk."""
        try:
            return self._claims.sign(trial)
        except Exception as error:
            if not is_lost(error):
                raise
        with suppress(SQLAlchemyError):
            self._rejoin()
            return self._claims.sign(trial)
        return True

    def _give_back(self, record: ServerRecord, trial: FrozenTrial) -> None:
        # in vain without a connection: others then wait until this worker is presumed dead
        with suppress(SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError):
            record.refresh()
            if self._claims.is_mine(record.trials[trial.number]):
                self._claims.give_back(record, trial)

    def _rejoin(self) -> None:
        try:
            self._session.execute("SELECT 1")
        except SQLAlchemyError:
            self._claims.session_lost()
            self._session.reconnect()
            self._session.hold_study(shared=True)

    def _pause(self, seconds: float) -> None:
        with self._interrupts.waiting():
            time.sleep(seconds)

    def _say(self, text: str) -> None:
        self._on_event(Preparing(text))
