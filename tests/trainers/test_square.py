"""Square attack: its pattern and schedule as published, its bounds, what it breaks, and what it does not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import validate_options
from forgefront.trainers.attacks.pgd import PGD
from forgefront.trainers.attacks.square import Square, square_pattern, square_share


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


@pytest.mark.parametrize("side", [3, 4, 5, 6, 9, 12])
def test_the_pattern_is_equation_2(side: int) -> None:
    pattern = square_pattern(side)
    assert pattern.shape == (side, side)
    assert float(pattern.norm()) == pytest.approx(1.0, abs=1e-6)
    assert (pattern[: side // 2] > 0).all()
    assert (pattern[side // 2 :] < 0).all()
    # within the upper bump, at distance d from its middle: the sum of 1 / (k + 1)² for k = d … ⌊side / 2⌋
    height = side // 2
    expected = torch.tensor(
        [
            [
                sum(
                    1 / (k + 1) ** 2 for k in range(max(abs(row - height // 2), abs(column - side // 2)), side // 2 + 1)
                )
                for column in range(side)
            ]
            for row in range(height)
        ]
    )
    torch.testing.assert_close(pattern[:height] / pattern[:height].norm(), expected / expected.norm())


@pytest.mark.parametrize(
    ("query", "halvings"),
    [(0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3), (501, 4), (1001, 5), (2001, 6), (4001, 7),
     (6001, 8), (8001, 9), (9999, 9)],
)  # fmt: skip
def test_the_share_of_pixels_halves_as_published_and_is_rescaled(query: int, halvings: int) -> None:
    assert square_share(query, 10_000, 0.8) == 0.8 / 2**halvings
    assert square_share(-(-query // 20), 500, 0.8) <= 0.8 / 2**halvings


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.0)])
@pytest.mark.parametrize("queries", [1, 40])
def test_examples_stay_in_bounds_raise_the_loss_and_agree_with_the_verdict(plain, norm, epsilon, queries) -> None:
    result = Square(epsilon=epsilon, queries=queries, norm=norm)(plain.victim, plain.images, plain.targets, draws())
    assert result.examples.dtype == torch.float32
    assert length(result.examples - plain.images, norm).max() <= epsilon + 1e-5
    assert result.examples.min() >= 0.0
    assert result.examples.max() <= 1.0
    assert torch.equal(plain.correct(result.examples), result.robust)
    assert not result.robust[~plain.correct(plain.images)].any()
    assert result.zero_gradients is None
    model, loss = plain.victim.model, plain.victim.losses["margin"]
    with torch.no_grad():
        higher = loss(model(result.examples), plain.targets) - loss(model(plain.images), plain.targets)
    assert higher.min() >= -1e-5
    assert higher.median() > 0.1


@pytest.mark.parametrize(("norm", "epsilon", "most"), [("linf", 0.25, 0.15), ("l2", 3.0, 0.6)])
def test_a_plainly_trained_model_is_broken_and_a_robust_one_less_so(plain, robust, norm, epsilon, most) -> None:
    attack = Square(epsilon=epsilon, queries=150, norm=norm)
    rates = [
        float(attack(one.victim, one.images, one.targets, draws()).robust.float().mean()) for one in (plain, robust)
    ]
    assert rates[0] <= most
    assert rates[1] >= rates[0] + 0.15


def test_it_breaks_a_model_whose_gradients_are_hidden_and_pgd_does_not(plain) -> None:
    class Rounded(nn.Module):
        """Without any gradient, for images are rounded to 1/50 first."""

        def forward(self, images: Tensor) -> Tensor:
            return plain.victim.model((images * 50.0).round() / 50.0)

    victim = dataclasses.replace(plain.victim, model=Rounded().eval())
    by_gradient, by_search = (
        attack(victim, plain.images, plain.targets, draws())
        for attack in (PGD(epsilon=0.2, steps=5, restarts=1), Square(epsilon=0.2, queries=100))
    )
    assert by_gradient.zero_gradients == int(plain.correct(plain.images).sum())
    assert int(by_search.robust.sum()) <= int(by_gradient.robust.sum()) - 40


def test_repeats_with_its_seed_and_uses_no_global_draws(plain) -> None:
    attack = Square(epsilon=0.1, queries=20)
    first = attack(plain.victim, plain.images, plain.targets, draws())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = attack(plain.victim, plain.images, plain.targets, draws())
    assert torch.equal(first.examples, again.examples)
    assert torch.equal(torch.get_rng_state(), before)
    other = attack(plain.victim, plain.images, plain.targets, draws(1))
    assert not torch.equal(first.examples, other.examples)


class Rows(nn.Module):
    """Logits that are sums over each image alone, to the bit the same in any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3 * 16 * 16, generator=draws(3)))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1)[:, None] * self.weight).sum(dim=2)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.3)])
