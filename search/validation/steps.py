"""Steps of a validation, each small enough to lose: an objective, a corruption at a severity, a batch under attack."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...objectives.audit import audit
from ...objectives.base import Objective, judge
from ...objectives.base import Subject as Measured
from ...objectives.corrupted_sets import CorruptedSets
from ...studies.registry import bind, options_model, resolve
from ...studies.seeds import Seed
from ...trainers.attacks.base import EvaluationAttack, Victim
from ...trainers.attacks.losses import scale_free
from ...trainers.attacks.pgd import PGD
from ...trainers.tasks.base import Batch, EvaluationSet
from ...version import __version__
from .entries import EntryModel
from .progress import Task
from .protocol import CURVE_IMAGES, CURVE_STEPS, SEVERITIES, Protocol
from .store import Store, Stored, pack

if TYPE_CHECKING:
    from ..trial import TrialContext

__all__ = ["STAGES", "Bench", "Step", "in_order", "steps_of"]

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
FURTHER_RESTARTS = 2
"""Of the attacks that follow the published one: they catch what it is blind to, for which few starts do."""
ATTACK_BATCH_ON_CPU = 100
"""Images that one interruption of an attack may cost; an accelerator takes as many as a forward pass does."""


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
    measure: Callable[[], tuple[dict[str, Any], float]]

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
            self.store.write(self.name, self.depends, Stored(value, seconds))
        return seconds, shared


class Bench:
    """What the steps of all subjects share.

    Args:
        context: The study's.
        protocol: What is measured.
    """

    def __init__(self, context: TrialContext, protocol: Protocol) -> None:
        self.context, self.protocol = context, protocol
        self.study_seed = context.study.study.seed
        self.seed = Seed(self.study_seed).child("validate")
        self.made: set[tuple[str, int]] = set()

    @functools.cached_property
    def images(self) -> EvaluationSet:
        """The test images."""
        return self.context.task.evaluation("test", self.protocol.images)

    @functools.cached_property
    def sets(self) -> CorruptedSets:
        """The same images, corrupted."""
        return CorruptedSets(
            self.images,
            study_seed=self.study_seed,
            folder=self.context.folder.corrupted,
            archive=self.protocol.archive,
            frost=self.protocol.frost,
        )

    @functools.cached_property
    def plain(self) -> str:
        """Digest of the test images, their order and the study's seed, for all but corrupted images."""
        return CorruptedSets(self.images, study_seed=self.study_seed, folder=None).content

    @functools.cached_property
    def objectives(self) -> list[tuple[str, dict[str, Any], Objective]]:
        """The study's objectives and metrics: name in the registry, options, the part itself."""
        found, limit = [], self.protocol.images
        for part in (*self.context.study.objectives, *self.context.study.metrics):
            # what limits a trial's cost has no place here: as many images are scored as the user asks for
            options = {key: value for key, value in part.options.items() if key != "images"}
            if limit is not None and _takes_images(part.name):
                options["images"] = limit
            found.append((part.name, options, bind("objective", part.name, options, part.name)()))
        return found

    @property
    def batch_size(self) -> int:
        """Images of one step of the attack."""
        size = self.context.batch_size
        return size if self.context.device.type == "cuda" else min(size, ATTACK_BATCH_ON_CPU)

    def part(self, start: int, count: int) -> EvaluationSet:
        """`count` of the images, from `start`."""
        part = slice(start, start + count)
        return EvaluationSet(self.images.images[part], self.images.targets[part], self.images.indices[part])

    @functools.cached_property
    def attack(self) -> EvaluationAttack:
        """The protocol's attack.

        Raises:
            InputError: It needs a package that is not installed.
        """
        protocol = self.protocol
        options: dict[str, Any] = {"epsilon": protocol.epsilon}
        if protocol.attack != "autoattack":
            options |= {"steps": protocol.steps, "restarts": protocol.restarts}
        attack: EvaluationAttack = bind("evaluation_attack", protocol.attack, options, "--attack")()
        return attack


def steps_of(bench: Bench, model: EntryModel, control: EntryModel) -> Iterator[Step]:
    """All steps of one subject, stage by stage.

    Args:
        bench: What is measured, on which images.
        model: The subject.
        control: The dense control, which latency is relative to.
    """
    make = functools.partial(_step, model)
    if model.must_be_made:

        def train() -> tuple[dict[str, Any], float]:
            model.make()
            return {}, 0.0

        yield make("training", "training", "dense, with the trial's recipe", {}, train)
    yield make("clean", "clean", "plain images", {"images": bench.plain}, functools.partial(_clean, bench, model))
    yield from _objectives(bench, model, control)
    for name in bench.protocol.corruptions:
        for severity in SEVERITIES:
            yield make(
                "corruptions",
                f"corruption-{name}-{severity}",
                f"{name} at severity {severity}",
                {"images": bench.sets.content, "corruption": name, "severity": severity},
                functools.partial(_corrupted, bench, model, name, severity),
                key=(name, severity),
                shared=f"{name}/{severity}",
            )
    if bench.protocol.attack != "none":
        yield from _attacks(bench, model)


def _step(
    model: EntryModel,
    stage: str,
    name: str,
    label: str,
    settings: dict[str, Any],
    measure: Callable[[], tuple[dict[str, Any], float]],
    *,
    key: tuple[Any, ...] = (),
    kind: str | None = None,
    size: int = 1,
    shared: str | None = None,
) -> Step:
    task = Task(model.entry.title, STAGES[stage], label, kind or stage, size, shared)
    return Step(model, stage, key, name, task, settings, measure)


