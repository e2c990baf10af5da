"""What a trial is worth at a rung: its objectives on few images, or as its plan tells them, against the control's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ..compression.targets.base import Artefact
from ..objectives.base import Objective, Subject
from ..objectives.score import measure_all
from ..spaces.forecast import Forecast
from ..trainers.tasks.base import EvaluationSet, SplitName, Task

__all__ = ["FewImages", "NotExported", "NotExportedError", "rung_deviations", "rung_values"]


class NotExportedError(LookupError):
    """An objective asked for an exported file, which a model in training does not have."""


class NotExported(Mapping[str, Artefact]):
    """The artefacts of what was not exported: asking for one raises `NotExportedError`."""

    def __getitem__(self, name: str) -> Artefact:
        raise NotExportedError(name)

    def __iter__(self) -> Iterator[str]:
        raise NotExportedError("all")

    def __len__(self) -> int:
        raise NotExportedError("all")


class FewImages:
    """A task that has no more than some images of each split to score on, and is the same in all else.

    Args:
        task: The task.
        images: How many.
    """

    def __init__(self, task: Task, images: int) -> None:
        self._task, self._images = task, images

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def evaluation(self, split: SplitName, limit: int | None = None) -> EvaluationSet:
        """The first images of a split."""
        return self._task.evaluation(split, self._images if limit is None else min(limit, self._images))

    @classmethod
    def of(cls, task: Task, images: int) -> Task:
        """The task as objectives take it."""
        return cast(Task, cls(task, images))


def rung_values(
    objectives: Sequence[Objective],
    subject: Subject,
    forecasts: Mapping[str, Forecast],
    control_raw: Mapping[str, Any],
) -> dict[str, float | None]:
    """Values by objective, None for what is not a finite number.

    Left out are those that need an exported file and that no plan tells, for every trial alike.

    Args:
        objectives: Those of the study that are searched, not those that are only recorded.
        subject: The candidate in training, without artefacts.
        forecasts: What its plan tells, by metric.
        control_raw: The control's raw numbers at the end of its training, by metric.
    """
    values: dict[str, float | None] = {}
    for objective in objectives:
        told = forecasts.get(objective.name)
        if told is not None:
            value = float(told.value)
        else:
            try:
                raw = measure_all([objective], subject)[objective.name]
            except NotExportedError:
                continue
            value = float(objective.derive(raw, control_raw[objective.name]).value)
        # JSON has no word for other numbers
        values[objective.name] = value if math.isfinite(value) else None
    return values


def rung_deviations(rungs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What went otherwise than planned in looking at a training, one line each.

    Args:
        rungs: What was recorded at each, with its ``fraction`` and perhaps its ``deviations``.
    """
    return [f"rung at {100 * rung['fraction']:g} %: {line}" for rung in rungs for line in rung.get("deviations", ())]
