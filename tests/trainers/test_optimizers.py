"""Schedules and parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from forgefront.trainers.optimizers import learning_rate_factor, make_optimizer, parameter_groups


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.ones(4, 2))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 0.0 * self.codebook.sum()


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.8535534, 0.5, 0.1464466, 0.0]),
        ("one-cycle", [0.0, 1.0, 2 / 3, 1 / 3, 0.0]),
    ],
)
def test_schedule_at_quarters(schedule, values):
    assert [learning_rate_factor(schedule, quarter / 4) for quarter in range(5)] == pytest.approx(values)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="`schedule` must be cosine, one-cycle or constant"):
        learning_rate_factor("step", 0.5)
    with pytest.raises(ValueError, match="`name` must be sgd, adam or adamw"):
        make_optimizer("lion", [], learning_rate=0.1)


def test_only_weights_of_layers_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    parametrize.register_parametrization(model[3], "weight", Codebook())
    decayed, plain = parameter_groups(model, model.parameters(), 0.01)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].parametrizations.weight.original)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert len(plain["params"]) == 5


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_optimizer_lowers_a_loss(name, momentum):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = make_optimizer(
        name, parameter_groups(model, model.parameters(), 0.0), learning_rate=0.05, momentum=momentum
    )
    inputs, losses = torch.eye(3), []
    for _ in range(20):
        loss = (model(inputs) - 1.0).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
