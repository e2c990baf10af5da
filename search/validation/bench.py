"""What the steps of all subjects share: the test images, plain and corrupted, the attack, the study's objectives."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from typing import TYPE_CHECKING, Any

import torch

from ...objectives.base import Objective
from ...objectives.corrupted_sets import CorruptedSets
from ...objectives.corruption import CorruptionObjective
from ...objectives.latency import Latency
from ...studies.registry import bind, options_model, resolve, source_digest
from ...studies.seeds import Seed
from ...trainers.attacks.base import EvaluationAttack
from ...trainers.tasks.base import EvaluationSet
from .protocol import Protocol

if TYPE_CHECKING:
    from ..trial import TrialContext

__all__ = ["Bench"]

ATTACK_BATCH_ON_CPU = 100
"""Images that one interruption of an attack may cost; an accelerator takes as many as a forward pass does."""


class Bench:
    """What the steps of all subjects share.

    Args:
        context: The study's.
        protocol: What is measured.

    Attributes:
        made: Corruptions and severities whose images this process has asked for.
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
            if part.name == "pgd_accuracy" and self.protocol.attack != "none":
                # the protocol audits, on more images; two verdicts could differ
                options["audit"] = False
            found.append((part.name, options, bind("objective", part.name, options, part.name)()))
        return found

    @functools.cached_property
    def derived(self) -> dict[str, CorruptionObjective]:
        """Objectives whose raw numbers follow from the corruptions' own steps: they look at the same images."""
        found = {}
        for _, _, objective in self.objectives:
            if (
                isinstance(objective, CorruptionObjective)
                and type(objective).measure is CorruptionObjective.measure
                and set(objective.corruptions) <= set(self.protocol.corruptions)
                and self._copies(objective, self._sets_of(objective)) == self._copies(objective, self.sets)
            ):
                found[objective.name] = objective
        return found

    def depends(self, part: str, objective: Objective) -> dict[str, Any]:
        """What an objective's raw numbers depend on beside its options, plain images and weights, JSON values.

        Args:
            part: Its name in the registry.
            objective: Itself.
        """
        found: dict[str, Any] = {}
        if inputs := objective.inputs("test"):
            found["inputs"] = inputs
        if source := source_digest("objective", part):
            found["source"] = source
        if isinstance(objective, CorruptionObjective):
            text = "/".join(self._copies(objective, self._sets_of(objective)))
            found["corrupted"] = hashlib.sha256(text.encode()).hexdigest()
        if isinstance(objective, Latency):
            found["machine"] = self._machine
        return found

    @property
    def first_loss(self) -> str:
        """The task's own loss among those that an attack may raise."""
        return next(iter(self.context.task.attack_losses))

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
        options: dict[str, Any] = {"epsilon": protocol.epsilon, "norm": protocol.norm}
        if protocol.attack != "autoattack":
            options |= {"steps": protocol.steps, "restarts": protocol.restarts, "loss": self.first_loss}
        attack: EvaluationAttack = bind("evaluation_attack", protocol.attack, options, "--attack")()
        return attack

    @functools.cached_property
    def _machine(self) -> dict[str, Any]:
        """What times are measured on."""
        device = self.context.device
        on_gpu = device.type == "cuda"
        return {
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": self.context.threads,
            "targets": [[target.name, target.options] for target in self.context.study.target],
        }

    def _sets_of(self, objective: CorruptionObjective) -> CorruptedSets:
        where = {"archive": objective.archive, "frost": objective.frost}
        if where == {"archive": self.protocol.archive, "frost": self.protocol.frost}:
            return self.sets
        return CorruptedSets(self.images, study_seed=self.study_seed, folder=None, **where)

    @staticmethod
    def _copies(objective: CorruptionObjective, sets: CorruptedSets) -> list[str]:
        return [sets.identity(name, severity) for name in objective.corruptions for severity in objective.severities]


def _takes_images(name: str) -> bool:
    fields = options_model(resolve("objective", name)).model_fields
    return any(field.alias == "images" for field in fields.values())
