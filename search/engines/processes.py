"""Trials in N local processes that outlive a trial but not the coordinator; a trial whose process dies is run again."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ...studies.errors import RunError
from ..run_folder import RunFolder
from .base import REAL_TRIALS, Report, TrialOutcome, TrialRequest, failure
from .memory_kills import memory_kills
from .worker import worker_main

__all__ = ["ProcessEngine"]

ATTEMPTS = 2
GRACE_SECONDS = 2.0


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    request: TrialRequest | None = None
    attempt: int = 0
    since: float = 0.0
    spent: float = 0.0
    memory_kills: int = 0


class ProcessEngine:
    """Runs up to `workers` trials at once, each in a spawned process that is kept for the next one.

    A process that dies under a trial is replaced and the trial run once more, in smaller batches if the kernel killed
    it for want of memory; if that one dies too, the trial has failed, and says how. So has one that runs for too long.

    Args:
        run_folder: The run's folder.
        workers: How many processes, started when first needed.
        runner: What runs a trial, as ``"module:attribute"``.
        timeout: Seconds after which a trial is ended; a process that has yet to start gets as many before. None lets
            trials run.

    Raises:
        ValueError: `workers` is less than 1.
    """

    def __init__(
        self, run_folder: Path, workers: int, *, runner: str = REAL_TRIALS, timeout: float | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"`workers` must be at least 1; found {workers}.")
        self.workers = workers
        self._timeout = timeout
        self._folder = RunFolder(run_folder)
        self._reference = runner
        self._pool: list[_Worker] = []

    def submit(self, request: TrialRequest) -> None:
        """Hand a trial to an idle worker, starting one if there is room.

        Raises:
            RuntimeError: All workers are busy.
        """
        self._assign(request, attempt=1)

    def poll(self, timeout: float, report: Report) -> list[TrialOutcome]:
        """Finished trials, after up to `timeout` seconds; empty if none finished.

        Raises:
            RunError: A worker cannot run any trial, for a reason that the message states.
        """
        deadline = time.monotonic() + timeout
        outcomes: list[TrialOutcome] = []
        while not outcomes:
            busy = [worker for worker in self._pool if worker.request is not None]
            left = deadline - time.monotonic()
            if not busy or left <= 0:
                break
            if self._timeout is not None:
                ends = min(worker.since for worker in busy) + self._timeout
                left = min(left, max(0.0, ends - time.monotonic()))
            ready = wait([item for worker in busy for item in (worker.connection, worker.process.sentinel)], left)
            for worker in busy:
                if worker.connection in ready or worker.process.sentinel in ready:
                    outcomes += self._hear(worker, report)
                # one that keeps reporting may be stuck all the same
                late = self._timeout is not None and time.monotonic() - worker.since >= self._timeout
                if late and worker.request is not None and worker in self._pool:
                    outcomes += self._overdue(worker)
        return outcomes

    def stop(self) -> None:
        """End every worker, at once; what they were running is left to a resume."""
        for worker in self._pool:
            if worker.request is not None:
                worker.process.terminate()
            else:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    worker.connection.send(None)
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._pool:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
            self._clear(worker)
        self._pool.clear()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started."""
        return [worker.process.pid for worker in self._pool if worker.process.pid is not None]

    def _assign(self, request: TrialRequest, attempt: int, *, spent: float = 0.0) -> None:
        idle = [worker for worker in self._pool if worker.request is None]
        while idle and not idle[0].process.is_alive():
            self._bury(idle.pop(0))
        if not idle and len(self._pool) >= self.workers:
            raise RuntimeError(f"`submit` must wait for an idle worker; found {self.workers} busy ones.")
        worker = idle[0] if idle else self._start()
        worker.request, worker.attempt, worker.spent = request, attempt, spent
        worker.since, worker.memory_kills = time.monotonic(), memory_kills()
        # a worker that dies right now is noticed by `poll`, like one that dies later
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(request)

    def _start(self) -> _Worker:
        # spawned, because a forked child would inherit locks and threads of torch in any state
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._reference, str(self._folder.path), self.workers, os.getpid())
        process = context.Process(target=worker_main, args=arguments, daemon=True, name="forgefront-worker")
        with _interrupts_held():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._pool.append(worker)
        return worker

    def _hear(self, worker: _Worker, report: Report) -> list[TrialOutcome]:
        try:
            while worker.connection.poll():
                kind, content = worker.connection.recv()
                if kind == "progress":
                    report(content)
                elif kind == "started":
                    worker.since = time.monotonic()
                elif kind == "outcome":
                    worker.request = None
                    return [content]
                else:
                    raise RunError(content)
        except (EOFError, OSError):
            worker.process.join(GRACE_SECONDS)
        if worker.process.is_alive():
            return []
        return self._dead(worker)

    def _dead(self, worker: _Worker) -> list[TrialOutcome]:
        request, attempt, code, seconds = worker.request, worker.attempt, worker.process.exitcode, _seconds(worker)
        self._bury(worker)
        assert request is not None
        result = self._folder.result(request.number)
        if result is not None:
            return [TrialOutcome(request.number, result)]
        if attempt < ATTEMPTS:
            # a kill that memory had no part in must not change the trial
            short = code == -signal.SIGKILL and memory_kills() > worker.memory_kills
            again = dataclasses.replace(request, halvings=request.halvings + 1) if short else request
            self._assign(again, attempt + 1, spent=seconds)
            return []
        return [failure(request, f"its process died {ATTEMPTS} times ({_ending(code)})", seconds=seconds)]

    def _overdue(self, worker: _Worker) -> list[TrialOutcome]:
        """End a worker whose trial has run for too long; a result that it had stored by then counts."""
        request, seconds = worker.request, _seconds(worker)
        assert request is not None
        worker.process.terminate()
        worker.process.join(GRACE_SECONDS)
        # one that hangs in the kernel or in a library does not hear the first signal
        worker.process.kill()
        self._bury(worker)
        result = self._folder.result(request.number)
        if result is not None:
            return [TrialOutcome(request.number, result)]
        reason = f"it ran longer than `search.trial_timeout` ({self._timeout:g} s)"
        return [failure(request, reason, seconds=seconds)]

    def _bury(self, worker: _Worker) -> None:
        self._pool.remove(worker)
        worker.connection.close()
        worker.process.join()
        self._clear(worker)

    def _clear(self, worker: _Worker) -> None:
        """Remove what a process that has ended left of its trial; nobody else's attempt at the same trial."""
        if worker.request is not None and worker.process.pid is not None:
            self._folder.discard_attempts_of(worker.request.number, worker.process.pid)


def _seconds(worker: _Worker) -> float:
    """What the attempts at the worker's trial took so far."""
    return worker.spent + time.monotonic() - worker.since


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    # the child inherits the mask, so that Ctrl-C cannot reach it before it has learned to ignore it
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, out of memory?" if name == "SIGKILL" else name
    return f"exit code {code}"
