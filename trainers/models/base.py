"""A classifier is a bare network behind its own normalisation: images in [0, 1] go in, logits come out.

Convention for model parts: ``part(num_classes, *, …) -> nn.Module`` returns the bare network. A part may declare the
options ``mean`` and ``std``: the channel statistics its checkpoint was trained with; `build_classifier` takes them out
of the options before it calls the part, and falls back to the data set's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...studies.errors import ModelError

__all__ = ["ImageClassifier", "Normalize", "build_classifier", "with_normalization"]


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, for float images (N, C, H, W) in [0, 1].

    Args:
        mean: One number a channel.
        std: One positive number a channel.

    Raises:
        ValueError: The lengths differ, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"`std` must have one number a channel, as `mean` has ({len(mean)}); found {len(std)}.")
        if not all(value > 0 for value in std):
            raise ValueError(f"`std` must be positive; found {tuple(std)}.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class ImageClassifier(nn.Module):
    """``network(normalize(images))``: float images (N, C, H, W) in [0, 1] to what the network gives, FX-traceable."""

    def __init__(self, normalize: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images))


def with_normalization(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> ImageClassifier:
    """`network` behind `Normalize(mean, std)`; behind the identity when both are None.

    Raises:
        ValueError: Only one of the two is given, or `Normalize` refuses them.
    """
    if (mean is None) != (std is None):
        raise ValueError("`mean` and `std` must be given together; found one of them.")
    normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)
    return ImageClassifier(normalize, network)


def build_classifier(
    part: Callable[..., nn.Module],
    num_classes: int,
    *,
    options: Mapping[str, Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImageClassifier:
    """The model that a study names: the part's network behind the normalisation that it wants.

    Args:
        part: A model part, ``part(num_classes, *, …)``; it makes the bare network.
        num_classes: Number of logits.
        options: The part's options; ``mean`` and ``std`` among them, when not None, take the data set's place.
        mean: The data set's channel means, None for no normalisation.
        std: The data set's channel deviations, None for no normalisation.

    Raises:
        ModelError: The part refuses its options, gives no module, or the statistics make no sense.
    """
    remaining = dict(options)
    own_mean, own_std = remaining.pop("mean", None), remaining.pop("std", None)
    if (own_mean is None) != (own_std is None):
        given, absent = ("mean", "std") if own_std is None else ("std", "mean")
        raise ModelError(f"`task.model.{absent}` must be given together with `task.model.{given}`; found none.")
    name = getattr(part, "__name__", None) or type(part).__name__
    try:
        network = part(num_classes, **remaining)
    except (TypeError, ValueError) as error:
        raise ModelError(f"`task.model` {name} refuses its options {remaining}: {error}") from error
    if not isinstance(network, nn.Module):
        kind = "the class itself" if inspect.isclass(network) else type(network).__name__
        raise ModelError(f"`task.model` {name} must return a torch.nn.Module; found {kind}.")
    try:
        return with_normalization(network, own_mean or mean, own_std or std)
    except ValueError as error:
        raise ModelError(f"`task.model` {name}: {error}") from error
