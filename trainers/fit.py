"""The training loop: trains a model with its compression simulators attached, for one fixed budget of steps."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..spaces.plan import Recipe
from ..studies.errors import DivergedError, InputError
from ..studies.registry import resolve
from ..studies.schema_training import ATTACK_OPTIONS
from ..studies.seeds import Seed
from .attacks.base import TrainingAttack
from .attacks.multi_step import TRADES
from .batch_norm import reestimate_statistics
from .divergences import kullback_leibler
from .mask_training import MaskTraining, without_scores
from .optimizers import WARM_UP, learning_rate_factor, make_optimizer, parameter_groups
from .overfitting_guard import OverfittingGuard
from .tasks.base import Batch, Task
from .training_loss import training_loss
from .weight_averaging import WeightAverage, averaging_start, observe_ranges_again

if TYPE_CHECKING:
    from ..compression.attach import Attached
    from ..studies.schema import TrainingSection

__all__ = ["FitResult", "Progress", "fit", "make_attack"]

REPORT_EVERY = 10
GUARD_CHECKS = 10
CALIBRATION_IMAGES = 512
STATISTICS_BATCHES = 10


@dataclass(frozen=True)
class Progress:
    """How far a training is; `loss` is the mean since the epoch began."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class FitResult:
    """What a training leaves besides the weights.

    Args:
        history: One row an epoch: epoch and step (from 1), mean loss and accuracy on the batches as trained on,
            learning rate of the last step, share of zero weights, seconds.
        deviations: What went otherwise than planned, one line each.
    """

    history: list[dict[str, float]]
    deviations: list[str] = field(default_factory=list)


