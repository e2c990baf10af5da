"""Trials on a Ray cluster, from one coordinator: an actor for each worker, which keeps what its trials share."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ...studies.errors import ForgefrontError, RunError
from ..run_folder import RunFolder
from .base import REAL_TRIALS, Report, TrialOutcome, TrialProgress, TrialRequest, TrialRunner, failure, load_runner

__all__ = ["RayEngine"]

ATTEMPTS = 2
START_SECONDS = 120.0
PROGRESS_SECONDS = 1.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Worker:
    """An actor, what it runs, and what is awaited of it."""

    actor: Any
    request: TrialRequest | None = None
    attempt: int = 0
    begun: float = 0.0
    spent: float = 0.0
    node: str = ""
    pid: int = 0
    result: Any = None
    progress: Any = None
    seen: tuple[Any, ...] = field(default=())


class RayEngine:
    """Runs up to `workers` trials at once, each in an actor somewhere on a Ray cluster.

    An actor that dies under a trial (killed, out of memory, its node gone) is replaced and the trial run once more; if
    that one dies too, the trial has failed. Actors die with the coordinator, whose job they belong to.

    Args:
        run_folder: The run's folder, on storage that every node sees at the same path.
        workers: How many actors, started when first needed; Ray queues those that find no room yet.
        runner: What runs a trial, as ``"module:attribute"``.
        address: ``"auto"`` for the cluster that this machine belongs to, ``"local"`` for one of this process's own, or
            an address such as ``ray://head:10001``.
        gpus: GPUs of each trial; a fraction lets trials share one.
        cpus: CPU cores of each trial, also its number of threads unless the study gives one.
        timeout: Seconds after which a trial that still runs is ended, and has failed; None for no limit.

    Raises:
        RunError: Ray is not installed, no cluster answers, or the cluster has no node for such a trial.
    """

    def __init__(
        self,
        run_folder: Path,
        workers: int,
        *,
        runner: str = REAL_TRIALS,
        address: str = "auto",
        gpus: Annotated[float, Field(ge=0)] = 0.0,
        cpus: Annotated[float, Field(gt=0)] = 1.0,
        timeout: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        self.workers = workers
        self._folder = RunFolder(run_folder)
        self._reference = runner
        self._address = address
        self._resources = {"num_gpus": gpus, "num_cpus": cpus}
        self._timeout = timeout
        self._pool: list[_Worker] = []
        self._ray: Any = None
        self._ours = False

    def submit(self, request: TrialRequest) -> None:
        """Hand a trial to an idle actor, starting one if there is room.

        Raises:
            RuntimeError: All actors are busy.
            RunError: See above.
        """
        if self._ray is None:
            self._connect()
        self._assign(request, attempt=1)

    def poll(self, timeout: float, report: Report) -> list[TrialOutcome]:
        """Finished trials, after up to `timeout` seconds; empty if none finished.

        Raises:
            RunError: An actor cannot run any trial, for a reason that the message states.
        """
        deadline = time.monotonic() + timeout
        outcomes: list[TrialOutcome] = []
        while not outcomes:
            busy = [worker for worker in self._pool if worker.request is not None]
            left = deadline - time.monotonic()
            if not busy or left <= 0:
                break
            awaited = [item for worker in busy for item in (worker.result, worker.progress)]
            done = set(self._ray.wait(awaited, num_returns=1, timeout=left)[0])
            for worker in busy:
                if worker.result in done:
                    outcomes += self._ended(worker)
                elif worker.progress in done:
                    self._hear(worker, report)
                elif self._timeout is not None and time.monotonic() - worker.begun > self._timeout:
                    outcomes += self._overdue(worker)
        return outcomes

    def stop(self) -> None:
        """End every actor, at once; what they were running is left to a resume."""
        for worker in self._pool:
            self._end(worker)
        self._pool.clear()
        if self._ours:
            self._ray.shutdown()
        self._ray, self._ours = None, False

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that run, each on its node."""
        return self._ray.get([worker.actor.pid.remote() for worker in self._pool]) if self._pool else []

    def _connect(self) -> None:
        # unless the user says otherwise
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise RunError(
                "`--engine` ray needs Ray; found no package ray. Try: pip install 'forgefront[ray]'"
            ) from None
        if not ray.is_initialized():
            # the user's own code may lie beside what was started, as with other engines
            paths = os.pathsep.join(path for path in (*sys.path, os.getcwd()) if path)
            options: dict[str, Any] = {"include_dashboard": False} if self._address == "local" else {}
            try:
                ray.init(
                    address=self._address,
                    runtime_env={"env_vars": {"PYTHONPATH": paths}},
                    log_to_driver=False,
                    configure_logging=False,
                    **options,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split("\n", 1)[0].split())
                rule = "`search.engine_options.address` must be that of a Ray cluster that answers"
                raise RunError(f'{rule}; found {self._address!r} ({reason}). Did you mean "local"?') from error
            self._ours = True
        self._ray = ray
        try:
            self._check_room()
        except RunError:
            self.stop()
            raise

    def _check_room(self) -> None:
        wanted = {"CPU": self._resources["num_cpus"], "GPU": self._resources["num_gpus"]}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(_fits(wanted, node) for node in nodes):
            most = {key: max((node.get(key, 0.0) for node in nodes), default=0.0) for key in wanted}
            raise RunError(
                f"`search.engine_options` must ask for what one node has (cpus up to {most['CPU']:g}, gpus up to "
                f"{most['GPU']:g}); found cpus {wanted['CPU']:g}, gpus {wanted['GPU']:g}."
            )

    def _assign(self, request: TrialRequest, attempt: int, *, spent: float = 0.0) -> None:
        # an idle one may have died with the one that the trial was on, of which nobody has heard yet
        idle = [worker for worker in self._pool if worker.request is None] if attempt == 1 else []
        if not idle and len(self._pool) >= self.workers:
            raise RuntimeError(f"`submit` must wait for an idle worker; found {self.workers} busy ones.")
        worker = idle[0] if idle else self._start()
        worker.request, worker.attempt, worker.seen = request, attempt, ()
        worker.begun, worker.spent = time.monotonic(), spent
        worker.result = worker.actor.run.remote(request)
        worker.progress = worker.actor.progress.remote(())

    def _start(self) -> _Worker:
        probe = self._folder.path / f".seen-by-all-nodes-{uuid.uuid4().hex}"
        # a trial and questions about it at the same time
        actor = self._ray.remote(_Actor).options(max_concurrency=4, max_restarts=0, **self._resources)
        probe.touch()
        try:
            started = actor.remote(self._reference, str(self._folder.path), self._resources["num_cpus"])
            found, node, pid = self._ray.get(started.sees.remote(str(probe)), timeout=START_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            raise RunError(
                "`search.workers` must be no more than the cluster has room for; an actor found none in "
                f"{START_SECONDS:g} s ({self._resources['num_cpus']:g} CPUs, {self._resources['num_gpus']:g} GPUs)."
            ) from None
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split("\n", 1)[0].split())
            raise RunError(f"`--engine` ray must be able to start Forgefront on every node; found {reason}") from error
        finally:
            probe.unlink(missing_ok=True)
        if not found:
            self._ray.kill(started)
            raise RunError(
                f"`run` must lie on storage that all nodes share at one path; {self._folder.path} is not that folder "
                f"on {node}."
            )
        worker = _Worker(started, node=node, pid=pid)
        self._pool.append(worker)
        return worker

    def _hear(self, worker: _Worker, report: Report) -> None:
        # an actor that has died says so by its trial
        with suppress(self._ray.exceptions.RayError):
            progress = self._ray.get(worker.progress)
            if progress is not None and progress != worker.seen:
                worker.seen = progress
                report(TrialProgress(*progress))
        worker.progress = worker.actor.progress.remote(worker.seen)

    def _ended(self, worker: _Worker) -> list[TrialOutcome]:
        request = worker.request
        assert request is not None
        try:
            kind, content = self._ray.get(worker.result)
        except self._ray.exceptions.RayError as error:
            return self._dead(worker, request, error)
        if kind == "unusable":
            raise RunError(content)
        worker.request = None
        return [TrialOutcome(request.number, content)]

    def _dead(self, worker: _Worker, request: TrialRequest, error: Exception) -> list[TrialOutcome]:
        seconds = worker.spent + time.monotonic() - worker.begun
        self._end(worker)
        self._pool.remove(worker)
        result = self._folder.result(request.number)
        if result is not None:
            return [TrialOutcome(request.number, result)]
        if worker.attempt < ATTEMPTS:
            self._assign(request, worker.attempt + 1, spent=seconds)
            return []
        reason = f"its process died {ATTEMPTS} times ({type(error).__name__}, out of memory?)"
        return [failure(request, reason, seconds=seconds)]

    def _overdue(self, worker: _Worker) -> list[TrialOutcome]:
        request = worker.request
        assert request is not None
        seconds = worker.spent + time.monotonic() - worker.begun
        self._end(worker)
        self._pool.remove(worker)
        result = self._folder.result(request.number)
        if result is not None:
            return [TrialOutcome(request.number, result)]
        reason = f"it ran longer than `search.trial_timeout` ({self._timeout:g} s)"
        return [failure(request, reason, seconds=seconds)]

    def _end(self, worker: _Worker) -> None:
        """Kill an actor, and remove what it left of its trial."""
        with suppress(Exception):  # gone already, or with its cluster
            self._ray.kill(worker.actor)
        if worker.request is not None:
            self._folder.discard_attempts_of(worker.request.number, worker.pid, worker.node)


