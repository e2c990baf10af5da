"""Optimizers, and learning-rate schedules as pure functions of how far training is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

__all__ = ["learning_rate_factor", "make_optimizer", "parameter_groups"]

WARM_UP = 0.25


def learning_rate_factor(schedule: Literal["cosine", "one-cycle", "constant"], fraction: float) -> float:
    """What the peak learning rate is multiplied by.

    Args:
        schedule: ``"one-cycle"`` rises linearly to 1 over the first quarter and falls linearly to 0 (Smith & Topin
            2018); ``"cosine"`` falls from 1 to 0 along half a cosine (Loshchilov & Hutter 2017, eq. 5).
        fraction: Share of the training that is done, in [0, 1].

    Returns:
        A factor in [0, 1].
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * fraction))
    if schedule == "one-cycle":
        return fraction / WARM_UP if fraction < WARM_UP else (1.0 - fraction) / (1.0 - WARM_UP)
    raise ValueError(f'`schedule` must be cosine, one-cycle or constant; found "{schedule}".')


def parameter_groups(model: nn.Module, parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """The parameters in two groups, so that only weights of layers decay.

    Biases, normalisation, cluster centroids and quantizer parameters do not: none of these is made smaller for free.

    Args:
        model: Whose names tell weights from the rest.
        parameters: What to train; those that need no gradient are left out.
        weight_decay: Of the first group.
    """
    # a parametrized weight keeps its latent tensor under "<layer>.parametrizations.weight.original"
    endings = ("weight", "weight.original")
    weights = {id(p) for name, p in model.named_parameters() if p.dim() > 1 and name.endswith(endings)}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in trained if id(parameter) in weights]
    plain = [parameter for parameter in trained if id(parameter) not in weights]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: Literal["sgd", "adam", "adamw"],
    groups: list[dict],
    *,
    learning_rate: float,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW (whose β₁ is `momentum`) over `parameter_groups`."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0.0)
    if name in ("adam", "adamw"):
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        return kind(groups, lr=learning_rate, betas=(momentum, 0.999))
    raise ValueError(f'`name` must be sgd, adam or adamw; found "{name}".')
