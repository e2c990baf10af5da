"""`Study`: a whole study file, read and checked (its sections are in the files named ``schema_…``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from .conditions import measured_by, parse_condition
from .faults import Fault, contradiction, nearest
from .schema_base import NamedPart, PartSection, Section, one_or_many
from .schema_search import ConditionText, ObjectiveSection, SearchSection, StorageSection, StudySection, TargetSection
from .schema_space import TECHNIQUE_NAMES, RangeSection, SpaceSection, SparsitySection
from .schema_task import DataSection, ModelSection, TaskSection, ValidationSection
from .schema_training import OptimizerSection, TrainingSection

__all__ = [
    "DataSection",
    "ModelSection",
    "NamedPart",
    "ObjectiveSection",
    "OptimizerSection",
    "PartSection",
    "RangeSection",
    "SearchSection",
    "SpaceSection",
    "SparsitySection",
    "StorageSection",
    "Study",
    "StudySection",
    "TargetSection",
    "TaskSection",
    "TrainingSection",
    "ValidationSection",
    "cross_faults",
    "with_trials",
]


class Study(Section):
    """A study file.

    Args:
        objectives: What the search optimises.
        metrics: What is measured and recorded beside it.
        constraints: Conditions that a trial must meet to be on the front, on these or on numbers of their details.
    """

    study: StudySection
    task: TaskSection
    training: TrainingSection
    space: SpaceSection
    target: Annotated[list[TargetSection], BeforeValidator(one_or_many), Field(min_length=1)] = Field(
        default_factory=lambda: [TargetSection(name="onnxruntime-cpu")]
    )
    objectives: Annotated[list[ObjectiveSection], BeforeValidator(one_or_many), Field(min_length=1)]
    metrics: Annotated[list[ObjectiveSection], BeforeValidator(one_or_many)] = Field(default_factory=list)
    constraints: list[ConditionText] = Field(default_factory=list)
    search: SearchSection = SearchSection()
    storage: StorageSection = StorageSection()

    @model_validator(mode="before")
    @classmethod
    def _trials_of_techniques(cls, value: Any) -> Any:
        return with_trials(value)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Study:
        faults = cross_faults({name: getattr(self, name) for name in type(self).model_fields})
        if faults:
            raise contradiction(faults)
        return self


def with_trials(raw: Any) -> Any:
    """A parsed study file, with ``search.trials`` stated where it is left out and techniques say how many there are."""
    space, search = (raw.get(key, {}) if isinstance(raw, Mapping) else None for key in ("space", "search"))
    techniques = space.get("techniques") if isinstance(space, Mapping) else None
    listed = TECHNIQUE_NAMES if techniques == "all" else techniques
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not isinstance(search, Mapping):
        return raw
    return {**raw, "search": {"trials": 1 + len(listed), **search}}


def cross_faults(sections: dict[str, Any]) -> list[Fault]:
    """Contradictions between sections; those that need a section which is not in `sections` are not looked for.

    Args:
        sections: Sections of a study by name, each valid in itself.
    """
    faults = _twice(sections.get("target", ()), "target")
    measured = [(key, index, part) for key in ("objectives", "metrics") for index, part in _parts(sections, key)]
    seen: set[str] = set()
    for key, index, part in measured:
        if part.name in seen:
            faults.append(Fault((key, index, "name"), "measured once in a study", part.name))
        seen.add(part.name)
    if "objectives" in sections and "metrics" in sections:
        faults += _unmeasured(sections.get("constraints", ()), sorted(seen))
    if "space" in sections:
        faults += _space_faults(sections["space"], sections.get("training"), sections.get("search"))
    return faults


def _parts(sections: dict[str, Any], key: str) -> list[tuple[int, Any]]:
    return list(enumerate(sections.get(key, ())))


def _twice(parts: Any, key: str) -> list[Fault]:
    names = [part.name for part in parts]
    return [
        Fault((key, index, "name"), "named once in a study", name)
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _unmeasured(constraints: Any, measured: list[str]) -> list[Fault]:
    faults = []
    # a metric of the user's own states its name only once it is imported
    if any(":" in name for name in measured):
        return []
    for index, text in enumerate(constraints):
        metric = parse_condition(text).metric
        if measured_by(metric, measured) is None:
            match = nearest(metric, [*measured, *_with_detail(metric, measured)])
            suggestion = f'"{text.replace(metric, match, 1)}"' if match else None
            allowed = f"on an objective or metric of this study ({', '.join(measured)}) or <metric>_<detail>"
            faults.append(Fault(("constraints", index), allowed, text, suggestion))
    return faults


def _with_detail(name: str, measured: list[str]) -> list[str]:
    """What `name` would be with each metric that has fewer words in place of its first ones."""
    words = name.split("_")
    counts = {metric: metric.count("_") + 1 for metric in measured}
    return ["_".join([metric, *words[count:]]) for metric, count in counts.items() if count < len(words)]


def _space_faults(space: SpaceSection, training: TrainingSection | None, search: SearchSection | None) -> list[Fault]:
    faults = []
    if training is not None and space.class_weight_scale is not None:
        weightings = space.class_weighting or [training.class_weighting]
        if all(name == "none" for name in weightings):
            allowed = "left out unless `training.class_weighting` or `space.class_weighting` names a weighting"
            found = space.class_weight_scale.model_dump()
            faults.append(Fault(("space", "class_weight_scale"), allowed, found, 'class_weighting = "inverse"'))
    if training is not None and not training.augmentation_strength and space.augmentation_strength is None:
        faults += _idle_augmentation(space, training)
    if search is not None:
        most, plans, way_out = _most_trials(space)
        least = 1 + search.seeds
        if most is None and search.trials < least:
            allowed = f"at least {least} (the control and {search.seeds} seeds)"
            faults.append(Fault(("search", "trials"), allowed, search.trials, str(least)))
        if most is not None and search.trials > most:
            rule = "when `space` has nothing to search" if space.techniques is None else "with these techniques"
            faults.append(Fault(("search", "trials"), f"at most {most} {rule} ({plans})", search.trials, way_out))
    return faults


def _idle_augmentation(space: SpaceSection, training: TrainingSection) -> list[Fault]:
    """What asks for an augmentation that has no strength; the default's name asks for nothing."""
    allowed = "left out while `training.augmentation_strength` is 0 and not searched"
    faults, suggestion = [], "augmentation_strength = 1.0"
    if training.augmentation != TrainingSection.model_fields["augmentation"].default:
        faults.append(Fault(("training", "augmentation"), allowed, training.augmentation, suggestion))
    if training.consistency:
        faults.append(Fault(("training", "consistency"), allowed, training.consistency, suggestion))
    if space.augmentation is not None:
        suggestion = "augmentation_strength = { low = 0.0, high = 1.0 }"
        faults.append(Fault(("space", "augmentation"), allowed, space.augmentation, suggestion))
    return faults


def _most_trials(space: SpaceSection) -> tuple[int | None, str, str]:
    """How many trials a space that can be exhausted has, what they are, and how to have more or that many."""
    if space.techniques is not None:
        count = len(space.techniques)
        return 1 + count, f"the control and {count} technique{'s' if count > 1 else ''}", str(1 + count)
    more = "space.sparsity = { high = 0.9 }"
    if not space.used:
        return 1, "the control alone", more
    return (None if space.searched else 2), "the control and one fixed plan", more
