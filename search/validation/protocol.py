"""`Protocol`: what `validate` measures of every subject, and how a study's own settings fill in what is left open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from ...objectives.corruption_archive import open_archive
from ...studies.epsilon import Epsilon
from ...studies.errors import InputError
from ...studies.faults import Fault, nearest
from ...trainers.attacks.threat import Norm
from ..corrupt import parse_corruptions

if TYPE_CHECKING:
    from ...studies.schema import Study

__all__ = ["ATTACKS", "SEVERITIES", "Protocol", "parse_epsilon", "protocol_of"]

SEVERITIES = (1, 2, 3, 4, 5)
ATTACKS = ("pgd", "apgd", "autoattack", "none")

PUBLISHED_EPSILON = 8 / 255
STEPS, RESTARTS = 50, 10
"""PGD-50-10 (Wong et al. 2020)."""
CURVE_STEPS, CURVE_IMAGES = 20, 200
CURVE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Radii of the curve in units of epsilon: 0 to 16/255 about 8/255."""


@dataclass(frozen=True)
class Protocol:
    """What is measured beside the study's own objectives, on the test split.

    Args:
        images: How many test images, None for all.
        corruptions: Names of corruptions, each at severities 1 to 5; may be empty.
        attack: ``"pgd"``, ``"apgd"``, ``"autoattack"`` or ``"none"``, which leaves out the audit and the curve as well.
        epsilon: Radius of the attack on images in [0, 1].
        archive: Folder of a published ``-C`` archive that corrupted images are read from; None makes them.
        frost: Folder of frost photographs; None takes the procedural frost.
        steps: Gradient steps of one restart.
        restarts: Random starts, all of which an image must survive.
        norm: ``"linf"`` or ``"l2"``, which the radius, the audit's and the curve's are in.
    """

    images: int | None = None
    corruptions: tuple[str, ...] = ()
    attack: str = "pgd"
    epsilon: float = PUBLISHED_EPSILON
    archive: Path | None = None
    frost: Path | None = None
    steps: int = STEPS
    restarts: int = RESTARTS
    norm: Norm = "linf"

    @property
    def radii(self) -> tuple[float, ...]:
        """The radii of the accuracy curve, from 0 up."""
        if self.attack == "none":
            return ()
        # no image changes by more than 1 in L∞; in L2 it may
        most = 1.0 if self.norm == "linf" else float("inf")
        return tuple(dict.fromkeys(min(factor * self.epsilon, most) for factor in CURVE))

    @property
    def norm_name(self) -> str:
        """The norm as a person reads it."""
        return {"linf": "L∞", "l2": "L2"}[self.norm]

    @property
    def attack_name(self) -> str:
        """The attack as a table's head calls it."""
        return {"pgd": f"PGD-{self.steps}×{self.restarts}", "apgd": f"APGD-{self.steps}×{self.restarts}"}.get(
            self.attack, "AutoAttack"
        )

    def describe(self) -> str:
        """The protocol in one line."""
        parts = ["the study's objectives"]
        if self.corruptions:
            source = f" from {self.archive}" if self.archive else ""
            parts.append(f"{len(self.corruptions)} corruptions × {len(SEVERITIES)} severities{source}")
        if self.attack != "none":
            levels = self.norm == "linf" and _is_step(self.epsilon)
            radius = f"ε {self.epsilon:.4g}" + (f" = {255 * self.epsilon:g}/255" if levels else "")
            parts += [f"{self.attack_name} in {self.norm_name} at {radius}", "the audit", "accuracy over ε"]
        return ", ".join(parts)


def protocol_of(
    study: Study,
    *,
    images: int | None = None,
    corruptions: str = "published",
    attack: str = "pgd",
    epsilon: float | str | None = None,
    archive: Path | None = None,
) -> Protocol:
    """The protocol for a study.

    Args:
        study: Gives what is None: `epsilon` is that of its ``pgd_accuracy``, else that of its training, which is in L∞,
            else 8/255; `archive`, and the folder of frost photographs, are those of its corruption objectives. The norm
            is always that of its ``pgd_accuracy``.
        images: How many test images, None for all.
        corruptions: ``"published"``, ``"extra"``, ``"all"``, ``"none"``, or names with commas between them.
        attack: One of `ATTACKS`.
        epsilon: A number or a fraction such as ``"8/255"``.
        archive: Folder of a ``-C`` archive.

    Raises:
        InputError: One of them is none of these.
        DataError: The archive is none, or lacks one of the corruptions.
    """
    if images is not None and images < 1:
        raise InputError(Fault(("--images",), "at least 1", images, "1").line(None))
    if attack not in ATTACKS:
        raise InputError(
            Fault(("--attack",), f"one of {', '.join(ATTACKS)}", attack, nearest(attack, ATTACKS)).line(None)
        )
    parts = [*study.objectives, *study.metrics]
    options: dict[str, Any] = {}
    for part in reversed(parts):
        options |= {key: value for key, value in part.options.items() if value is not None}
    attacked: Mapping[str, Any] = next((part.options for part in parts if part.name == "pgd_accuracy"), {})
    norm: Norm = attacked.get("norm") or "linf"
    if epsilon is None:
        trained = study.training.epsilon if norm == "linf" else None
        epsilon = attacked.get("epsilon") or trained or PUBLISHED_EPSILON
    if archive is None and isinstance(options.get("archive"), str):
        archive = Path(options["archive"])
    names = () if corruptions == "none" else tuple(parse_corruptions(corruptions))
    if archive is not None and names:
        # what it lacks shows before anything is measured
        open_archive(archive).check(names, SEVERITIES, "test")
    # the key of a step is the same from whatever folder the command is given
    return Protocol(
        images=images,
        corruptions=names,
        attack=attack,
        epsilon=parse_epsilon(epsilon),
        norm=norm,
        archive=None if archive is None else Path(os.path.abspath(archive)),
        frost=Path(options["frost"]) if isinstance(options.get("frost"), str) else None,
    )


def parse_epsilon(value: float | str) -> float:
    """A radius in (0, 1], given as a number or as a fraction such as ``"8/255"``.

    Raises:
        InputError: It is neither.
    """
    with suppress(ValueError):
        # on the command line a number is text too
        value = float(value)
    try:
        radius: float = TypeAdapter(Epsilon).validate_python(value)
    except ValidationError as error:
        context = error.errors()[0].get("ctx", {})
        allowed = context.get("allowed", "a number in (0, 1]")
        raise InputError(Fault(("--epsilon",), allowed, value, context.get("suggestion")).line(None)) from None
    return radius


def _is_step(epsilon: float) -> bool:
    """Whether a radius is a whole number of grey levels."""
    return abs(255 * epsilon - round(255 * epsilon)) < 1e-6
