"""The audit of a task that has one attack loss, or calls its first one something else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import nn

from forgefront.compression.candidate import Candidate
from forgefront.objectives.audit import audit
from forgefront.spaces.plan import TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.attacks.base import LossFunction
from forgefront.trainers.tasks.classification import ClassificationTask


class Renamed:
    """A task with the attack losses that it is given."""

    def __init__(self, task: ClassificationTask, losses: Mapping[str, LossFunction]) -> None:
        self.attack_losses, self.correct = losses, task.correct


@pytest.mark.parametrize("names", [("cross-entropy",), ("margin",), ("loss",), ("loss", "margin")])
def test_a_task_calls_its_losses_what_it_likes(
    task: ClassificationTask, trained: nn.Module, names: tuple[str, ...]
) -> None:
    known = task.attack_losses
    losses = {name: known.get(name, known["cross-entropy"]) for name in names}
    candidate = Candidate(model=trained, latent=trained, plan=TrialPlan())
    batch = next(task.evaluation("validation", 16).batches(16))
    report = audit(candidate, Renamed(task, losses), batch, epsilon=0.05, seed=Seed(1), steps=3, queries=10)
    checks = [check.name for check in report.checks]
    assert checks[: len(names)] == [*names[1:], "bpda"]
    if len(names) == 1:
        # nothing is rounded here and there is no other loss, so that it is the attack that was made
        assert next(check.value for check in report.checks if check.name == "bpda") == 0.0
