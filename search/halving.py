"""Out of memory: the same work again in smaller batches, a few times, before it is given up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from ..objectives.base import Subject
from ..studies.errors import TrialError
from ..trainers.memory import MOST_HALVINGS, give_memory_back, is_out_of_memory

__all__ = ["in_smaller_batches", "measured_in_smaller_batches"]

Result = TypeVar("Result")


def in_smaller_batches(attempt: Callable[[int], Result], batch_size: int, *, halvings: int = 0) -> Result:
    """What ``attempt(halvings)`` returns, called with one more each time that memory does not suffice.

    Args:
        attempt: Works in batches halved so often; must leave nothing behind when it raises.
        batch_size: Before any halving; batches of one image are not tried, since batch norm needs two.
        halvings: What to begin with.

    Raises:
        TrialError: Memory did not suffice for the smallest batches either.
    """
    halvings = min(halvings, MOST_HALVINGS)
    while True:
        try:
            return attempt(halvings)
        except Exception as error:  # whatever says that memory is short; all else is passed on
            if not is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:200] or type(error).__name__
        # out here, where the error no longer holds the attempt's tensors
        if halvings == MOST_HALVINGS or batch_size >> (halvings + 1) < 2:
            smallest = max(1, batch_size >> halvings)
            raise TrialError(f"out of memory, also with batches of {smallest} instead of {batch_size} ({said})")
        give_memory_back()
        halvings += 1


def measured_in_smaller_batches(measure: Callable[[Subject], Result], subject: Subject) -> tuple[Result, list[str]]:
    """What ``measure(subject)`` returns, and what went otherwise than planned, one line each.

    Args:
        measure: Takes the subject's images in batches of its `batch_size`.
        subject: What is measured; with smaller batches where memory is short, and nothing in its cache.

    Raises:
        TrialError: Memory did not suffice for the smallest batches either.
    """

    def attempt(halvings: int) -> tuple[Result, list[str]]:
        size = max(1, subject.batch_size >> halvings)
        lines = [f"measured in batches of {size} instead of {subject.batch_size} (out of memory)"]
        return measure(dataclasses.replace(subject, batch_size=size, cache={})), lines if halvings else []

    return in_smaller_batches(attempt, subject.batch_size)
