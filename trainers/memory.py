"""Training in less memory: a batch in parts whose gradients add up to the whole batch's.

The loss of a batch of N images is a mean over them; of a part of n it counts n / N, so that the step is that of the
whole batch. What looks at a batch as a whole, or draws for it, sees the parts: batch norm normalises each by itself;
the ranges of quantized outputs follow one part after another; dropout, stochastic depth and the random starts of
attacks draw for each part anew. So a training in parts is as good as one without, and not the same to the last bit.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from .tasks.base import Batch

__all__ = ["MOST_HALVINGS", "give_memory_back", "is_out_of_memory", "parts_of"]

MOST_HALVINGS = 3
"""How often a batch is halved before the trial is given up."""

# the CPU's allocator, oneDNN and CUDA's libraries raise a plain RuntimeError; what oneDNN says of a lack of memory
# it says of other faults too, which smaller batches then leave as they were
SIGNS = (
    "could not create a primitive",
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory, of the host or of an accelerator, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def give_memory_back() -> None:
    """Free what a failed attempt left; call it once nothing refers to its tensors, its error's traceback included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parts_of(batch: Batch, parts: int) -> Iterator[Batch]:
    """The batch in `parts` nearly equal ones, each with its own views; no part is empty.

    Args:
        batch: (N, …), with V·N views or without.
        parts: At least 1; the batch itself for 1.
    """
    count = len(batch.images)
    if parts == 1 or count == 1:
        yield batch
        return
    views = None if batch.views is None else batch.views.unflatten(0, (-1, count))
    for chosen in torch.arange(count, device=batch.indices.device).tensor_split(min(parts, count)):
        start, end = int(chosen[0]), int(chosen[-1]) + 1
        part = None if views is None else views[:, start:end].flatten(0, 1)
        yield Batch(batch.images[start:end], batch.targets[start:end], batch.indices[start:end], part)