def test_an_image_does_not_depend_on_which_others_stand(plain, norm, epsilon) -> None:
    victim = dataclasses.replace(plain.victim, model=Rows().eval())
    with torch.no_grad():
        targets = victim.model(plain.images).argmax(1)
    attack = Square(epsilon=epsilon, queries=30, norm=norm)
    whole = attack(victim, plain.images, targets, draws())
    assert 5 < int(whole.robust.sum()) < 95
    wrong = torch.arange(100) % 2 == 0
    half = attack(victim, plain.images, torch.where(wrong, (targets + 1) % 10, targets), draws())
    assert torch.equal(whole.examples[~wrong], half.examples[~wrong])
    assert torch.equal(whole.robust[~wrong], half.robust[~wrong])
    assert not half.robust[wrong].any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 33, 24), (1, 8, 8), (3, 2, 5)])
def test_any_size_and_number_of_channels(plain, norm, shape) -> None:
    images = torch.rand((4, *shape), generator=draws())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 5)).eval()
    with torch.no_grad():
        targets = model(images).argmax(1)
    victim = dataclasses.replace(plain.victim, model=model)
    result = Square(epsilon=0.05, queries=30, norm=norm)(victim, images, targets, draws())
    assert length(result.examples - images, norm).max() <= 0.05 + 1e-6


def test_float32_under_autocast_and_modes_left_alone(plain) -> None:
    model = plain.victim.model
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        result = Square(epsilon=8 / 255, queries=15)(plain.victim, plain.images, plain.targets, draws())
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert result.examples.dtype == torch.float32
    # in bfloat16 a pixel near 1 would move by 1/256 at once
    assert (result.examples - plain.images).abs().max() == pytest.approx(8 / 255, abs=1e-6)


def test_no_radius_or_no_number_or_no_image(plain) -> None:
    assert torch.equal(
        Square(epsilon=0.0, queries=5)(plain.victim, plain.images, plain.targets, draws()).robust,
        plain.correct(plain.images),
    )

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * torch.nan

    victim = dataclasses.replace(plain.victim, model=Broken())
    assert not Square(epsilon=0.1, queries=5)(victim, plain.images, plain.targets, draws()).robust.any()
    for norm in ("linf", "l2"):
        nothing = Square(epsilon=0.1, queries=5, norm=norm)(plain.victim, plain.images[:0], plain.targets[:0], draws())
        assert nothing.examples.shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"epsilon": 8}, "epsilon"),
        ({"epsilon": "8/255", "queries": 0}, "queries"),
        ({"epsilon": 0.1, "norm": "l1"}, "norm"),
        ({"epsilon": 0.1, "p": 0.0}, "p"),
        ({"epsilon": 0.1, "p": 1.5}, "p"),
        ({"epsilon": 0.1, "query": 5}, "query"),
        ({}, "epsilon"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, object], fault: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        validate_options("evaluation_attack", "square", options)
    assert [line.split("`")[1] for line in caught.value.lines] == [fault]


def test_a_loss_that_the_task_lacks_is_one_line(plain) -> None:
    with pytest.raises(InputError, match=r'`loss` must be one that the task has .*; found "margins". Did you mean'):
        Square(epsilon=0.1, loss="margins")(plain.victim, plain.images, plain.targets, draws())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 2.0)])
def test_as_strong_as_torchattacks(plain, norm, epsilon) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.Square(
        plain.victim.model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, n_queries=100
    )
    ours = Square(epsilon=epsilon, queries=100, norm=norm)(plain.victim, plain.images, plain.targets, draws())
    # both are random searches: five of a hundred images are two standard errors of their difference
    assert int(ours.robust.sum()) <= int(plain.correct(theirs(plain.images, plain.targets)).sum()) + 5
