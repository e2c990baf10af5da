"""The training loop: trains a model with its compression simulators attached, for one fixed budget of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..compression.targets import exclusive
from ..studies.errors import DivergedError
from ..studies.seeds import Seed
from .checkpoint import Checkpoints
from .rungs import Rungs
from .training_attack import make_attack
from .training_run import Progress, TrainingRun, training_steps, weight_sparsity

if TYPE_CHECKING:
    from ..compression.attach import Attached
    from ..spaces.plan import Recipe
    from ..studies.schema import TrainingSection
    from .tasks.base import Task

__all__ = ["FitResult", "Progress", "fit", "make_attack", "training_steps", "weight_sparsity"]


@dataclass(frozen=True)
class FitResult:
    """What a training leaves besides the weights.

    Args:
        history: One row an epoch: epoch and step (from 1), mean loss and accuracy on the batches as trained on,
            learning rate of the last step, share of zero weights, seconds.
        deviations: What went otherwise than planned, one line each.
        rungs: What was recorded at each rung.
    """

    history: list[dict[str, float]]
    deviations: list[str] = field(default_factory=list)
    rungs: list[dict[str, Any]] = field(default_factory=list)


def fit(
    task: Task,
    attached: Attached,
    recipe: Recipe,
    training: TrainingSection,
    *,
    seed: Seed,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoints: Checkpoints | None = None,
    rungs: Rungs | None = None,
    halvings: int = 0,
) -> FitResult:
    """Train `attached.model` in place, measure its batch-norm statistics again and finalize its compression.

    Statistics are averaged over up to ten batches as trained on, for every trial and the control alike; a recipe
    without any budget leaves weights and statistics as they are. With the same
    arguments on a CPU with the same number of threads, every weight comes out the same.

    Args:
        task: Gives batches and losses.
        attached: The model, on the task's device, with its simulators.
        recipe: Augmentation, class weighting and, in the adversarial regime, method and ε.
        training: Budget, batch size, optimizer.
        seed: Of all draws: order, augmentation, attack, calibration.
        on_progress: Called every ten steps and at the end of an epoch.
        checkpoints: Where the state is kept at the end of an epoch, and taken up again by the same training; the end is
            that of an uninterrupted one, bit for bit.
        rungs: Where the training is looked at before its end, and may be stopped.
        halvings: How often a batch is halved to save memory, at least: a checkpoint of smaller batches goes on with
            those. The gradients of its parts add up.

    Raises:
        DivergedError: The loss or a weight became infinite or not a number.
        StoppedError: It was stopped at a rung.
        InputError: The recipe's attack takes no such option.
    """
    # dropout and stochastic depth draw from torch's global generators, which are put back afterwards
    devices = [task.device] if task.device.type == "cuda" else []
    with exclusive.shared(task.device), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed.child("layers").integer())
        run = TrainingRun(task, attached, recipe, training, seed, rungs=rungs, parts=2**halvings)
        return _fit(run, on_progress, checkpoints)


def _fit(
    run: TrainingRun, on_progress: Callable[[Progress], None] | None, checkpoints: Checkpoints | None
) -> FitResult:
    attached = run.attached
    digest = run.identity() if checkpoints is not None else ""
    saved = checkpoints.load(digest) if checkpoints is not None else None
    # a state of larger batches than memory has room for is of no use; one of smaller ones had found that out already
    if saved is not None and saved["parts"] >= run.parts:
        run.restore(saved)
    for epoch in range(len(run.history), run.epochs):
        run.epoch(epoch, on_progress)
        if checkpoints is not None and checkpoints.due:
            checkpoints.save(digest, run.state())
    if not all(bool(torch.isfinite(parameter).all()) for parameter in attached.model.parameters()):
        raise DivergedError(f"The weights are infinite or not a number after {run.steps} steps.")
    if run.steps:
        run.settle(attached, run.seed.child("batches").child(run.epochs), run.generator)
    run.finalize(attached)
    return FitResult(run.history, run.deviations, run.looks)
