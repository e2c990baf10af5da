"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690) through its authors' own package, so that figures compare.

It is an ensemble of APGD, targeted APGD, targeted FAB and Square, without options to tune. The package is not on PyPI.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...studies.epsilon import Epsilon
from ...studies.errors import InputError
from .base import AttackResult, Victim
from .progress import evaluation_mode
from .threat import Norm

__all__ = ["AutoAttack"]

SOURCE = "git+https://github.com/fra31/auto-attack"
LEAST_CLASSES = 4
"""The targeted loss compares the four highest logits."""
TARGETS = 9
"""How many wrong classes the package aims at; it fails where there are fewer."""


class AutoAttack:
    """The package's standard evaluation.

    Args:
        epsilon: Radius on images in [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        version: ``"standard"``; ``"plus"`` with more restarts and untargeted attacks; or ``"rand"`` for models with
            random outputs.

    Raises:
        InputError: The package `autoattack` is not installed.
    """

    def __init__(
        self, *, epsilon: Epsilon, norm: Norm = "linf", version: Literal["standard", "plus", "rand"] = "standard"
    ) -> None:
        self.epsilon = epsilon
        self.norm = norm
        self.version = version
        self._package = _package()

    def __call__(self, victim: Victim, images: Tensor, targets: Any, generator: torch.Generator) -> AttackResult:
        """Attack a batch; see `EvaluationAttack`. What the package has to say goes to stderr.

        Raises:
            InputError: The model does not yield logits (N, C) of four classes or more.
        """
        images = images.detach().float()
        model = victim.model
        with evaluation_mode(model), torch.no_grad():
            outputs = model(images)
        robust = victim.correct(outputs, targets)
        if not robust.any():
            return AttackResult(robust, images.clone())
        classes = _classes(outputs)
        devices = [images.device] if images.device.type == "cuda" else []
        with (
            evaluation_mode(model),
            _frozen(model),
            torch.random.fork_rng(devices=devices),
            redirect_stdout(sys.stderr),
        ):
            attack = self._package(
                model,
                norm={"linf": "Linf", "l2": "L2"}[self.norm],
                eps=self.epsilon,
                seed=int(torch.randint(2**31, (1,), generator=generator, device=images.device)),
                verbose=False,
                version=self.version,
                device=images.device,
            )
            for one in (attack.apgd_targeted, attack.fab):
                one.n_target_classes = min(TARGETS, classes - 1)
            chosen = robust.nonzero().flatten()
            found = attack.run_standard_evaluation(images[chosen], targets[chosen], bs=len(chosen))
        examples = images.clone()
        examples[chosen] = found.detach().float()
        with evaluation_mode(model), torch.no_grad():
            robust = robust & victim.correct(model(examples), targets)
        return AttackResult(robust, examples)


def _package() -> Callable[..., Any]:
    try:
        package: Callable[..., Any] = importlib.import_module("autoattack").AutoAttack
    except (ImportError, AttributeError):
        raise InputError(
            f"`autoattack` must be installed for the attack of that name; found no such package. "
            f"Get it with: pip install {SOURCE}"
        ) from None
    return package


def _classes(outputs: Any) -> int:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"`model` must yield logits (N, C) for AutoAttack; found {found}.")
    if outputs.shape[1] < LEAST_CLASSES:
        allowed = f"{LEAST_CLASSES} classes or more"
        raise InputError(f"`model` must tell {allowed} apart for AutoAttack; found {outputs.shape[1]}.")
    return int(outputs.shape[1])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Run a block in which parameters take no gradient, for the package would add to theirs."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
