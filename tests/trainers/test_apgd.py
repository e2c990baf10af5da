"""Auto-PGD: its checkpoints as published, the optimum where it is known, and never weaker than PGD."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import validate_options
from forgefront.trainers.attacks.apgd import APGD, _State, checkpoints
from forgefront.trainers.attacks.pgd import PGD
from forgefront.trainers.attacks.square import Square


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


def attack(attacked, **options) -> Tensor:
    given = {"epsilon": 0.1, "steps": 10, **options}
    return APGD(**given)(attacked.victim, attacked.images, attacked.targets, draws()).robust


def test_checkpoints_as_published() -> None:
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 50, 1000])
def test_checkpoints_rise_from_the_first_step_to_the_last_at_most(steps: int) -> None:
    found = checkpoints(steps)
    assert found[0] >= 1
    assert found[-1] <= steps
    assert all(first < second for first, second in pairwise(found))


def state(**changes: Tensor) -> _State:
    """Three images whose loss is 1 at the point 0 and was 2 at best, at the point 9."""
    wide = torch.zeros(3, 1, 1, 1)
    given = {
        "active": torch.arange(3), "images": wide, "point": wide, "before": wide, "gradient": wide, "best": wide + 9.0,
        "best_gradient": wide + 5.0, "loss": torch.ones(3), "highest": torch.full((3,), 2.0),
        "highest_before": torch.ones(3), "rises": torch.full((3,), 4), "step_size": torch.full((3, 1, 1, 1), 0.4),
        "halved": torch.zeros(3, dtype=torch.bool),
    }  # fmt: skip
    return _State(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "halves"),
    [
        ({}, [False] * 3),
        # condition 1: fewer than three steps of four raised the loss
        ({"rises": torch.tensor([4, 3, 2])}, [False, False, True]),
        # condition 2: no higher loss since the last checkpoint, unless the step was halved there
        ({"highest_before": torch.tensor([1.0, 2.0, 2.0]), "halved": torch.tensor([False, False, True])},
         [False, True, False]),
    ],
)  # fmt: skip
def test_the_step_is_halved_under_either_condition_and_goes_on_from_the_best_point(changes, halves) -> None:
    one = state(**changes)
    one.review(4)
    expected = torch.tensor(halves)
    assert torch.equal(one.step_size.flatten(), torch.where(expected, 0.2, 0.4))
    assert torch.equal(one.point.flatten(), torch.where(expected, 9.0, 0.0))
    assert torch.equal(one.gradient.flatten(), torch.where(expected, 5.0, 0.0))
    assert torch.equal(one.loss, torch.where(expected, 2.0, 1.0))
    assert torch.equal(one.halved, expected)
    assert torch.equal(one.highest_before, one.highest)
    assert not one.rises.any()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_finds_the_optimum_of_a_linear_model(plain, norm, dual, loss) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn((2, 27), generator=draws()))
    images = 0.5 + 0.05 * torch.randn((64, 3, 3, 3), generator=draws(1))
    victim = dataclasses.replace(plain.victim, model=model.eval())
    with torch.no_grad():
        logits = model(images)
    targets = logits.argmax(1)
    weight = model[1].weight.detach()
    distance = (logits.amax(1) - logits.amin(1)) / (weight[0] - weight[1]).norm(p=dual)
    epsilon = float(distance.median()) + 1e-4
    assert (distance - epsilon).abs().min() > 1e-5
    result = APGD(epsilon=epsilon, steps=20, norm=norm, loss=loss)(victim, images, targets, draws())
    assert torch.equal(result.robust, distance > epsilon)
    # nothing beats the optimum
    others = [PGD(epsilon=epsilon, steps=20, norm=norm), Square(epsilon=epsilon, queries=50, norm=norm)]
    for other in others:
        assert (other(victim, images, targets, draws()).robust | ~result.robust).all()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.0)])
def test_examples_stay_in_bounds_and_agree_with_the_verdict(robust, norm, epsilon) -> None:
    result = APGD(epsilon=epsilon, steps=8, norm=norm)(robust.victim, robust.images, robust.targets, draws())
    assert result.examples.dtype == torch.float32
    assert length(result.examples - robust.images, norm).max() <= epsilon + 1e-5
    assert result.examples.min() >= 0.0
    assert result.examples.max() <= 1.0
    assert torch.equal(robust.correct(result.examples), result.robust)
    assert not result.robust[~robust.correct(robust.images)].any()
    assert result.zero_gradients == 0


@pytest.mark.parametrize(("norm", "epsilons"), [("linf", (0.15, 0.2, 0.25)), ("l2", (1.0, 2.0))])
def test_at_least_as_strong_as_pgd_on_an_adversarially_trained_model(robust, norm, epsilons) -> None:
    totals = {APGD: 0, PGD: 0}
    for kind in totals:
        for epsilon in epsilons:
            made = kind(epsilon=epsilon, steps=20, restarts=1, norm=norm)
            totals[kind] += int(made(robust.victim, robust.images, robust.targets, draws()).robust.sum())
    # in L2 they tie; an image either way is chance
    assert totals[APGD] <= totals[PGD] + (norm == "l2")


def test_restarts_and_losses_can_only_break_more(robust) -> None:
    settings = {"epsilon": 0.2, "steps": 4}
    for options in ({"restarts": 2}, {"restarts": 4}, {"loss": ("cross-entropy", "margin")}):
        assert (attack(robust, **settings) | ~attack(robust, **settings, **options)).all()
    assert attack(robust, **settings, restarts=4).sum() < attack(robust, **settings).sum()


def test_accuracy_falls_with_epsilon_to_nothing(plain) -> None:
    rates = [int(attack(plain, epsilon=epsilon).sum()) for epsilon in (0.0, 0.03, 0.1, 0.5)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == int(plain.correct(plain.images).sum())
    assert rates[-1] == 0


def test_repeats_with_its_seed_and_leaves_the_model_alone(plain) -> None:
    model = plain.victim.model
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = attack(plain), attack(plain)
    assert (model.training, model[1].training) == (True, False)
    model.eval()
    assert torch.equal(first, again)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_float32_under_autocast(plain) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        result = APGD(epsilon=8 / 255, steps=5)(plain.victim, plain.images, plain.targets, draws())
    assert result.examples.dtype == torch.float32
    assert (result.examples - plain.images).abs().max() == pytest.approx(8 / 255, abs=1e-6)


def test_models_without_gradient_or_number(plain) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * 0.0 + torch.arange(10.0)

    victim = dataclasses.replace(plain.victim, model=Constant())
    result = APGD(epsilon=0.1, steps=3)(victim, plain.images, torch.full((100,), 9), draws())
    assert result.zero_gradients == 100
    assert result.robust.all()

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * torch.nan

    victim = dataclasses.replace(plain.victim, model=Broken())
    assert not APGD(epsilon=0.1, steps=3)(victim, plain.images, plain.targets, draws()).robust.any()
    nothing = APGD(epsilon=0.1, steps=3)(plain.victim, plain.images[:0], plain.targets[:0], draws())
    assert nothing.robust.shape == (0,)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"epsilon": 8}, "epsilon"),
        ({"epsilon": "8/255", "steps": 0}, "steps"),
        ({"epsilon": 0.1, "restarts": 0}, "restarts"),
        ({"epsilon": 0.1, "norm": "l1"}, "norm"),
        ({"epsilon": 0.1, "step_size": 0.1}, "step_size"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, object], fault: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        validate_options("evaluation_attack", "apgd", options)
    assert [line.split("`")[1] for line in caught.value.lines] == [fault]


def test_a_loss_that_the_task_lacks_is_one_line(plain) -> None:
    with pytest.raises(InputError, match=r'`loss` must be one that the task has .*; found "dlr"'):
        APGD(epsilon=0.1, loss="dlr")(plain.victim, plain.images, plain.targets, draws())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("l2", 1.5)])
def test_as_strong_as_torchattacks(robust, norm, epsilon) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.APGD(
        robust.victim.model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, steps=50, seed=0
    )
    ours = attack(robust, norm=norm, epsilon=epsilon, steps=50)
    # other random starts move an image or two of the hundred
    assert int(ours.sum()) <= int(robust.correct(theirs(robust.images, robust.targets)).sum()) + 2