class _Actor:
    """A worker's process on the cluster."""

    def __init__(self, reference: str, run_folder: str, cpus: float) -> None:
        for variable in THREAD_VARIABLES:
            # read when the numeric libraries are loaded, so before the runner imports them
            os.environ[variable] = str(max(1, int(cpus)))
        self._reference = reference
        self._folder = Path(run_folder)
        self._runner: TrialRunner | None = None
        self._progress: tuple[Any, ...] = ()

    def sees(self, probe: str) -> tuple[bool, str, int]:
        """Whether a file of the coordinator's is here too, this node's name and this process's id."""
        return Path(probe).exists(), platform.node(), os.getpid()

    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def run(self, request: TrialRequest) -> tuple[str, Any]:
        """``("outcome", result)``, or ``("unusable", reason)`` when no trial can run here."""
        self._progress = ()
        if self._runner is None:
            try:
                self._runner = load_runner(self._reference, self._folder, 1)
            except ForgefrontError as error:
                return "unusable", str(error)

        def report(progress: TrialProgress) -> None:
            place = (progress.epoch, progress.epochs, progress.step, progress.steps)
            self._progress = (progress.number, *place, progress.loss)

        try:
            return "outcome", self._runner(request, report).result
        except RunError as error:
            return "unusable", str(error)

    def progress(self, seen: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Fields of the latest progress, None when it is still what was `seen`; answers about once a second."""
        deadline = time.monotonic() + PROGRESS_SECONDS
        while time.monotonic() < deadline:
            if self._progress and self._progress != seen:
                return self._progress
            time.sleep(PROGRESS_SECONDS / 10)
        return None


def _fits(wanted: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(key, 0.0) >= amount for key, amount in wanted.items())
