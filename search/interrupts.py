"""Ctrl-C and SIGTERM: they end a wait at once, and anything else at its next safe point; a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._stopping = False
        self._waiting = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take both signals for the block, in the main thread; elsewhere they are left alone."""
        self._stopping = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            insist, self._stopping = self._stopping, True
            if self._waiting or insist:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that may be left anywhere."""
        # set before the check: a signal between the two would be heeded only when the block is left
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """A safe point: raises KeyboardInterrupt when asked to stop."""
        if self._stopping:
            raise KeyboardInterrupt
