"""Where a layer lies in its network: the names of its block and stage, read off the module tree.

A block is the outermost module of a class of its own (not a plain container) around the layer: ResNet's BasicBlock,
MobileNet's InvertedResidual. A stage is a top-level module; a flat container of blocks at several resolutions
(``features`` of VGG, MobileNet, DenseNet) is split by resolution instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

__all__ = ["Place", "places"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

# a module that holds more than this share of the layers wraps the network and is no block of it
_WRAPPER_SHARE = 0.8


@dataclass(frozen=True)
class Place:
    """Names of a layer's stage and block, without the wrappers' prefix."""

    stage: str
    block: str


def places(model: nn.Module, output_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """The place of each layer.

    Args:
        model: The model.
        output_shapes: (C, H, W) or (C,) of each layer's output, by module path, in forward order.
    """
    names = list(output_shapes)
    wrappers = _wrappers(model, names)
    blocks = {name: _block(model, name, wrappers) for name in names}
    # a block's own resolution is that of its last layer: the first may still run before the stride
    resolutions = {blocks[name]: shape[1:] for name, shape in output_shapes.items()}
    tops = {name: _relative(name, wrappers).split(".")[0] for name in names}
    split = {top for top in tops.values() if _is_flat(top, tops, blocks, resolutions)}
    result = {}
    for name in names:
        resolution = resolutions[blocks[name]]
        suffix = f"@{'x'.join(map(str, resolution))}" if tops[name] in split and resolution else ""
        result[name] = Place(tops[name] + suffix, _relative(blocks[name], wrappers))
    return result


def _wrappers(model: nn.Module, names: list[str]) -> list[str]:
    """Paths of modules of their own class that hold nearly all layers, longest first."""
    paths = [path for path, module in model.named_modules() if path and not isinstance(module, _CONTAINERS)]
    held = {path: sum(name.startswith(f"{path}.") for name in names) for path in paths}
    return sorted((path for path in paths if held[path] > _WRAPPER_SHARE * len(names)), key=len, reverse=True)


def _relative(path: str, wrappers: list[str]) -> str:
    prefix = next((wrapper for wrapper in wrappers if path.startswith(f"{wrapper}.")), "")
    return path.removeprefix(f"{prefix}.") if prefix else path


def _block(model: nn.Module, name: str, wrappers: list[str]) -> str:
    parts = name.split(".")
    ancestors = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    for path in ancestors:
        if path not in wrappers and not isinstance(model.get_submodule(path), _CONTAINERS):
            return path
    return name


def _is_flat(
    top: str, tops: Mapping[str, str], blocks: Mapping[str, str], resolutions: Mapping[str, tuple[int, ...]]
) -> bool:
    inside = {blocks[name] for name, own in tops.items() if own == top}
    return len({resolutions[block] for block in inside if resolutions[block]}) > 1
