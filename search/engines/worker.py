"""A worker process of `ProcessEngine`: runs the trials it is sent, and dies with its coordinator."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from ...studies.errors import ForgefrontError, RunError
from .base import TrialProgress, load_runner, threads_per_worker

__all__ = ["worker_main"]

PR_SET_PDEATHSIG = 1
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def worker_main(connection: Connection, reference: str, run_folder: str, workers: int, coordinator: int) -> None:
    """The life of one worker.

    Args:
        connection: Requests come in; ``("started", None)``, ``("progress", TrialProgress)``, ``("outcome",
            TrialOutcome)`` and ``("unusable", text)`` go out.
        reference: The runner, as ``"module:attribute"``.
        run_folder: The run's folder.
        workers: How many workers share this machine's cores.
        coordinator: Process id of the parent.
    """
    # a Ctrl-C in the terminal reaches every process of the group; the coordinator alone decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(coordinator)
    # torch draws hidden progress bars, whose default lock is a system semaphore that a terminated process leaves behind
    tqdm.set_lock(threading.RLock())
    for variable in THREAD_VARIABLES:
        # read when the numeric libraries are loaded, so before the runner imports them
        os.environ.setdefault(variable, str(threads_per_worker(workers)))

    def report(progress: TrialProgress) -> None:
        connection.send(("progress", progress))

    # a closed pipe means that the coordinator has gone
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            runner = load_runner(reference, Path(run_folder), workers)
        except ForgefrontError as error:
            connection.send(("unusable", str(error)))
            return
        while (request := connection.recv()) is not None:
            connection.send(("started", None))
            try:
                outcome = runner(request, report)
            except RunError as error:
                connection.send(("unusable", str(error)))
                return
            connection.send(("outcome", outcome))


def _die_with(coordinator: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(coordinator,), daemon=True).start()


def _watch(coordinator: int) -> None:
    # an orphan gets another parent; this also covers a coordinator that died before prctl, and systems without it
    while os.getppid() == coordinator:
        time.sleep(0.5)
    os._exit(1)
