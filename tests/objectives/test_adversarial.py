"""PGD accuracy: the AND of its attacks, what masked gradients cannot feign, and its raw numbers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgefront.compression.candidate import Candidate
from forgefront.objectives.adversarial import PGDAccuracy, withstands
from forgefront.objectives.base import Subject, binomial_error
from forgefront.spaces.plan import TrialPlan
from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.registry import validate_options
from forgefront.studies.seeds import Seed

EPSILON = 24 / 255


class Rounded(nn.Module):
    """A network behind nine levels of each pixel, through which no gradient passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 8.0).round() / 8.0)


def masked(subject: Subject, *, with_latent: bool) -> Subject:
    network = subject.candidate.model
    model = Rounded(network).eval()
    candidate = Candidate(model=model, latent=network if with_latent else model, plan=TrialPlan())
    return dataclasses.replace(subject, candidate=candidate, cache={})


@pytest.mark.parametrize("with_latent", [True, False])
def test_masked_gradients_do_not_pass_for_robustness(subject, with_latent):
    objective = PGDAccuracy(epsilon=EPSILON, images=40, steps=6, audit_images=20)
    honest, hidden = (
        objective.derive(raw, raw)
        for raw in (objective.measure(subject), objective.measure(masked(subject, with_latent=with_latent)))
    )
    assert (honest.details["verdict"], honest.details["failed"], honest.details["failed_checks"]) == ("sound", [], 0)
    assert hidden.details["verdict"] == "masked"
    assert hidden.details["failed_checks"] == len(hidden.details["failed"]) > 2
    assert set(hidden.details["failed"]) <= set(hidden.details["checks"])
    assert hidden.details["straight_through_accuracy"] > 0.7
    assert hidden.value < 0.2
    assert honest.details["masking_gap"] <= 0.05
    assert hidden.details["masking_gap"] > 0.5


def test_the_score_is_what_withstands_every_attack(subject):
    batch = next(subject.task.evaluation("validation", 60).batches(60))
    losses = ("cross-entropy", "margin", "scaled-cross-entropy")
    settings = {"epsilon": 2 / 255, "steps": 4, "restarts": 2}
    found = withstands(subject.candidate, subject.task, batch, losses=losses, seed=Seed(0), **settings)
    assert list(found) == ["clean", *losses, "transfer", "robust"]
    every = torch.stack([found[name] for name in ("clean", *losses, "transfer")]).all(dim=0)
    assert torch.equal(found["robust"], every)
    assert 0 < every.sum() < found["clean"].sum()
    raw = PGDAccuracy(**settings, images=60, losses=losses, audit=False).measure(subject)
    score = PGDAccuracy(**settings, images=60, losses=losses, audit=False).derive(raw, raw)
    assert raw["clean_correct"] == int(found["clean"].sum())
    assert raw["robust"] <= min(raw["robust_transfer"], raw["robust_straight_through"], *raw["robust_by_loss"].values())
    assert score.value == raw["robust"] / 60
    assert score.standard_error == pytest.approx(binomial_error(score.value, 60))
    assert {"margin_accuracy", "scaled_cross_entropy_accuracy", "transfer_accuracy"} <= set(score.details)
    assert "verdict" not in score.details


@pytest.mark.parametrize(("norm", "radii"), [("linf", (0.0001, 0.03, 0.25)), ("l2", (0.001, 0.3, 1.0))])
def test_a_stronger_attack_leaves_fewer_images(subject, norm, radii):
    settings: dict[str, Any] = {"norm": norm, "steps": 5, "images": 60, "audit": False}
    raws = [PGDAccuracy(epsilon=radius, **settings).measure(subject) for radius in radii]
    robust = [raw["robust"] for raw in raws]
    assert raws[0]["clean_correct"] >= robust[0] >= robust[1] >= robust[2]
    assert robust[0] >= raws[0]["clean_correct"] - 2
    assert robust[2] <= 6 or norm == "l2"


def test_the_same_each_time_and_through_json(subject):
    objective = PGDAccuracy(images=30, steps=3, audit_images=10)
    raw = objective.measure(subject)
    assert objective.measure(subject) == raw
    restored = json.loads(json.dumps(raw, allow_nan=False))
    assert restored == raw
    json.dumps(objective.derive(restored, restored).to_dict(), allow_nan=False)
    assert raw["audit"]["images"] == 10
    # the images under attack are those that are scored
    assert PGDAccuracy(images=5, steps=1).measure(subject)["audit"]["images"] == 5


def test_steps_that_cross_the_ball():
    assert PGDAccuracy().step_size == pytest.approx(2 / 255)
    assert PGDAccuracy(steps=5).step_size == pytest.approx(4 / 255)
    assert PGDAccuracy(steps=50).step_size == pytest.approx(2 / 255)


def test_numbers_from_before_there_were_audits_still_count():
    raw = {"images": 10, "clean_correct": 9, "robust_straight_through": 6, "robust_transfer": 7, "robust": 5}
    score = PGDAccuracy().derive(raw, raw)
    assert score.value == 0.5
    assert score.details["masking_gap"] == pytest.approx(0.1)
    assert "verdict" not in score.details


def test_the_masking_gap_is_the_audits_where_that_is_masked_and_larger():
    raw = {"images": 10, "clean_correct": 9, "robust_straight_through": 6, "robust_transfer": 7, "robust": 5}
    for verdict, gap, expected in (("masked", 0.4, 0.4), ("masked", 0.05, 0.1), ("sound", 0.4, 0.1)):
        report = {"verdict": verdict, "failed": [], "checks": [], "gap": gap}
        score = PGDAccuracy().derive({**raw, "audit": report}, raw)
        assert score.details["masking_gap"] == pytest.approx(expected)
        assert score.details["audit_gap"] == gap


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"norm": "l1"}, "`objectives[0].norm`"),
        ({"losses": []}, "`objectives[0].losses`"),
        ({"losses": "margin"}, "`objectives[0].losses`"),
        ({"audit": 1}, "`objectives[0].audit`"),
        ({"audit_images": 0}, "`objectives[0].audit_images`"),
        ({"step_size": 0}, "`objectives[0].step_size`"),
        ({"queries": 10}, "`objectives[0].queries`"),
    ],
)
def test_bad_options_are_one_line(options, fault):
    with pytest.raises(StudyFileError) as caught:
        validate_options("objective", "pgd_accuracy", options, "objectives[0]")
    assert len(caught.value.lines) == 1
    assert fault in caught.value.lines[0]


def test_a_loss_that_the_task_lacks_is_one_line(subject):
    with pytest.raises(InputError, match=r'`loss` must be one that the task has .*; found "dlr"'):
        PGDAccuracy(images=2, losses=("cross-entropy", "dlr")).measure(subject)
