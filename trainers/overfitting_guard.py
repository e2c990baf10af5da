"""Guards single-step adversarial training against catastrophic overfitting (Wong et al. 2020, section 5.4).

The sign of it is that accuracy under PGD collapses within an epoch while clean accuracy holds. Compression lowers both
together, and must not be mistaken for it; so what counts is by how much more PGD accuracy fell than clean accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..studies.seeds import Seed
from .attacks.pgd import pgd
from .tasks.base import Task, to_float

__all__ = ["OverfittingGuard", "is_overfitting"]

IMAGES = 256
STEPS = 5
LARGEST_DROP = 0.2
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# of masks and quantizers that do not live in a parametrization
COMPRESSION = (".scores", ".step_size")


def is_overfitting(best: tuple[float, float], now: tuple[float, float]) -> bool:
    """Whether PGD accuracy fell by more than 0.2 beyond what clean accuracy lost.

    Args:
        best: (clean, PGD) accuracy when PGD accuracy was highest, each in [0, 1].
        now: The same now.
    """
    clean_drop, pgd_drop = best[0] - now[0], best[1] - now[1]
    return pgd_drop - max(0.0, clean_drop) > LARGEST_DROP


class OverfittingGuard:
    """Remembers the weights of the last check that went well and puts them back when one goes badly.

    Args:
        task: Gives the images: 256 fixed, plain training images, so that no validation image is looked at.
        epsilon: L∞ radius of PGD-5 with a step of ε / 2 and one random start.
        seed: For the random start, the same in every check.
    """

    def __init__(self, task: Task, epsilon: float, *, seed: Seed) -> None:
        held = task.evaluation("train", IMAGES)
        self._task, self._epsilon, self._seed = task, epsilon, seed
        self._images, self._targets = to_float(held.images), held.targets
        self._best = (0.0, 0.0)
        self._good: dict[str, Tensor] = {}

    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        """(clean, PGD) accuracy on the guard's images; the model's mode is kept."""
        training = model.training
        model.eval()
        with torch.no_grad():
            clean = self._task.correct(model(self._images), self._targets)
        robust = pgd(
            model,
            self._images,
            self._targets,
            loss=self._task.attack_loss,
            correct=self._task.correct,
            epsilon=self._epsilon,
            step_size=self._epsilon / 2,
            steps=STEPS,
            restarts=1,
            generator=self._seed.torch(self._images.device),
        )
        model.train(training)
        return float(clean.float().mean()), float(robust.float().mean())

    def check(self, model: nn.Module) -> str | None:
        """Compare with the best check so far; on catastrophic overfitting put the last good weights back.

        Weights and batch-norm statistics are put back; masks, codebooks and output ranges stay, since they follow the
        compression schedule, which does not go back.

        Returns:
            What happened, for the trial's record, or None when all is well.
        """
        now = self.accuracies(model)
        if self._good and is_overfitting(self._best, now):
            self._restore(model)
            return (
                f"catastrophic overfitting: PGD accuracy {now[1]:.2f} after {self._best[1]:.2f} "
                f"(clean {now[0]:.2f} after {self._best[0]:.2f}); last good weights restored"
            )
        if now[1] >= self._best[1]:
            self._best = now
        self._good = {name: tensor.detach().clone() for name, tensor in _learned(model).items()}
        return None

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
