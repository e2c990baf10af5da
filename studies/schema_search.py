"""`[study]`, `[[target]]`, `[[objectives]]`, `[search]` and `[storage]` of a study file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from .conditions import parse_condition
from .errors import InputError
from .faults import Fault, broken, contradiction
from .schema_base import Identifier, NamedPart, PartName, PartSection, PositiveInt, Section

__all__ = ["ConditionText", "ObjectiveSection", "SearchSection", "StorageSection", "StudySection", "TargetSection"]


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


class SearchSection(PartSection):
    """Which sampler looks for how long; further keys are the sampler's options.

    A space of techniques has each of them tried once, whatever the sampler and the seeds.

    Args:
        seeds: Uniform compressions that are tried before the sampler chooses.
        trials: How many in all, the control and the seeds included; in a study of techniques the control and each of
            them when left out.
        timeout: Seconds after which no further trial begins, None for no limit.
        workers: Trials that run at the same time.
        engine: What runs them; None for ``serial`` with one worker and ``processes`` with more.
    """

    sampler: PartName = "nsga2"
    seeds: Annotated[int, Field(ge=0)] = 4
    trials: PositiveInt = 64
    timeout: Annotated[float, Field(gt=0.0)] | None = None
    workers: PositiveInt = 1
    engine: PartName | None = None

    @model_validator(mode="after")
    def _engine_fits(self) -> SearchSection:
        if self.engine == "serial" and self.workers > 1:
            allowed = 'left out or "processes" when `search.workers` is more than 1'
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
