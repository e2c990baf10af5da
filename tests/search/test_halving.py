"""Smaller batches where memory is short: when they are tried, how small they get, and what speaks of memory."""

from __future__ import annotations

import pytest
import torch

from forgefront.search.halving import in_smaller_batches
from forgefront.studies.errors import TrialError
from forgefront.trainers.memory import is_out_of_memory


@pytest.mark.parametrize("halvings", [0, 1, 3, 9])
def test_halving_begins_where_it_is_told_to_and_ends(halvings):
    tried = []

    def attempt(now):
        tried.append(now)
        return bytearray(2**62)

    with pytest.raises(TrialError, match="also with batches of 8 instead of 64"):
        in_smaller_batches(attempt, 64, halvings=halvings)
    assert tried == list(range(min(halvings, 3), 4))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_short_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
