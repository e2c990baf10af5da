"""Device names."""

from __future__ import annotations

import pytest
import torch

from forgefront.studies.errors import DeviceError
from forgefront.trainers.device import resolve_device


def test_cpu_and_auto_always_exist():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda0", "", "mps"])
def test_other_names_are_refused(name):
    with pytest.raises(DeviceError, match=r"must be auto, cpu, cuda or cuda:N; found"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match=r'is "cuda:99", but this machine has \d+ CUDA device'):
        resolve_device("cuda:99")
