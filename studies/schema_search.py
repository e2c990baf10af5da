"""`[study]`, `[[target]]`, `[[objectives]]`, `[search]` and `[storage]` of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .conditions import parse_condition
from .errors import InputError
from .faults import Fault, broken, contradiction
from .schema_base import Identifier, NamedPart, PartName, PartSection, PositiveInt, Section, distinct

__all__ = [
    "ConditionText",
    "EarlyStoppingSection",
    "ObjectiveSection",
    "SearchSection",
    "StagnationSection",
    "StorageSection",
    "StudySection",
    "TargetSection",
]


class StudySection(Section):
    """The study's name (also its run folder's), its seed, and a line about it."""

    name: Identifier
    seed: Annotated[int, Field(ge=0)] = 0
    description: str = ""


class TargetSection(NamedPart):
    """Where candidates will run."""


class ObjectiveSection(NamedPart):
    """A metric and its options.

    Args:
        direction: None for the metric's own direction.
    """

    direction: Literal["minimize", "maximize"] | None = None


class StagnationSection(Section):
    """When a search has stopped finding anything.

    Args:
        trials: Complete trials in a row that bring the hypervolume no more than `tolerance`.
        tolerance: Growth over all of them, as a share of the hypervolume.
    """

    trials: PositiveInt = 30
    tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01


class EarlyStoppingSection(Section):
    """Which trials are stopped in training (MO-ASHA, Schmucker et al. 2021): those that are behind at a rung.

    Args:
        rungs: Shares of a trial's training after which it is compared, rising.
        keep: Share of the trials at a rung that go on, by non-dominated rank and spread.
        warm_up: Trials that must have reached a rung before any is stopped there.
        images: Validation images that are looked at there.
    """

    rungs: Annotated[list[Annotated[float, Field(gt=0.0, lt=1.0)]], AfterValidator(distinct)] = Field(
        default_factory=lambda: [0.25, 0.5]
    )
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    warm_up: PositiveInt = 8
    images: PositiveInt = 500

    @model_validator(mode="after")
    def _rising(self) -> EarlyStoppingSection:
        if self.rungs != sorted(self.rungs):
            raise contradiction([Fault(("rungs",), "rising", self.rungs, str(sorted(self.rungs)))])
        return self


class SearchSection(PartSection):
    """Which sampler looks for how long; further keys are the sampler's options.

    A space of techniques has each of them tried once, whatever the sampler and the seeds.

    Args:
        seeds: Uniform compressions that are tried before the sampler chooses.
        trials: How many in all, the control and the seeds included; in a study of techniques the control and each of
            them when left out.
        timeout: Seconds after which no further trial begins, None for no limit; counted anew by every resume.
        device_hours: Hours of trials, one for each worker's device and all lives of the run together, after which no
            further trial begins.
        stagnation: When no further trial begins because the search finds nothing more.
        workers: Trials that run at the same time.
        engine: What runs them; None for ``serial`` with one worker and ``processes`` with more, or with a
            `trial_timeout`.
        engine_options: The engine's own options.
        trial_timeout: Seconds after which a trial that still runs is ended, and has failed.
        early_stopping: Stop trials in training that are behind; None lets each run to its end.
        repeats: Trainings, each under a seed of its own, of a candidate that would be on the front; its scores are the
            means.
    """

    sampler: PartName = "surrogate-nsga2"
    seeds: Annotated[int, Field(ge=0)] = 8
    trials: PositiveInt = 64
    timeout: Annotated[float, Field(gt=0.0)] | None = None
    device_hours: Annotated[float, Field(gt=0.0)] | None = None
    stagnation: StagnationSection | None = None
    workers: PositiveInt = 1
    engine: PartName | None = None
    engine_options: dict[str, Any] = Field(default_factory=dict)
    trial_timeout: Annotated[float, Field(gt=0.0)] | None = None
    early_stopping: EarlyStoppingSection | None = None
    repeats: PositiveInt = 1

    @model_validator(mode="after")
    def _engine_fits(self) -> SearchSection:
        if self.engine == "serial" and self.workers > 1:
            allowed = 'left out or "processes" when `search.workers` is more than 1'
            raise contradiction([Fault(("engine",), allowed, self.engine, '"processes"')])
        if self.engine == "serial" and self.trial_timeout is not None:
            allowed = 'left out or "processes" with `search.trial_timeout`: a process cannot end itself'
            raise contradiction([Fault(("engine",), allowed, self.engine, '"processes"')])
        return self


class StorageSection(Section):
    """Where studies are kept.

    Args:
        url: An Optuna storage URL, None for SQLite in the run folder.
        folder: The folder that run folders are made in.
    """

    url: str | None = None
    folder: str = "runs"

    @model_validator(mode="after")
    def _is_url(self) -> StorageSection:
        if self.url is not None and "://" not in self.url:
            suggestion = f'"sqlite:///{self.url}"'
            raise contradiction([Fault(("url",), "an Optuna storage URL", self.url, suggestion)])
        return self


def _condition(text: str) -> str:
    try:
        parse_condition(text)
    except InputError as error:
        message = str(error).removeprefix("`condition` must be ")
        allowed, _, rest = message.partition("; found ")
        match = rest.partition(" Did you mean ")[2].rstrip("?").strip('"')
        raise broken(allowed, match or None) from None
    return text


ConditionText = Annotated[str, AfterValidator(_condition)]
"""A condition in the grammar of `parse_condition`."""
