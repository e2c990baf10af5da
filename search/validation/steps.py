"""Steps of a validation, each small enough to lose: an objective, a corruption at a severity, a batch under attack."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...version import __version__
from .bench import Bench
from .entries import EntryModel
from .measures import (
    FURTHER_RESTARTS,
    Value,
    measure_at_radius,
    measure_attacked,
    measure_audited,
    measure_clean,
    measure_corrupted,
    measure_objective,
)
from .progress import Task
from .protocol import CURVE_IMAGES, CURVE_STEPS, SEVERITIES
from .store import Store, Stored

__all__ = ["STAGES", "Step", "in_order", "steps_of"]

STAGES = {
    "training": "training",
    "clean": "objectives",
    "objectives": "objectives",
    "corruptions": "corruptions",
    "attack": "attack",
    "audit": "audit",
    "curve": "accuracy over ε",
}
"""Part of the protocol to what a person reads."""

AUDIT_IMAGES = 200


@dataclass(frozen=True)
class Step:
    """One thing to measure of one subject.

    Args:
        model: Whose.
        stage: A key of `STAGES`.
        key: Which one of the stage's.
        name: Of its file.
        task: Its words and its kind, for the progress.
        settings: What its value depends on beside the subject's weights, JSON values.
        measure: Does it; returns its value and the seconds that making a shared part took.
    """

    model: EntryModel
    stage: str
    key: tuple[Any, ...]
    name: str
    task: Task
    settings: dict[str, Any]
    measure: Callable[[], Value]

    @property
    def depends(self) -> dict[str, Any]:
        """All that its value depends on."""
        return {"forgefront": __version__, "subject": self.model.identity, **self.settings}

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return Store(self.model.folder)

    def stored(self) -> Stored | None:
        """What was measured before, None if nothing was."""
        if self.model.identity is None:
            return None
        if self.stage == "training":
            return Stored({}, 0.0)
        return self.store.read(self.name, self.depends)

    def take(self) -> tuple[float, float]:
        """Measure and keep; seconds of its own, and seconds of its shared part."""
        started = time.perf_counter()
        value, shared = self.measure()
        seconds = time.perf_counter() - started - shared
        if self.stage != "training":
            self.store.write(self.name, self.depends, Stored(value, seconds, shared))
        return seconds, shared


def steps_of(bench: Bench, model: EntryModel, control: EntryModel) -> Iterator[Step]:
    """All steps of one subject, stage by stage.

    Args:
        bench: What is measured, on which images.
        model: The subject.
        control: The dense control, which latency is relative to.
    """
    make = functools.partial(_step, model)
    if model.must_be_made:

        def train() -> Value:
            model.make()
            return {}, 0.0

        label = f"under seed {model.training + 1}" if model.training else "dense, with the trial's recipe"
        yield make("training", "training", label, {}, train)
    yield make(
        "clean", "clean", "plain images", {"images": bench.plain}, functools.partial(measure_clean, bench, model)
    )
    yield from _objectives(bench, model, control)
    for name in bench.protocol.corruptions:
        for severity in SEVERITIES:
            yield make(
                "corruptions",
                f"corruption-{name}-{severity}",
                f"{name} at severity {severity}",
                {"images": bench.sets.identity(name, severity), "corruption": name, "severity": severity},
                functools.partial(measure_corrupted, bench, model, name, severity),
                key=(name, severity),
                shared=None if bench.sets.kept(name, severity) else f"{name}/{severity}",
            )
    if bench.protocol.attack != "none":
        yield from _attacks(bench, model)


def _step(
    model: EntryModel,
    stage: str,
    name: str,
    label: str,
    settings: dict[str, Any],
    measure: Callable[[], Value],
    *,
    key: tuple[Any, ...] = (),
    kind: str | None = None,
    size: int = 1,
    shared: str | None = None,
) -> Step:
    task = Task(model.entry.title, STAGES[stage], label, kind or stage, size, shared, model.training)
    return Step(model, stage, key, name, task, settings, measure)


def _objectives(bench: Bench, model: EntryModel, control: EntryModel) -> Iterator[Step]:
    for part, options, objective in bench.objectives:
        if objective.name in bench.derived:
            continue
        settings = {
            "images": bench.plain,
            "objective": part,
            "options": options,
            "control": control.identity,
            **bench.depends(part, objective),
        }
        yield _step(
            model,
            "objectives",
            f"objective-{objective.name}",
            objective.name,
            settings,
            functools.partial(measure_objective, bench, model, control, objective),
            key=(objective.name,),
            kind=f"objective {objective.name}",
        )


def _attacks(bench: Bench, model: EntryModel) -> Iterator[Step]:
    protocol, size = bench.protocol, bench.batch_size
    settings: dict[str, Any] = {"images": bench.plain, "epsilon": protocol.epsilon, "norm": protocol.norm}
    batches = range(-(-len(bench.images) // size))
    for number in batches:
        yield _step(
            model,
            "attack",
            f"attack-{protocol.attack}-{number:04d}",
            f"{protocol.attack_name}, batch {number + 1} of {len(batches)}",
            {
                **settings,
                "attack": protocol.attack,
                "steps": protocol.steps,
                "restarts": protocol.restarts,
                "further_restarts": FURTHER_RESTARTS,
                "batch": number,
                "batch_size": size,
            },
            functools.partial(measure_attacked, bench, model, number, size),
            key=(number,),
            size=min(size, len(bench.images) - number * size),
        )
    images = min(AUDIT_IMAGES, len(bench.images))
    yield _step(
        model,
        "audit",
        "audit",
        f"{images} images",
        {**settings, "audit": images, "batch_size": size},
        functools.partial(measure_audited, bench, model, images),
    )
    images = min(CURVE_IMAGES, len(bench.images))
    for epsilon in protocol.radii[1:]:
        yield _step(
            model,
            "curve",
            f"curve-{epsilon:.5f}",
            f"PGD-{CURVE_STEPS} on {images} images at ε {epsilon:.4g}",
            {
                **settings,
                "epsilon": epsilon,
                "steps": CURVE_STEPS,
                "further_restarts": FURTHER_RESTARTS,
                "curve": images,
                "batch_size": size,
            },
            functools.partial(measure_at_radius, bench, model, epsilon, images),
            key=(epsilon,),
        )


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Steps in the order to take them: one of each kind first, and an attack batch of each subject that is there.

    So the time that is left is known early, from steps that have been timed.
    """
    first: dict[tuple[str, str], Step] = {}
    for step in steps:
        if not step.model.must_be_made:
            # an attack costs what the subject withstands
            own = step.task.subject if step.stage == "attack" else ""
            first.setdefault((step.task.kind, own), step)
    ahead = {id(step) for step in first.values()}
    return [*first.values(), *(step for step in steps if id(step) not in ahead)]
