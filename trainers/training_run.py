"""The state of a training and its steps: what one epoch, one look at a rung and the end of training do."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..compression.targets import exclusive
from ..studies.errors import DivergedError
from ..studies.seeds import Seed
from ..version import __version__
from .attacks.multi_step import TRADES
from .batch_norm import reestimate_statistics
from .checkpoint import identity, module_state, random_state, restore_modules, restore_random_state
from .divergences import kullback_leibler
from .mask_training import MaskTraining, without_scores
from .memory import parts_of
from .optimizers import learning_rate_factor, make_optimizer, parameter_groups
from .overfitting_guard import OverfittingGuard
from .rungs import Rungs, StoppedError, rung_steps
from .tasks.base import Batch, Task
from .training_attack import make_attack
from .training_loss import training_loss
from .weight_averaging import WeightAverage, averaging_start, observe_ranges_again

if TYPE_CHECKING:
    from ..compression.attach import Attached
    from ..spaces.plan import Recipe
    from ..studies.schema import TrainingSection

__all__ = ["Progress", "TrainingRun", "training_steps", "weight_sparsity"]

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


def training_steps(task: Task, recipe: Recipe, training: TrainingSection) -> int:
    """Optimizer steps that a recipe takes."""
    whole = training.steps
    if whole is None:
        whole = (training.epochs or 1) * task.steps_per_epoch(training.batch_size, recipe)
    return math.ceil(recipe.budget * whole - 1e-9)


class TrainingRun:
    """The state of one training: what `fit` is told, and all that changes from step to step."""

    def __init__(
        self,
        task: Task,
        attached: Attached,
        recipe: Recipe,
        training: TrainingSection,
        seed: Seed,
        *,
        rungs: Rungs | None,
        parts: int,
    ) -> None:
        self.task, self.attached, self.recipe, self.training, self.seed = task, attached, recipe, training, seed
        self.per_epoch = task.steps_per_epoch(training.batch_size, recipe)
        self.steps = training_steps(task, recipe, training)
        self.epochs = math.ceil(self.steps / self.per_epoch)
        self.rungs, self.looks = rungs, list[dict[str, Any]]()
        self.rung_steps = [] if rungs is None else rung_steps(rungs.fractions, self.steps)
        self.parts = min(parts, training.batch_size)
        self.done = 0
        self.slowdown = 1.0
        self.history: list[dict[str, float]] = []
        self.deviations: list[str] = []
        if self.parts > 1:
            size = -(-training.batch_size // self.parts)
            self.deviations.append(f"batch halved to {size} with accumulation over {self.parts} (out of memory)")
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
            self.guard = OverfittingGuard(task, attack.epsilon, seed=seed.child("guard"), parts=self.parts)

    def identity(self) -> str:
        """A digest of all that this training depends on before its first step, but for the parts of its batches."""
        facts = {
            "plan": self.attached.plan.to_dict(),
            "recipe": dataclasses.asdict(self.recipe),
            "training": self.training.model_dump(mode="json"),
            "stages": dataclasses.asdict(self.attached.stages),
            "steps": [self.steps, self.per_epoch, self.rung_steps],
            "seeds": [self.seed.entropy, self.attached.seed.entropy],
            "versions": [torch.__version__, __version__],
            "threads": torch.get_num_threads(),
            "device": str(self.task.device),
        }
        return identity(facts, self.attached.model.state_dict(keep_vars=True).items())

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; tensors are those in use, not copies."""
        return {
            "parts": self.parts,
            "plain": [self.done, self.slowdown, self.history, self.deviations, self.looks],
            "modules": module_state(self.attached.model),
            "attached": self.attached.state(),
            "optimizer": self.optimizer.state_dict(),
            "masks": None if self.masks is None else self.masks.state(),
            "average": None if self.average is None else self.average.state(),
            "guard": None if self.guard is None else self.guard.state(),
            "attack": self.generator.get_state(),
            "random": random_state(self.task.device),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, before the first step; its batches come in as many parts as they did then."""
        self.parts = state["parts"]
        self.done, self.slowdown, self.history, self.deviations, self.looks = state["plain"]
        restore_modules(self.attached.model, state["modules"])
        self.attached.restore(state["attached"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.masks is not None:
            self.masks.restore(state["masks"])
        if self.average is not None:
            self.average.restore(state["average"], self.task.device)
        if self.guard is not None:
            self.guard.parts = self.parts
            self.guard.restore(state["guard"])
        self.generator.set_state(state["attack"])
        restore_random_state(state["random"], self.task.device)

    def epoch(self, epoch: int, on_progress: Callable[[Progress], None] | None) -> None:
        """Train one epoch, or what is left of the budget."""
        started, first = time.perf_counter(), self.done
        device = self.task.device
        loss_sum, right, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
        for batch in self._batches(self.seed.child("batches").child(epoch), self.steps - self.done):
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
            if self.done in self.rung_steps:
                self._look()
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

    def settle(self, attached: Attached, seed: Seed, generator: torch.Generator) -> None:
        """Bring weights and compression to their final state, and batch norm and output ranges with them.

        Args:
            attached: The model in training, or a copy of it.
            seed: Of the batches that batch norm is measured on.
            generator: What the attack draws from.
        """
        model = attached.model
        attached.set_progress(1.0)
        averaged = self.average is not None and self.average.apply(model)
        attached.after_step()
        reestimate_statistics(model, self._inputs(model, seed, generator))
        if averaged:
            observe_ranges_again(model, self._inputs(model, seed, generator))

    def finalize(self, attached: Attached) -> None:
        """Freeze the compression of the model in training, or of a copy of it."""
        images = self.task.calibration_images(CALIBRATION_IMAGES, self.seed.child("calibration"))
        attached.finalize(images.split(-(-self.training.batch_size // self.parts)))
        attached.model.eval()

    def _look(self) -> None:
        """Show a finalized copy to whoever decides on this training, and leave the training itself alone."""
        assert self.rungs is not None
        index = self.rung_steps.index(self.done)
        seed, device = self.seed.child("rungs").child(index), self.task.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed.child("layers").integer())
            attached = copy.deepcopy(self.attached)
            self.settle(attached, seed.child("batches"), seed.child("attack").torch(device))
            self.finalize(attached)
            found, reason = self.rungs.look(index, self.rungs.fractions[index], self.done, attached)
        self.looks.append(found)
        if reason is not None:
            raise StoppedError(reason, self.looks, self.history, self.deviations)

    def _inputs(self, model: nn.Module, seed: Seed, generator: torch.Generator) -> Iterator[torch.Tensor]:
        for batch in self._batches(seed, STATISTICS_BATCHES):
            for part in parts_of(batch, self.parts):
                yield self._as_trained_on(part, 1.0, model, generator).inputs

    def _batches(self, seed: Seed, steps: int) -> Iterator[Batch]:
        size = self.training.batch_size
        for batch in self.task.train_batches(self.recipe, batch_size=size, steps=steps, seed=seed):
            yield batch
            # what was done with it is done, and whoever waits to measure may go first
            exclusive.make_way(self.task.device)

    def _as_trained_on(self, batch: Batch, fraction: float, model: nn.Module, generator: torch.Generator) -> Batch:
        """The batch itself; in the adversarial regime its adversarial images, or itself with these as views."""
        attack = make_attack(self.recipe, self.training, fraction)
        if attack is None:
            return batch
        # so that batch norm and output ranges follow the images trained on, not the attack's way to them
        model, task = model.eval(), self.task
        if not self.adversarial:
            images = attack(model, batch.images, batch.targets, task.attack_loss, generator)
            return Batch(images, batch.targets, batch.indices)

        def divergence(outputs: Any, reference: torch.Tensor) -> torch.Tensor:
            return kullback_leibler(reference, task.log_probabilities(outputs))

        with torch.no_grad():
            reference = task.log_probabilities(model(batch.images))
        views = attack(model, batch.images, reference, divergence, generator)
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
        optimizer.zero_grad(set_to_none=True)
        total, right = batch.images.new_zeros(()), batch.images.new_zeros(())
        for part in parts_of(batch, self.parts):
            loss, correct = self._backward(part, fraction, len(part.indices) / len(batch.indices))
            total += loss
            right += correct
        if self.masks is not None:
            self.masks.step(len(batch.indices))
        if self.training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.training.gradient_clip)
        optimizer.step()
        self.attached.after_step()
        if self.average is not None and self.done / self.steps >= self.settled:
            self.average.update(model)
        self.done += 1
        return total, right

    def _backward(self, batch: Batch, fraction: float, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of the `share` of a batch that this is; its part of the loss, and how many are right."""
        model = self.attached.model
        batch = self._as_trained_on(batch, fraction, model, self.generator)
        model.train()
        loss, outputs = training_loss(
            self.task, model(batch.inputs), batch, self.recipe, weight=self.weight, adversarial=self.adversarial
        )
        loss = loss * share
        loss.backward()
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
