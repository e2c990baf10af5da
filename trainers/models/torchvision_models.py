"""Any torchvision classifier by name (``torchvision:resnet18``); weights are downloaded only when the user asks."""

from __future__ import annotations

import difflib
import pickle
from typing import Any

from torch import nn

from ...studies.errors import ModelError

__all__ = ["build", "load_pretrained", "torchvision_names"]

# these two return a tuple in training unless told not to
_AUXILIARY = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def build(
    name: str,
    num_classes: int,
    *,
    pretrained: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    **options: Any,
) -> nn.Module:
    """A torchvision classifier with `num_classes` logits.

    Args:
        name: torchvision's name, for example ``"resnet18"``.
        num_classes: Number of logits.
        pretrained: Name of torchvision weights (``"DEFAULT"``, ``"IMAGENET1K_V1"``) to download; the head is kept only
            where its shape fits. None starts from random weights.
        mean: Channel means for `build_classifier`; the bare network does not normalise.
        std: Channel deviations for `build_classifier`.
        options: Passed to torchvision, for example ``width_mult = 0.5``.

    Raises:
        ModelError: Unknown name, weights or option, or the download failed.
    """
    import torchvision

    del mean, std
    names = torchvision_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"`task.model` must name a torchvision classifier; found {name!r}.{hint}")
    try:
        network = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **(_AUXILIARY.get(name, {}) | options)
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"torchvision:{name} refuses its options {options}: {error}") from error
    if pretrained is not None:
        load_pretrained(network, name, pretrained)
    return network


def load_pretrained(network: nn.Module, name: str, pretrained: str) -> None:
    """Load torchvision's weights into `network`, in place, wherever name and shape fit.

    Args:
        network: torchvision's `name`, or a variant with its module names.
        name: torchvision's name, for example ``"resnet18"``.
        pretrained: Name of its weights, downloaded into torch's cache.

    Raises:
        ModelError: There are no such weights, the download failed, or most of the network does not fit them.
    """
    import torchvision

    offered = {weights.name: weights for weights in torchvision.models.get_model_weights(name)}
    offered["DEFAULT"] = torchvision.models.get_model_weights(name).DEFAULT
    if pretrained not in offered:
        raise ModelError(f"`pretrained` must be one of {', '.join(offered)} for {name}; found {pretrained!r}.")
    try:
        stored = offered[pretrained].get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ModelError(f"`pretrained` weights {pretrained!r} of {name} could not be downloaded: {error}") from error
    own = network.state_dict()
    fitting = {key: value for key, value in stored.items() if key in own and own[key].shape == value.shape}
    # a head or a stem of its own is meant; anything more would start from random weights unnoticed
    if len(fitting) < 0.75 * len(own):
        raise ModelError(
            f"`pretrained` weights {pretrained!r} of {name} must fit the network; found {len(fitting)} of {len(own)} "
            "tensors that do. Leave out options that change its shape, or `pretrained`."
        )
    network.load_state_dict(fitting, strict=False)
