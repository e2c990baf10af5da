"""AutoAttack: what is said where its package is missing, and its run where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor, nn

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import validate_options
from forgefront.trainers.attacks.apgd import APGD
from forgefront.trainers.attacks.autoattack import AutoAttack

installed = importlib.util.find_spec("autoattack") is not None


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.skipif(installed, reason="the package is installed")
def test_without_the_package_one_line_says_where_to_get_it() -> None:
    with pytest.raises(InputError) as caught:
        AutoAttack(epsilon=8 / 255)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("`autoattack` must be installed")
    assert line.endswith("pip install git+https://github.com/fra31/auto-attack")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"epsilon": 0.1, "version": "fast"}, "version"),
        ({"epsilon": 0.1, "norm": "l1"}, "norm"),
        ({"epsilon": 0.1, "steps": 5}, "steps"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, object], fault: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        validate_options("evaluation_attack", "autoattack", options)
    assert [line.split("`")[1] for line in caught.value.lines] == [fault]


@pytest.mark.skipif(not installed, reason="needs the package autoattack")
def test_it_is_at_least_as_strong_as_apgd_and_leaves_the_model_alone(robust, capsys) -> None:
    model, images, targets = robust.victim.model, robust.images[:20], robust.targets[:20]
    before = torch.get_rng_state()
    result = AutoAttack(epsilon=0.2)(robust.victim, images, targets, draws())
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert (result.examples - images).abs().max() <= 0.2 + 1e-5
    assert int(result.robust.sum()) <= int(APGD(epsilon=0.2)(robust.victim, images, targets, draws()).robust.sum())


@pytest.mark.skipif(not installed, reason="needs the package autoattack")
@pytest.mark.parametrize(("classes", "found"), [(3, "found 3."), (None, "found [20, 3, 16, 16].")])
def test_it_needs_logits_of_four_classes(robust, classes, found) -> None:
    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if classes is None else images.flatten(1)[:, :classes]

    victim = dataclasses.replace(
        robust.victim, model=Other(), correct=lambda outputs, targets: torch.ones_like(targets).bool()
    )
    with pytest.raises(InputError) as caught:
        AutoAttack(epsilon=0.2)(victim, robust.images[:20], robust.targets[:20], draws())
    assert str(caught.value).endswith(found)
