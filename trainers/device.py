"""From a study's device name to a torch device that exists on this machine."""

from __future__ import annotations

import re

import torch

from ..studies.errors import DeviceError

__all__ = ["resolve_device"]


def resolve_device(name: str = "auto") -> torch.device:
    """The device that `name` stands for.

    Args:
        name: ``"auto"`` (the first CUDA device, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        DeviceError: The name is none of these, or this machine has no such device.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    match = re.fullmatch(r"(?:auto|cuda(?::(\d+))?)", name)
    if match is None:
        raise DeviceError(f'`training.device` must be auto, cpu, cuda or cuda:N; found "{name}".')
    number = int(match.group(1) or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        there = f"{count} CUDA device{'' if count == 1 else 's'}"
        raise DeviceError(f'`training.device` is "{name}", but this machine has {there}. Did you mean "cpu"?')
    return torch.device("cuda", number)
