"""Real removal of channels through the dependency graph (Fang et al. 2023, arXiv:2301.12900), by explicit index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from ..spaces.coupling import dependency_graph
from ..spaces.removal_check import BATCH_NORMS, OTHER_NORMS
from ..studies.errors import CandidateError, ModelError

__all__ = ["ChannelGroup", "Member", "Removed", "channel_group", "remove_channels"]

Removed = list[tuple[str, list[int]]]
"""(convolution, its output channels, counted in the full network) in the order of removal."""


@dataclass(frozen=True)
class Member:
    """A module that loses channels with the group: its own channel ``own[i]`` goes with the group's ``root[i]``."""

    name: str
    own: tuple[int, ...]
    root: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """What goes with a convolution's output channels: the layers that produce them and the batch norms that shift them.

    Args:
        leader: The convolution asked for.
        channels: Its number of output channels.
        layers: Convolutions and linear layers, the leader first, whose output channels are the same.
        norms: Batch norms on the way; masked channels must be masked there too, or they leave a constant behind.
        shortcuts: Modules without weights that bring other channels to the same places (they prune themselves).
        consumers: Convolutions, linear layers and shortcuts that read the channels, and so lose inputs with them.
    """

    leader: str
    channels: int
    layers: tuple[Member, ...]
    norms: tuple[Member, ...]
    shortcuts: tuple[Member, ...]
    consumers: tuple[Member, ...] = ()


def channel_group(graph: Any, model: nn.Module, name: str) -> ChannelGroup:
    """The channel group of the convolution `name`.

    Args:
        graph: What `dependency_graph` gave for `model`, before anything is parametrized.
        model: The model.
        name: Module path of a convolution.

    Raises:
        ModelError: The channels pass through a normalisation over several channels, so removing some changes the rest.
    """
    names = {module: path for path, module in model.named_modules()}
    convolution = model.get_submodule(name)
    channels = int(convolution.out_channels)  # type: ignore[arg-type]
    group = graph.get_pruning_group(convolution, tp.prune_conv_out_channels, list(range(channels)))
    layers, norms, shortcuts, consumers = [], [], [], []
    for item in group:
        module = item.dep.target.module
        if module not in names:
            continue
        member = Member(names[module], tuple(item.idxs), tuple(item.root_idxs))
        if not graph.is_out_channel_pruning_fn(item.dep.handler):
            if isinstance(module, nn.Conv2d | nn.Linear) or hasattr(module, "prune_input_channels"):
                consumers.append(member)
            continue
        if isinstance(module, OTHER_NORMS):
            raise ModelError(
                f"`structure` filter needs batch norms after {name}; found {type(module).__name__} {member.name}. "
                "Exclude the layer, or prune weights."
            )
        if isinstance(module, BATCH_NORMS):
            norms.append(member)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            layers.append(member)
        elif hasattr(module, "prune_output_channels"):
            shortcuts.append(member)
    return ChannelGroup(name, channels, tuple(layers), tuple(norms), tuple(shortcuts), tuple(consumers))


def remove_channels(model: nn.Module, removed: Iterable[tuple[str, Sequence[int]]], example: Tensor) -> None:
    """Take the channels out of `model`, in place, with everything that depends on them.

    Args:
        model: Plain, not parametrized, in eval mode.
        removed: See `Removed`; groups do not overlap, so one removal leaves the others' indices as they are.
        example: (1, C, H, W).

    Raises:
        CandidateError: A layer would lose all its channels.
    """
    removed = list(removed)
    if not removed:
        return
    graph = dependency_graph(model, example)
    for name, indices in removed:
        convolution = model.get_submodule(name)
        group = graph.get_pruning_group(convolution, tp.prune_conv_out_channels, list(indices))
        if not graph.check_pruning_group(group):
            raise CandidateError(f"`removed` must leave every layer a channel; found {len(indices)} of {name}.")
        group.prune()
