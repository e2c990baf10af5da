"""Runners of the analytic problem that get into trouble; engines name them."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import analytic

from forgefront.search.engines.base import TrialProgress
from forgefront.studies.errors import RunError


class HangingRunner(analytic.Runner):
    """Trial 2 hangs and hears no signal, trial 3 reports for ever, trial 4 hangs once its result is stored."""

    def __call__(self, request, report):
        if request.number == 2:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        while request.number == 3:
            report(TrialProgress(3, 1, 1, 1, 1, 0.0))
            time.sleep(0.01)
        outcome = super().__call__(request, report)
        if request.number == 4:
            time.sleep(60)
        return outcome


class HungryRunner(analytic.Runner):
    """Trial 2 is killed for want of memory unless its batch is halved, trial 3 is killed once by somebody else.

    The kernel's count is the file that MEMORY_KILLS names.
    """

    def break_it(self, request, result):
        result["halvings"] = request.halvings
        if request.number == 2 and not request.halvings:
            Path(os.environ["MEMORY_KILLS"]).write_text("oom 1\noom_kill 1\n")
            os.kill(os.getpid(), signal.SIGKILL)
        once = self.folder.path / "killed-once"
        if request.number == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class FullDiskRunner(analytic.Runner):
    """Has no room for trial 2 while there is no file ``room``."""

    def break_it(self, request, result):
        if request.number == 2 and not (self.folder.path / "room").exists():
            error = OSError(errno.ENOSPC, "No space left on device")
            raise RunError(f"{self.folder.path} must be writable ({error}).") from error
