"""Training attacks: bounds, gradients, seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from forgefront.trainers.attacks.base import input_gradient, uniform_noise
from forgefront.trainers.attacks.multi_step import PGDAT
from forgefront.trainers.attacks.single_step import FGSMRS, NFGSM
from forgefront.trainers.data.digits import digits

EPSILON = 0.1
ATTACKS = [NFGSM(epsilon=EPSILON), FGSMRS(epsilon=EPSILON), PGDAT(epsilon=EPSILON, steps=3)]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained on real digits, and 128 of them."""
    data = digits(upsampling="nearest")
    images, labels = data.train.images[:512, :, ::2, ::2].float() / 255, data.train.labels[:512]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(images), labels).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), images[:128], labels[:128]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_training_attacks_stay_in_bounds_and_raise_the_loss(victim, attack):
    model, images, targets = victim
    adversarial = attack(model, images, targets, loss, draws())
    radius = 3 * EPSILON if isinstance(attack, NFGSM) else EPSILON
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    assert (adversarial - images).abs().max() <= radius + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert loss(model(adversarial), targets).mean() > loss(model(images), targets).mean() + 0.5


def test_n_fgsm_goes_beyond_epsilon_on_purpose(victim):
    model, images, targets = victim
    adversarial = NFGSM(epsilon=EPSILON)(model, images, targets, loss, draws())
    assert (adversarial - images).abs().max() > 1.5 * EPSILON


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_training_attacks_touch_no_parameter_and_repeat_with_the_seed(victim, attack):
    model, images, targets = victim
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again, other = (attack(model, images, targets, loss, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("attack", [NFGSM(epsilon=0.0), FGSMRS(epsilon=0.0), PGDAT(epsilon=0.0)])
def test_epsilon_zero_changes_nothing(victim, attack):
    model, images, targets = victim
    assert torch.equal(attack(model, images, targets, loss, draws()), images)


def test_input_gradient_is_the_gradient():
    model = nn.Linear(4, 3)
    images, targets = torch.rand(5, 4), torch.arange(5) % 3
    gradient, outputs = input_gradient(model, images, targets, loss)
    probabilities = outputs.softmax(1) - functional.one_hot(targets, 3)
    assert torch.allclose(gradient, probabilities @ model.weight, atol=1e-6)
    assert model.weight.grad is None


def test_noise_fills_its_range():
    noise = uniform_noise(torch.empty(1000), 0.5, draws())
    assert -0.5 <= noise.min() < -0.45
    assert 0.45 < noise.max() <= 0.5
