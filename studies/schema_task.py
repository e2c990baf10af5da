"""`[task]` of a study file: the kind of work, its data and splits, its model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from .faults import Fault, contradiction
from .schema_base import NamedPart, PartName, PositiveInt, Section

__all__ = ["DataSection", "ModelSection", "TaskSection", "ValidationSection"]


class ValidationSection(Section):
    """Which images the search scores on.

    Args:
        from_: Official split that they are cut from, written ``from`` in the file; ``test`` when the checkpoint was
            trained on the whole training split.
        count: How many.
    """

    from_: Literal["train", "test"] = Field("train", alias="from")
    count: PositiveInt


class DataSection(NamedPart):
    """The data set, and what is made of it.

    Args:
        validation: The images that the search scores on.
        imbalance: Images of the most frequent class ÷ images of the rarest; 1 leaves the data as they are.
        train_images: At most so many training images, None for all.
        test_images: At most so many test images, None for all.
    """

    validation: ValidationSection
    imbalance: Annotated[float, Field(ge=1.0)] = 1.0
    train_images: PositiveInt | None = None
    test_images: PositiveInt | None = None


class ModelSection(NamedPart):
    """The architecture, and the checkpoint it starts from.

    Args:
        weights: A checkpoint's file; None, or empty, trains from scratch.
        trained_on: What the checkpoint has seen: this data set's training split, or other data only.
    """

    weights: Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)] = None
    trained_on: Literal["train", "other"] = "train"

    @property
    def has_seen_training(self) -> bool:
        """Whether training starts from weights that have seen this data set's training split."""
        return self.weights is not None and self.trained_on == "train"


class TaskSection(Section):
    """The work that a candidate does."""

    type: PartName = "classification"
    data: DataSection
    model: ModelSection

    @model_validator(mode="after")
    def _unseen_validation(self) -> TaskSection:
        if self.model.has_seen_training and self.data.validation.from_ == "train":
            allowed = '"test" when the checkpoint has seen the training split (or `task.model.trained_on` is "other")'
            raise contradiction([Fault(("data", "validation", "from"), allowed, "train", '"test"')])
        return self
