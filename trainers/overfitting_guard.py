"""Guards single-step adversarial training against catastrophic overfitting (Wong et al. 2020, section 5.4).

Its signs are that accuracy under PGD collapses within an epoch while clean accuracy holds, and that accuracy under the
single step of FGSM stays high meanwhile (Andriushchenko & Flammarion 2020, section 3). Compression lowers clean and PGD
accuracy together, and must not be mistaken for it; so what counts is by how much more PGD accuracy fell than clean
accuracy, or how far it lies below FGSM accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..studies.seeds import Seed
from .attacks.base import Victim
from .attacks.pgd import FGSM, PGD
from .tasks.base import Task, to_float

__all__ = ["Accuracies", "OverfittingGuard", "is_overfitting"]

IMAGES = 256
STEPS = 5
LARGEST_DROP = 0.2
# networks that train well lie up to 0.3 apart, those that overfit 0.5 and more
LARGEST_GAP = 0.4
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# of masks and quantizers that do not live in a parametrization
COMPRESSION = (".scores", ".step_size")


class Accuracies(NamedTuple):
    """Shares of the guard's images that are right when clean, under FGSM and under PGD, each in [0, 1]."""

    clean: float
    fgsm: float
    pgd: float


def is_overfitting(best: Accuracies, now: Accuracies) -> bool:
    """Whether PGD accuracy fell by more than 0.2 beyond what clean accuracy lost, or lies 0.4 below FGSM accuracy.

    Args:
        best: Accuracies when that under PGD was highest.
        now: The same now.
    """
    fell = best.pgd - now.pgd - max(0.0, best.clean - now.clean)
    return fell > LARGEST_DROP or now.fgsm - now.pgd > LARGEST_GAP


class OverfittingGuard:
    """Remembers the weights of the last check that went well and puts them back when one goes badly.

    Args:
        task: Gives the images: 256 fixed, plain training images, so that no validation image is looked at.
        epsilon: L∞ radius of PGD-5 with a step of ε / 2 and one random start.
        seed: For the random start, the same in every check.
        parts: In how many parts the images go through the model.
    """

    def __init__(self, task: Task, epsilon: float, *, seed: Seed, parts: int = 1) -> None:
        held = task.evaluation("train", IMAGES)
        self._task, self._epsilon, self._seed, self.parts = task, epsilon, seed, parts
        self._images, self._targets = to_float(held.images), held.targets
        self._best = Accuracies(0.0, 0.0, 0.0)
        self._good: dict[str, Tensor] = {}

    def accuracies(self, model: nn.Module) -> Accuracies:
        """Accuracies on the guard's images; the model's mode is kept."""
        training = model.training
        model.eval()
        images, targets = (tensor.chunk(self.parts) for tensor in (self._images, self._targets))
        with torch.no_grad():
            clean = [self._task.correct(model(part), wanted) for part, wanted in zip(images, targets, strict=True)]
        victim = Victim(model, self._task.attack_losses, self._task.correct)
        attacks = (
            FGSM(epsilon=self._epsilon),
            PGD(epsilon=self._epsilon, steps=STEPS, restarts=1, step_size=self._epsilon / 2),
        )
        robust = []
        for attack in attacks:
            draws = self._seed.torch(self._images.device)
            found = [attack(victim, part, wanted, draws).robust for part, wanted in zip(images, targets, strict=True)]
            robust.append(found)
        model.train(training)
        return Accuracies(*(float(torch.cat(right).float().mean()) for right in (clean, *robust)))

    def check(self, model: nn.Module) -> str | None:
        """Compare with the best check so far; on catastrophic overfitting put the last good weights back.

        Weights and batch-norm statistics are put back; masks, codebooks and output ranges stay, since they follow the
        compression schedule, which does not go back. Where no check went well yet, all stays as it is.

        Returns:
            What happened, for the trial's record, or None when all is well.
        """
        now = self.accuracies(model)
        if is_overfitting(self._best, now):
            found = "catastrophic overfitting: PGD accuracy"
            if not self._good:
                accuracies = f"{now.pgd:.2f} (clean {now.clean:.2f}, FGSM {now.fgsm:.2f})"
                return f"{found} {accuracies}; no good weights to restore"
            self._restore(model)
            return (
                f"{found} {now.pgd:.2f} after {self._best.pgd:.2f} "
                f"(clean {now.clean:.2f} after {self._best.clean:.2f}, FGSM {now.fgsm:.2f}); last good weights restored"
            )
        if now.pgd >= self._best.pgd:
            self._best = now
        self._good = {name: tensor.detach().clone() for name, tensor in _learned(model).items()}
        return None

    def state(self) -> dict[str, Any]:
        """The best and the last good check, for a checkpoint; tensors are those in use, not copies."""
        return {"best": list(self._best), "good": self._good}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._best = Accuracies(*state["best"])
        self._good = {name: tensor.to(self._images.device) for name, tensor in state["good"].items()}

    def _restore(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, tensor in _learned(model).items():
                tensor.copy_(self._good[name])


def _learned(model: nn.Module) -> dict[str, Tensor]:
    statistics = {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in STATISTICS}
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".original") or not ("parametrizations." in name or name.endswith(COMPRESSION))
    }
    return {**weights, **statistics}