def _clean(bench: Bench, model: EntryModel) -> tuple[dict[str, Any], float]:
    judged = judge(model.candidate.model, bench.context.task, bench.images, bench.context.batch_size)
    return {"correct": pack(judged.correct), "tally": judged.tally}, 0.0


def _objectives(bench: Bench, model: EntryModel, control: EntryModel) -> Iterator[Step]:
    for part, options, objective in bench.objectives:
        settings = {"images": bench.plain, "objective": part, "options": options, "control": control.identity}
        yield _step(
            model,
            "objectives",
            f"objective-{objective.name}",
            objective.name,
            settings,
            functools.partial(_objective, bench, model, control, objective),
            key=(objective.name,),
            kind=f"objective {objective.name}",
        )


def _takes_images(name: str) -> bool:
    fields = options_model(resolve("objective", name)).model_fields
    return any(field.alias == "images" for field in fields.values())


def _objective(
    bench: Bench, model: EntryModel, control: EntryModel, objective: Objective
) -> tuple[dict[str, Any], float]:
    if model.measured is None:
        context = bench.context
        artefacts = model.artefacts()
        reference = artefacts if model is control else context.control_artefacts()
        model.measured = context.subject(model.candidate, artefacts, reference, seed=bench.seed, split="test")
    measured: Measured = model.measured
    return objective.measure(measured), 0.0


def _corrupted(bench: Bench, model: EntryModel, name: str, severity: int) -> tuple[dict[str, Any], float]:
    started = time.perf_counter()
    images = bench.sets.images(name, severity)
    shared = 0.0 if (name, severity) in bench.made else time.perf_counter() - started
    bench.made.add((name, severity))
    corrupted = EvaluationSet(images, bench.images.targets, bench.images.indices)
    judged = judge(model.candidate.model, bench.context.task, corrupted, bench.context.batch_size)
    return {"correct": pack(judged.correct), "tally": judged.tally}, shared


def _attacks(bench: Bench, model: EntryModel) -> Iterator[Step]:
    protocol, size = bench.protocol, bench.batch_size
    settings: dict[str, Any] = {"images": bench.plain, "epsilon": protocol.epsilon}
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
            functools.partial(_attacked, bench, model, number, size),
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
        functools.partial(_audited, bench, model, images),
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
            functools.partial(_at_radius, bench, model, epsilon, images),
            key=(epsilon,),
        )


def _attacked(bench: Bench, model: EntryModel, number: int, size: int) -> tuple[dict[str, Any], float]:
    part = bench.part(number * size, size)
    seed = bench.seed.child("attack").child(number)
    return _packed(*_survivors(bench, model, part, bench.attack, bench.protocol.steps, seed)), 0.0


def _at_radius(bench: Bench, model: EntryModel, epsilon: float, images: int) -> tuple[dict[str, Any], float]:
    attack = PGD(epsilon=epsilon, steps=CURVE_STEPS, restarts=1)
    found = []
    for start in range(0, images, bench.batch_size):
        part = bench.part(start, min(bench.batch_size, images - start))
        seed = bench.seed.child("curve").child(start)
        found.append(_survivors(bench, model, part, attack, CURVE_STEPS, seed))
    return _packed(*(torch.cat(parts) for parts in zip(*found, strict=True))), 0.0


def _packed(direct: torch.Tensor, robust: torch.Tensor) -> dict[str, Any]:
    return {"images": len(direct), "direct": pack(direct), "robust": pack(robust)}


def _survivors(
    bench: Bench,
    model: EntryModel,
    part: EvaluationSet,
    attack: EvaluationAttack,
    steps: int,
    seed: Seed,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images withstand an attack through the candidate's own gradients, and all that law 7 asks beside it.

    What is left after the attack meets PGD from which no scale of the outputs, rounding or clipping hides, then PGD
    along the gradients of the candidate's latent weights.
    """
    task, candidate = bench.context.task, model.candidate
    batch: Batch = next(part.batches(len(part)))
    victim = Victim(candidate.model, task.attack_losses, task.correct)

    def draws(purpose: str) -> torch.Generator:
        return seed.child(purpose).torch(batch.images.device)

    direct = attack(victim, batch.images, batch.targets, draws("direct")).robust
    robust = direct.clone()
    settings: dict[str, Any] = {"epsilon": attack.epsilon, "steps": steps, "restarts": FURTHER_RESTARTS}
    first, strongest = next(iter(victim.losses)), scale_free(victim.losses)
    further = (
        ("unmasked", PGD(**settings, loss=strongest, bpda=True), None),
        ("transfer", PGD(**settings, loss=tuple(dict.fromkeys((first, strongest)))), candidate.latent),
    )
    for purpose, pgd, gradients_from in further:
        left = robust.nonzero().flatten()
        if len(left):
            images, targets = batch.images[left], batch.targets[left]
            robust[left] = pgd(victim, images, targets, draws(purpose), gradients_from=gradients_from).robust
    return direct, robust


def _audited(bench: Bench, model: EntryModel, images: int) -> tuple[dict[str, Any], float]:
    part = bench.part(0, images)
    batch = next(part.batches(images))
    seed, size = bench.seed.child("audit"), bench.batch_size
    report = audit(
        model.candidate, bench.context.task, batch, epsilon=bench.protocol.epsilon, seed=seed, batch_size=size
    )
    return report.to_dict(), 0.0


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
