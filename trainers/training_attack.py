"""The attack that a recipe trains against, at each moment of its training."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..studies.errors import InputError
from ..studies.registry import resolve
from ..studies.schema_training import ATTACK_OPTIONS
from .attacks.base import TrainingAttack
from .optimizers import WARM_UP

if TYPE_CHECKING:
    from ..spaces.plan import Recipe
    from ..studies.schema import TrainingSection

__all__ = ["make_attack"]


def make_attack(recipe: Recipe, training: TrainingSection, fraction: float = 1.0) -> TrainingAttack | None:
    """The recipe's training attack; None outside the adversarial regime.

    ε rises linearly over the first quarter of training, as the learning rate does in the one-cycle schedule: from
    random weights a full ε keeps small networks from learning anything at all in a short budget.

    Args:
        recipe: States method and ε.
        training: States the attack's options.
        fraction: Share of the training that is done, in [0, 1].

    Raises:
        InputError: An option is given that the attack does not have.
    """
    if recipe.regime != "adversarial" or recipe.method is None or recipe.epsilon is None:
        return None
    part = resolve("attack", recipe.method)
    options: dict[str, Any] = {"epsilon": recipe.epsilon * min(1.0, fraction / WARM_UP)}
    for key, option in ATTACK_OPTIONS.items():
        given = getattr(training, key)
        if given is None:
            continue
        if option not in inspect.signature(part).parameters:
            rule = f'must be left out with the method "{recipe.method}", which has no such option'
            raise InputError(f"`training.{key}` {rule}; found {given}.")
        options[option] = given
    return part(**options)
