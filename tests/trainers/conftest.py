"""Two small networks for digits, one trained plainly and one against PGD, that attacks are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from forgefront.trainers.attacks.base import Victim
from forgefront.trainers.attacks.losses import cross_entropy, margin
from forgefront.trainers.attacks.multi_step import PGDAT
from forgefront.trainers.data.digits import digits


@dataclass(frozen=True)
class Attacked:
    """A victim, and test images (N, 3, 16, 16) to attack it on."""

    victim: Victim
    images: Tensor
    targets: Tensor

    def correct(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.victim.correct(self.victim.model(images), self.targets)


def victim_of(model: nn.Module) -> Victim:
    losses = {"cross-entropy": cross_entropy, "margin": margin}
    return Victim(model, losses, lambda outputs, targets: (outputs.argmax(1) == targets) & ~outputs.isnan().any(1))


def _digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to train on, and to test on."""
    data = digits(upsampling="nearest")
    train, test = ((part.images[:, :, ::2, ::2].float() / 255, part.labels) for part in (data.train, data.test))
    return train, test


def _trained(epsilon: float) -> Attacked:
    (images, labels), (test, targets) = _digits()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    draws = torch.Generator().manual_seed(0)
    attack = PGDAT(epsilon=epsilon, steps=4)
    for _ in range(200):
        chosen = torch.randint(len(images), (64,), generator=draws)
        batch = images[chosen]
        if epsilon:
            batch = attack(model, batch, labels[chosen], cross_entropy, draws)
        optimizer.zero_grad()
        cross_entropy(model(batch), labels[chosen]).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return Attacked(victim_of(model.eval()), test[:100], targets[:100])


@pytest.fixture(scope="session")
def plain() -> Attacked:
    return _trained(0.0)


@pytest.fixture(scope="session")
def robust() -> Attacked:
    return _trained(0.15)


@pytest.fixture(scope="session")
def robust_on_200(robust: Attacked) -> Attacked:
    images, targets = _digits()[1]
    return Attacked(robust.victim, images[:200], targets[:200])
