"""Attacks: bounds, gradients, seeds, and that a stronger attack is never weaker."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from forgefront.trainers.attacks.base import input_gradient, uniform_noise
from forgefront.trainers.attacks.pgd import PGDAT, pgd, pgd_examples
from forgefront.trainers.attacks.single_step import FGSMRS, NFGSM
from forgefront.trainers.data.digits import digits

EPSILON = 0.1
ATTACKS = [NFGSM(epsilon=EPSILON), FGSMRS(epsilon=EPSILON), PGDAT(epsilon=EPSILON, steps=3)]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


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


def survivors(victim, **options) -> Tensor:
    model, images, targets = victim
    settings = {"epsilon": EPSILON, "step_size": EPSILON / 4, "steps": 5, "restarts": 1, "generator": draws()}
    return pgd(model, images, targets, loss=loss, correct=correct, **{**settings, **options})


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


def test_pgd_with_no_radius_is_clean_accuracy(victim):
    model, images, targets = victim
    assert torch.equal(survivors(victim, epsilon=0.0), correct(model(images), targets))


def test_restarts_can_only_break_more(victim):
    results = [survivors(victim, epsilon=0.04, step_size=0.02, steps=2, restarts=count) for count in (1, 2, 4, 8)]
    assert results[-1].sum() < results[0].sum()
    for fewer, more in pairwise(results):
        assert (fewer | ~more).all()


def test_accuracy_falls_with_epsilon_to_nothing(victim):
    rates = [float(survivors(victim, epsilon=e, step_size=e / 4, steps=10).float().mean()) for e in (0, 0.03, 0.1, 0.5)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9
    assert rates[-1] == 0.0


def test_more_steps_never_help_the_model(victim):
    rates = [float(survivors(victim, epsilon=0.05, step_size=0.0125, steps=n).float().mean()) for n in (1, 5, 20)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.1])
def test_pgd_is_never_weaker_than_fgsm_nor_than_noise(victim, epsilon):
    model, images, targets = victim
    gradient, _ = input_gradient(model, images, targets, loss)
    fgsm = (images + epsilon * gradient.sign()).clamp(0, 1)
    noise = (images + uniform_noise(images, epsilon, draws())).clamp(0, 1)
    under_pgd = survivors(victim, epsilon=epsilon, step_size=epsilon / 4, steps=10, restarts=2).sum()
    for other in (fgsm, noise):
        assert under_pgd <= correct(model(other), targets).sum()


def test_pgd_leaves_mode_gradients_and_statistics_alone(victim):
    model, *_ = victim
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    survivors(victim)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()


def test_examples_stay_in_bounds_and_break_what_pgd_breaks(victim):
    model, images, targets = victim
    settings = {"loss": loss, "correct": correct, "epsilon": 0.05, "step_size": 0.0125, "steps": 5, "restarts": 2}
    robust = pgd(model, images, targets, generator=draws(), **settings)
    examples = pgd_examples(model, images, targets, generator=draws(), **settings)
    assert (examples - images).abs().max() <= 0.05 + 1e-6
    assert examples.min() >= 0
    assert examples.max() <= 1
    assert torch.equal(correct(model(examples), targets), robust)
    assert (loss(model(examples), targets) >= loss(model(images), targets) - 1e-6).all()


def test_a_model_of_constant_or_nan_outputs_is_attacked_without_error(victim):
    _, images, targets = victim

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (0.0 * x.flatten(1)[:, :10]) / 0.0

    def sure(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets) & ~outputs.isnan().any(1)

    robust = pgd(
        Broken(), images, targets, loss=loss, correct=sure, epsilon=0.1, step_size=0.02, steps=2, restarts=1,
        generator=draws(),
    )  # fmt: skip
    assert not robust.any()
