"""A training's state on disk at the end of an epoch, so that a trial that was interrupted goes on where it was.

A file holds tensors and plain data alone, is read with `weights_only`, and is whole or not there. It names what it
belongs to by a digest of all that the training depends on; one of another training, a damaged or an unreadable one
counts as none, and a disk that is full costs the checkpoint, not the trial.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..studies.atomic_file import published

__all__ = ["Checkpoints", "identity", "module_state", "random_state", "restore_modules", "restore_random_state"]

FORMAT = 2
SECONDS = 20.0
PLAIN = (bool, int, float, str)


class Checkpoints:
    """The one checkpoint of a training, renewed at the end of an epoch.

    When it is written depends on the clock, what the training does never on whether it is.

    Args:
        path: The file; its folder is made when first needed.
        every: Seconds of training that lie between two of them, at least; None for 20.

    Attributes:
        seconds_before: What the training had taken in earlier lives, as far as the file that was loaded knows.
    """

    def __init__(self, path: Path, *, every: float | None = None) -> None:
        self.path, self.every = path, SECONDS if every is None else every
        self.seconds_before = 0.0
        self._begun = self._last = time.monotonic()
        self._saved = False

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() - self._last >= self.every

    def save(self, digest: str, state: Mapping[str, Any]) -> None:
        """Write `state` over the last one; where that is impossible the last one stays, or there is none."""
        seconds = self.seconds_before + time.monotonic() - self._begun
        content = {"format": FORMAT, "digest": digest, "seconds": seconds, "state": dict(state)}
        # torch reports a full disk as a RuntimeError of its archive writer
        with contextlib.suppress(OSError, RuntimeError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with published(self.path) as file:
                torch.save(content, file)
            self._saved = True
        self._last = time.monotonic()

    def load(self, digest: str) -> dict[str, Any] | None:
        """The state that `save` wrote for the same digest, on the CPU; None where there is none."""
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged archive fails in whatever way its bytes have it; training begins anew
            return None
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("digest") != digest:
            return None
        # one of this life's counts what this life's own clock does
        if not self._saved:
            self.seconds_before = float(found["seconds"])
        state: dict[str, Any] = found["state"]
        return state

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def identity(facts: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of what a training depends on.

    Args:
        facts: JSON values.
        tensors: Names and starting values.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def module_state(model: nn.Module) -> dict[str, Any]:
    """All that a model's modules hold: parameters and buffers, those that are not kept otherwise too, and flags.

    The tensors are those in use, not copies.
    """
    tensors = {name: tensor.detach() for name, tensor in _tensors(model).items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    flags = {name: _flags(module) for name, module in model.named_modules()}
    return {"tensors": tensors, "trained": trained, "flags": {name: found for name, found in flags.items() if found}}


@torch.no_grad()
def restore_modules(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put what `module_state` gave into a model of the same structure."""
    for name, tensor in _tensors(model).items():
        tensor.copy_(state["tensors"][name])
    trained = set(state["trained"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for name, module in model.named_modules():
        for key, value in state["flags"].get(name, {}).items():
            setattr(module, key, value)


def random_state(device: torch.device) -> list[Tensor]:
    """States of torch's global generators that work on `device` draws from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def restore_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put torch's global generators back to what `random_state` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _flags(module: nn.Module) -> dict[str, Any]:
    """A module's plain numbers, words and switches, such as whether a simulator is at work."""
    return {key: value for key, value in vars(module).items() if type(value) in PLAIN}
