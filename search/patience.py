"""Waiting for a database server that has gone: what was being written is tried again, from what it then holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from .server_lock import is_lost

__all__ = ["patiently"]

T = TypeVar("T")

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
PATIENCE_SECONDS = 3600.0


def patiently(
    operation: Callable[[], T],
    recover: Callable[[], None],
    *,
    say: Callable[[str], None] = lambda text: None,
    wait: Callable[[float], None] = time.sleep,
    patience: float = PATIENCE_SECONDS,
) -> T:
    """The result of `operation`, tried again after every connection that is lost in it.

    Args:
        operation: Reads and writes; after `recover` it must go on from what the server holds, for a transaction may
            have been committed although the answer never came.
        recover: Makes the connection anew; may lose it again.
        say: Told once that the connection is lost, and once that it is back.
        wait: Called between attempts with seconds that double up to half a minute, a little shuffled so that many
            clients do not come back at once.
        patience: Seconds without a connection after which the error is raised.
    """
    delay, lost = FIRST_SECONDS, None
    while True:
        try:
            if lost is not None:
                recover()
            result = operation()
        except Exception as error:
            if not is_lost(error):
                raise
            now = time.monotonic()
            if lost is None:
                lost = now
                say("the connection to the study's server is lost; trying again")
            if now - lost > patience:
                raise
            wait(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, LONGEST_SECONDS)
        else:
            if lost is not None:
                say("the study's server is back")
            return result
