"""Batch-norm statistics against the averages they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgefront.trainers.batch_norm import reestimate_statistics


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3, momentum=0.1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3.0 + 2.0 * torch.randn(8, 3, 4, 4, generator=generator) for _ in range(count)]


def test_statistics_are_the_averages_over_the_batches(model):
    images = batches(5)
    reestimate_statistics(model, images)
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in images]).mean(0)
    variances = torch.stack([batch.var(dim=(0, 2, 3)) for batch in images]).mean(0)
    assert torch.allclose(model[0].running_mean, means, atol=1e-5)
    assert torch.allclose(model[0].running_var, variances, atol=1e-4)


def test_nothing_else_changes_and_the_model_is_in_evaluation_mode(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reestimate_statistics(model, batches(2))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert not any(module.training for module in model.modules())
    assert (model[0].momentum, model[2].momentum) == (0.1, 0.1)


def test_once_and_twice_are_the_same(model):
    images = batches(3)
    reestimate_statistics(model, images)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reestimate_statistics(model, images)
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())


def test_batches_may_be_made_with_the_model_as_it_is_between_them(model):
    modes = []

    def attacked():
        for images in batches(2):
            modes.append(any(module.training for module in model.modules()))
            yield images

    reestimate_statistics(model, attacked())
    assert modes == [False, False]


def test_without_batches_the_statistics_stay(model):
    before = model[0].running_mean.clone()
    reestimate_statistics(model, [])
    assert torch.equal(model[0].running_mean, before)
