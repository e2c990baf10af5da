"""Image classification: one label an image, logits (N, C), cross entropy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...spaces.plan import Recipe
from ...studies.errors import DataError
from ...studies.registry import bind, resolve, validate_options
from ...studies.seeds import Seed
from ..attacks.base import LossFunction
from ..attacks.losses import cross_entropy, margin, scaled_cross_entropy
from ..class_balance import repeat_counts, repeat_factor, scale_weights
from ..data.base import ImageData, Split
from ..data.splits import Splits, make_splits, to_device
from ..geometry import random_crop, random_horizontal_flip
from ..models.base import build_classifier
from ..models.weights import load_weights
from .base import Batch, EvaluationSet, SplitName, Task, to_float

if TYPE_CHECKING:
    from ...studies.schema import Study

__all__ = ["ClassificationTask"]

VIEWS = 2


class ClassificationTask(Task):
    """A study's data set, classifier and losses, with all images as uint8 on the device.

    Args:
        study: The study.
        device: Where images live and models are trained.

    Raises:
        DataError: The data set is missing or damaged, or the splits that the study asks for cannot be cut.
        ModelError: The checkpoint is missing or does not fit the model.
    """

    def __init__(self, study: Study, device: torch.device) -> None:
        self.study, self.device = study, device
        section = study.task.data
        data = bind("data", section.name, section.options, "task.data")()
        if not isinstance(data, ImageData):
            found = type(data).__name__
            raise DataError(f'`task.data` "{section.name}" must return an `ImageData`; found {found}.')
        self.class_names, self.input_shape = data.class_names, data.image_shape
        self._content_hash = data.content_hash
        splits = make_splits(
            data,
            validation_from=section.validation.from_,
            validation_count=section.validation.count,
            imbalance=section.imbalance,
            train_images=section.train_images,
            test_images=section.test_images,
            checkpoint=study.task.model.has_seen_training,
            seed=Seed(study.study.seed).child("splits"),
        )
        self.class_counts = splits.train.class_counts(len(self.class_names))
        self._labels = splits.train.labels.numpy()
        self._statistics = _channel_statistics(data, splits.train)
        self._splits = Splits(*(to_device(part, device) for part in (splits.train, splits.validation, splits.test)))
        self._weights: dict[tuple[str, float], Tensor] = {}
        self._checkpoint = self._read_checkpoint()

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of the data set, of which image went into which split, and of the checkpoint; sizes."""
        parts = {"train": self._splits.train, "validation": self._splits.validation, "test": self._splits.test}
        digest = hashlib.sha256()
        for part in parts.values():
            digest.update(part.indices.cpu().numpy().tobytes())
        weights = self.study.task.model.weights
        return {
            "data": self._content_hash,
            "splits": digest.hexdigest(),
            "checkpoint": None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
            "sizes": {name: len(part) for name, part in parts.items()},
            "class_counts": self.class_counts.tolist(),
            "input_shape": list(self.input_shape),
        }

    def architecture(self) -> dict[str, Any]:
        """The model's name and options, the number of classes, the normalisation, the input's shape."""
        section = self.study.task.model
        mean, std = self._statistics
        return {
            "name": section.name,
            "options": validate_options("model", section.name, section.options, "task.model"),
            "classes": len(self.class_names),
            "mean": mean,
            "std": std,
            "input_shape": self.input_shape,
        }

    def build_model(self) -> nn.Module:
        """A fresh classifier on the CPU, its initialisation the same each time."""
        return self._initialised(Seed(0))

    def starting_model(self, seed: Seed) -> nn.Module:
        """The checkpoint's classifier, or one initialised from `seed`, on the device."""
        model = self._initialised(seed)
        if self._checkpoint is not None:
            model.load_state_dict(self._checkpoint)
        return model.to(self.device)

    def steps_per_epoch(self, batch_size: int, recipe: Recipe) -> int:
        """Whole batches in the training split, at least 1.

        Repeat-factor sampling does not lengthen an epoch, so that every recipe has the same budget.
        """
        del recipe
        return max(1, len(self._labels) // batch_size)

    def train_batches(
        self, recipe: Recipe, *, batch_size: int, steps: int | None = None, seed: Seed
    ) -> Iterator[Batch]:
        """One shuffled epoch of whole batches, cropped, flipped and augmented on the device.

        With `training.consistency` the images are those before augmentation, and the views two augmented versions.
        """
        train, training = self._splits.train, self.study.training
        augment, strength = resolve("augmentation", recipe.augmentation), recipe.augmentation_strength
        per_epoch = self.steps_per_epoch(batch_size, recipe)
        order = torch.from_numpy(self._draw_order(recipe, seed)).to(self.device)
        generator = seed.child("augmentation").torch(self.device)
        for step in range(per_epoch if steps is None else min(steps, per_epoch)):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            images = random_crop(train.images[chosen], training.crop_padding, generator)
            if training.horizontal_flip:
                images = random_horizontal_flip(images, generator)
            plain, views = to_float(images), None
            if training.consistency > 0.0 and strength > 0.0:
                views = augment(plain.repeat(VIEWS, 1, 1, 1), strength, generator)
            else:
                plain = augment(plain, strength, generator)
            yield Batch(plain, train.labels[chosen], train.indices[chosen], views)

    def loss(self, outputs: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
        """Mean over the batch of w · cross entropy (Cygert & Czyżewski 2021, eq. 4), with label smoothing."""
        smoothing = self.study.training.label_smoothing
        losses = functional.cross_entropy(outputs, batch.targets, reduction="none", label_smoothing=smoothing)
        weights = self._class_weights(recipe)
        return losses.mean() if weights is None else (losses * weights[batch.targets]).mean()

    def attack_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each image, (N,)."""
        return cross_entropy(outputs, targets)

    @property
    def attack_losses(self) -> dict[str, LossFunction]:
        """Cross entropy, the margin, and the cross entropy of logits brought to one scale."""
        return {"cross-entropy": self.attack_loss, "margin": margin, "scaled-cross-entropy": scaled_cross_entropy}

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Log-softmax of the logits, (N, C)."""
        return functional.log_softmax(outputs, dim=1)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the highest logit is the label's, bool, (N,); never where a logit is not a number."""
        return (outputs.argmax(dim=1) == targets) & ~outputs.isnan().any(dim=1)

    def evaluation(self, split: SplitName, limit: int | None = None) -> EvaluationSet:
        """The images of a split, or the first `limit` of its fixed shuffled order."""
        part: Split = getattr(self._splits, split)
        chosen = slice(None, limit)
        return EvaluationSet(part.images[chosen], part.labels[chosen], part.indices[chosen])

    def tally(self, outputs: Tensor, targets: Tensor) -> dict[str, list[int]]:
        """``{"correct": [per class], "total": [per class]}``."""
        right = self.correct(outputs, targets)
        classes = len(self.class_names)
        return {
            "correct": torch.bincount(targets[right], minlength=classes).tolist(),
            "total": torch.bincount(targets, minlength=classes).tolist(),
        }

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The class of the highest logit, int64, (N,)."""
        return np.asarray(outputs).argmax(axis=1)

    def calibration_images(self, count: int, seed: Seed) -> Tensor:
        """`count` training images drawn without replacement (or all, if fewer), float32 in [0, 1]."""
        order = seed.numpy().permutation(len(self._labels))[:count]
        return to_float(self._splits.train.images[torch.from_numpy(order).to(self.device)])

    def _draw_order(self, recipe: Recipe, seed: Seed) -> np.ndarray:
        generator = seed.child("order").numpy()
        images = np.arange(len(self._labels))
        if recipe.class_weighting == "repeat-factor" and recipe.class_weight_scale > 0.0:
            factors = repeat_factor(self.class_counts) ** recipe.class_weight_scale
            images = np.repeat(images, repeat_counts(factors[self._labels], generator))
        return generator.permutation(images)

    def _class_weights(self, recipe: Recipe) -> Tensor | None:
        if recipe.class_weighting in ("none", "repeat-factor") or recipe.class_weight_scale == 0.0:
            return None
        key = (recipe.class_weighting, recipe.class_weight_scale)
        if key not in self._weights:
            weights = resolve("class_weighting", recipe.class_weighting)(self.class_counts)
            scaled = scale_weights(np.asarray(weights, dtype=np.float64), recipe.class_weight_scale)
            self._weights[key] = torch.tensor(scaled, dtype=torch.float32, device=self.device)
        return self._weights[key]

    def _initialised(self, seed: Seed) -> nn.Module:
        section = self.study.task.model
        options = validate_options("model", section.name, section.options, "task.model")
        mean, std = self._statistics
        # layers draw their first weights from torch's global generator; it is put back afterwards
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed.integer())
            part = resolve("model", section.name)
            return build_classifier(part, len(self.class_names), options=options, mean=mean, std=std)

    def _read_checkpoint(self) -> dict[str, Tensor] | None:
        weights = self.study.task.model.weights
        if weights is None:
            return None
        model = self.build_model()
        load_weights(model, weights)
        return model.state_dict()


def _channel_statistics(data: ImageData, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel: the data set's own, or those of what is trained on."""
    if data.mean is not None and data.std is not None:
        return data.mean, data.std
    # exact sums of integers, so that the result does not depend on the number of threads
    mean, square = [], []
    for channel in range(train.images.shape[1]):
        values = torch.bincount(train.images[:, channel].flatten(), minlength=256).double().numpy()
        share, levels = values / values.sum(), np.arange(256) / 255.0
        mean.append(float((share * levels).sum()))
        square.append(float((share * levels**2).sum()))
    # a channel that never changes is left unscaled
    deviations = [(s - m * m) ** 0.5 if s - m * m > 1e-8 else 1.0 for m, s in zip(mean, square, strict=True)]
    return tuple(mean), tuple(deviations)
