"""What one step measures: a model on plain or corrupted images, an objective, a batch under attack, an audit."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...objectives.audit import audit
from ...objectives.base import Objective, judge
from ...objectives.base import Subject as Measured
from ...studies.seeds import Seed
from ...trainers.attacks.base import EvaluationAttack, Victim
from ...trainers.attacks.losses import scale_free
from ...trainers.attacks.pgd import PGD
from ...trainers.tasks.base import Batch, EvaluationSet
from .bench import Bench
from .entries import EntryModel
from .protocol import CURVE_STEPS
from .store import pack

__all__ = [
    "FURTHER_RESTARTS",
    "Value",
    "measure_at_radius",
    "measure_attacked",
    "measure_audited",
    "measure_clean",
    "measure_corrupted",
    "measure_objective",
]

Value = tuple[dict[str, Any], float]
"""JSON values, and the seconds that making what other subjects use too took."""

FURTHER_RESTARTS = 2
"""Of the attacks that follow the published one: they catch what it is blind to, for which few starts do."""


def measure_clean(bench: Bench, model: EntryModel) -> Value:
    """Which plain images are right (``correct``, packed), and the task's counts (``tally``)."""
    judged = judge(model.candidate.model, bench.context.task, bench.images, bench.context.batch_size)
    return {"correct": pack(judged.correct), "tally": judged.tally}, 0.0


def measure_objective(bench: Bench, model: EntryModel, control: EntryModel, objective: Objective) -> Value:
    """The raw numbers of one of the study's objectives; those that share measurements find them in `model.measured`."""
    if model.measured is None:
        context = bench.context
        artefacts = model.artefacts()
        reference = artefacts if model is control else context.control_artefacts()
        model.measured = context.subject(model.candidate, artefacts, reference, seed=bench.seed, split="test")
    measured: Measured = model.measured
    return objective.measure(measured), 0.0


def measure_corrupted(bench: Bench, model: EntryModel, name: str, severity: int) -> Value:
    """As `measure_clean` under one corruption; making the images is the shared part, the first time."""
    there = (name, severity) in bench.made or bench.sets.kept(name, severity)
    started = time.perf_counter()
    images = bench.sets.images(name, severity)
    shared = 0.0 if there else time.perf_counter() - started
    bench.made.add((name, severity))
    corrupted = EvaluationSet(images, bench.images.targets, bench.images.indices)
    judged = judge(model.candidate.model, bench.context.task, corrupted, bench.context.batch_size)
    return {"correct": pack(judged.correct), "tally": judged.tally}, shared


def measure_attacked(bench: Bench, model: EntryModel, number: int, size: int) -> Value:
    """Who of one batch withstands the protocol's attack (``direct``), and what law 7 asks beside it (``robust``)."""
    part = bench.part(number * size, size)
    seed = bench.seed.child("attack").child(number)
    return _packed(*_survivors(bench, model, part, bench.attack, bench.protocol.steps, seed)), 0.0


def measure_at_radius(bench: Bench, model: EntryModel, epsilon: float, images: int) -> Value:
    """As `measure_attacked` for PGD-20 of radius `epsilon` on the first images."""
    attack = PGD(epsilon=epsilon, steps=CURVE_STEPS, restarts=1, norm=bench.protocol.norm, loss=bench.first_loss)
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
    # a first step across the ball does not stall on the ripples that rounding makes; then shorter ones
    settings |= {"norm": bench.protocol.norm, "step_size": settings["epsilon"], "schedule": "linear"}
    first, strongest = bench.first_loss, scale_free(victim.losses)
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


def measure_audited(bench: Bench, model: EntryModel, images: int) -> Value:
    """The report of the audit on the first images."""
    part = bench.part(0, images)
    batch = next(part.batches(images))
    protocol = bench.protocol
    report = audit(
        model.candidate,
        bench.context.task,
        batch,
        epsilon=protocol.epsilon,
        norm=protocol.norm,
        seed=bench.seed.child("audit"),
        batch_size=bench.batch_size,
    )
    return report.to_dict(), 0.0