def fit(
    task: Task,
    attached: Attached,
    recipe: Recipe,
    training: TrainingSection,
    *,
    seed: Seed,
    on_progress: Callable[[Progress], None] | None = None,
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

    Raises:
        DivergedError: The loss or a weight became infinite or not a number.
        InputError: The recipe's attack takes no such option.
    """
    # dropout and stochastic depth draw from torch's global generators, which are put back afterwards
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed.child("layers").integer())
        return _fit(task, attached, recipe, training, seed, on_progress)


def _fit(
    task: Task,
    attached: Attached,
    recipe: Recipe,
    training: TrainingSection,
    seed: Seed,
    on_progress: Callable[[Progress], None] | None,
) -> FitResult:
    run = _Run(task, attached, recipe, training, seed)
    for epoch in range(run.epochs):
        run.epoch(epoch, on_progress)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in attached.model.parameters()):
        raise DivergedError(f"The weights are infinite or not a number after {run.steps} steps.")
    if run.steps:
        run.settle()
    images = task.calibration_images(CALIBRATION_IMAGES, seed.child("calibration"))
    attached.finalize(images.split(training.batch_size))
    attached.model.eval()
    return FitResult(run.history, run.deviations)


def make_attack(recipe: Recipe, training: TrainingSection, fraction: float = 1.0) -> TrainingAttack | None:
    """The recipe's training attack; None outside the adversarial regime.

    ε rises linearly over the first quarter of training, as the learning rate does in the one-cycle schedule: from
    random weights a full ε keeps small networks from learning anything at all in a short budget.

    Args:
        recipe: States method and ε.
        training: States the attack's options.
        fraction: Share of the training that is done, in [0, 1].

    Raises:
        InputError: An option is given that the attack does not have.
    """
    if recipe.regime != "adversarial" or recipe.method is None or recipe.epsilon is None:
        return None
    part = resolve("attack", recipe.method)
    options: dict[str, Any] = {"epsilon": recipe.epsilon * min(1.0, fraction / WARM_UP)}
    for key, option in ATTACK_OPTIONS.items():
        given = getattr(training, key)
        if given is None:
            continue
        if option not in inspect.signature(part).parameters:
            rule = f'must be left out with the method "{recipe.method}", which has no such option'
            raise InputError(f"`training.{key}` {rule}; found {given}.")
        options[option] = given
    return part(**options)


class _Run:
    """The state of one training."""

    def __init__(self, task: Task, attached: Attached, recipe: Recipe, training: TrainingSection, seed: Seed) -> None:
        self.task, self.attached, self.recipe, self.training, self.seed = task, attached, recipe, training, seed
        self.per_epoch = task.steps_per_epoch(training.batch_size, recipe)
        whole = training.steps if training.steps is not None else (training.epochs or 1) * self.per_epoch
        self.steps = math.ceil(recipe.budget * whole - 1e-9)
        self.epochs = math.ceil(self.steps / self.per_epoch)
        self.done = 0
        self.slowdown = 1.0
        self.history: list[dict[str, float]] = []
        self.deviations: list[str] = []
        section = training.optimizer
        self.masks = None if attached.learned is None else MaskTraining(attached.learned, training.masks)
        weights = without_scores(attached.parameters(), attached.learned)
        groups = parameter_groups(attached.model, weights, section.weight_decay)
        self.optimizer = make_optimizer(
            section.name, groups, learning_rate=section.learning_rate, momentum=section.momentum
        )
        self.average = WeightAverage(training.weight_averaging) if training.weight_averaging > 0.0 else None
        self.settled = averaging_start(attached.plan, attached.stages)
        attack = make_attack(recipe, training)
        # what views weigh: augmented ones, or those of an attack that drives predictions apart
        self.adversarial = isinstance(attack, TRADES)
        self.weight = attack.beta if isinstance(attack, TRADES) else training.consistency
        self.generator = seed.child("attack").torch(task.device)
        self.guard: OverfittingGuard | None = None
        if attack is not None and training.overfitting_guard:
            self.guard = OverfittingGuard(task, attack.epsilon, seed=seed.child("guard"))

    def epoch(self, epoch: int, on_progress: Callable[[Progress], None] | None) -> None:
        """Train one epoch, or what is left of the budget."""
        started, first = time.perf_counter(), self.done
        device = self.task.device
        loss_sum, right, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
        for batch in self._batches(epoch, self.steps - self.done):
            loss, correct = self._step(batch)
            loss_sum += loss
            right += correct
            seen += len(batch.indices)
            last = self.done - first == self.per_epoch or self.done == self.steps
            if self.done % REPORT_EVERY == 0 or last:
                # the sum stays infinite or NaN once it is, so that one look in ten steps misses nothing
                mean = float(loss_sum) / (self.done - first)
                if not math.isfinite(mean):
                    raise DivergedError(f"The loss became {mean} by step {self.done} of {self.steps}.")
                if on_progress is not None:
                    on_progress(Progress(epoch + 1, self.epochs, self.done, self.steps, mean))
            self._guard()
        self.history.append(
            {
                "epoch": epoch + 1,
                "step": self.done,
                "loss": float(loss_sum) / max(1, self.done - first),
                "train_accuracy": float(right) / max(1, seen),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "sparsity": weight_sparsity(self.attached.model),
                "seconds": time.perf_counter() - started,
            }
        )

    def settle(self) -> None:
        """Bring weights and compression to their final state, and batch norm and output ranges with them."""
        self.attached.set_progress(1.0)
        averaged = self.average is not None and self.average.apply()
        self.attached.after_step()
        reestimate_statistics(self.attached.model, self._inputs())
        if averaged:
            observe_ranges_again(self.attached.model, self._inputs())

    def _inputs(self) -> Iterator[torch.Tensor]:
        for batch in self._batches(self.epochs, STATISTICS_BATCHES):
            yield self._as_trained_on(batch, 1.0).inputs

    def _batches(self, epoch: int, steps: int) -> Iterator[Batch]:
        seed = self.seed.child("batches").child(epoch)
        return self.task.train_batches(self.recipe, batch_size=self.training.batch_size, steps=steps, seed=seed)

    def _as_trained_on(self, batch: Batch, fraction: float) -> Batch:
        """The batch itself; in the adversarial regime its adversarial images, or itself with these as views."""
        attack = make_attack(self.recipe, self.training, fraction)
        if attack is None:
            return batch
        # so that batch norm and output ranges follow the images trained on, not the attack's way to them
        model, task = self.attached.model.eval(), self.task
        if not self.adversarial:
            images = attack(model, batch.images, batch.targets, task.attack_loss, self.generator)
            return Batch(images, batch.targets, batch.indices)

        def divergence(outputs: Any, reference: torch.Tensor) -> torch.Tensor:
            return kullback_leibler(reference, task.log_probabilities(outputs))

        with torch.no_grad():
            reference = task.log_probabilities(model(batch.images))
        views = attack(model, batch.images, reference, divergence, self.generator)
        return Batch(batch.images, batch.targets, batch.indices, views)

    def _step(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; the loss and how many images were right, both on the device."""
        model, optimizer = self.attached.model, self.optimizer
        self.attached.set_progress(self.done / self.steps)
        # the middle of the step, so that no step has a rate of exactly 0
        fraction = (self.done + 0.5) / self.steps
        factor = learning_rate_factor(self.training.optimizer.schedule, fraction)
        for group in optimizer.param_groups:
            group["lr"] = self.training.optimizer.learning_rate * factor * self.slowdown
        batch = self._as_trained_on(batch, fraction)
        model.train()
        loss, outputs = training_loss(
            self.task, model(batch.inputs), batch, self.recipe, weight=self.weight, adversarial=self.adversarial
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.masks is not None:
            self.masks.step(len(batch.indices))
        if self.training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.training.gradient_clip)
        optimizer.step()
        self.attached.after_step()
        if self.average is not None and self.done / self.steps >= self.settled:
            self.average.update(model)
        self.done += 1
        with torch.no_grad():
            return loss.detach(), self.task.correct(outputs, batch.targets).sum()

    def _guard(self) -> None:
        if self.guard is None or (self.done % math.ceil(self.steps / GUARD_CHECKS) and self.done != self.steps):
            return
        deviation = self.guard.check(self.attached.model)
        if deviation is not None:
            self.deviations.append(f"step {self.done} of {self.steps}: {deviation}, learning rate halved")
            self.optimizer.state.clear()
            self.attached.after_step()
            if self.average is not None:
                self.average.restart()
            self.slowdown *= 0.5


def weight_sparsity(model: nn.Module) -> float:
    """Share of zeros among the weights of convolutions and linear layers, as the forward pass sees them."""
    zeros = total = 0
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = module.weight
                zeros += int((weight == 0).sum())
                total += weight.numel()
    return zeros / max(1, total)
