"""Training attacks: steps in units of epsilon, plain FGSM, and what TRADES drives apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from forgefront.trainers.attacks.multi_step import PGDAT, TRADES
from forgefront.trainers.attacks.single_step import FGSMRS, NFGSM, TrainingFGSM
from forgefront.trainers.data.digits import digits
from forgefront.trainers.divergences import kullback_leibler

EPSILON = 0.1


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def divergence(outputs: Tensor, reference: Tensor) -> Tensor:
    return kullback_leibler(reference, outputs.log_softmax(1))


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained on real digits, and 64 of them."""
    data = digits(upsampling="nearest")
    images, labels = data.train.images[:512, :, ::2, ::2].float() / 255, data.train.labels[:512]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(images), labels).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), images[:64], labels[:64]


def reference(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).log_softmax(1)


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_fgsm_moves_every_pixel_by_its_step(victim, step):
    model, images, targets = victim
    adversarial = TrainingFGSM(epsilon=EPSILON, step_size=step)(model, images, targets, loss, draws())
    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(model(leaf), targets).sum(), leaf)
    assert torch.equal(adversarial, (images + step * EPSILON * gradient.sign()).clamp(0, 1))
    assert not adversarial.requires_grad


def test_fgsm_draws_nothing(victim):
    model, images, targets = victim
    generator = draws()
    before = generator.get_state()
    TrainingFGSM(epsilon=EPSILON)(model, images, targets, loss, generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", [PGDAT, FGSMRS, NFGSM, TrainingFGSM])
def test_steps_are_in_units_of_epsilon(victim, kind):
    model, images, targets = victim
    grey = torch.full_like(images, 0.5)
    attack = kind(epsilon=0.02, step_size=0.25, **({"steps": 1} if kind is PGDAT else {}))
    still = kind(epsilon=0.02, step_size=1e-9, **({"steps": 1} if kind is PGDAT else {}))
    moved, start = (one(model, grey, targets, loss, draws()) for one in (attack, still))
    assert (moved - start).abs().max() == pytest.approx(0.005, rel=1e-3)


def test_the_published_step_is_a_quarter_of_epsilon():
    for attack in (PGDAT(epsilon=8 / 255), TRADES(epsilon=8 / 255)):
        assert attack.steps == 10
        assert attack.step_size * attack.epsilon == pytest.approx(2 / 255)
    assert TRADES(epsilon=0.031).beta == 6.0


def test_trades_drives_predictions_apart_without_labels(victim):
    model, images, _ = victim
    attack, plain = TRADES(epsilon=EPSILON, steps=5), reference(model, images)
    adversarial = attack(model, images, plain, divergence, draws())
    assert (adversarial - images).abs().max() <= EPSILON + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    found = divergence(model(adversarial), plain)
    noise = (images + EPSILON * (2 * torch.rand(images.shape, generator=draws()) - 1)).clamp(0, 1)
    assert found.mean() > 10 * divergence(model(noise), plain).mean()
    assert (model(adversarial).argmax(1) != plain.argmax(1)).float().mean() > 0.2


def test_trades_starts_beside_the_images(victim):
    model, images, _ = victim
    start = TRADES(epsilon=EPSILON, steps=0, step_size=1.0)(
        model, images, reference(model, images), divergence, draws()
    )
    noise = torch.randn(images.shape, generator=draws())
    assert torch.equal(start, (images + 0.001 * noise).clamp(0, 1))


def test_trades_touches_no_parameter_and_repeats_with_the_seed(victim):
    model, images, _ = victim
    attack, plain = TRADES(epsilon=EPSILON, steps=2), reference(model, images)
    first, again, other = (attack(model, images, plain, divergence, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_radius_is_no_change(victim):
    model, images, targets = victim
    assert torch.equal(TrainingFGSM(epsilon=0.0)(model, images, targets, loss, draws()), images)
    still = TRADES(epsilon=0.0)(model, images, reference(model, images), divergence, draws())
    assert torch.equal(still, images)
