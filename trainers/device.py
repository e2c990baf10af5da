"""From a study's device name to a torch device that exists on this machine."""

from __future__ import annotations

import re

import torch

from ..studies.errors import DeviceError

__all__ = ["resolve_device"]


def resolve_device(name: str = "auto") -> torch.device:
    """The device that `name` stands for; a GPU is set to float32 without TensorFloat-32 and to deterministic kernels.

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
    _make_exact()
    return torch.device("cuda", number)


def _make_exact() -> None:
    # TensorFloat-32 keeps 10 bits of mantissa, too few for simulated codes to equal an integer runtime's; cuDNN's
    # faster backward passes give other weights each time
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
