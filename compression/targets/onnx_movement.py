"""ONNX rules for operations that only move elements; where there are integer codes they work on those.

A rule takes the graph, then what torch takes, with `Value` in place of tensors; the caller fills in shapes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .onnx_builder import BATCH, GraphBuilder, Value

__all__ = [
    "attribute",
    "channel_shuffle",
    "chunk",
    "concatenate",
    "flatten",
    "getitem",
    "identity",
    "index_select",
    "narrow",
    "pad",
    "permute",
    "pixel_shuffle",
    "rank",
    "reshape",
    "size",
    "slice_along",
    "split",
    "squeeze",
    "transpose",
    "unsqueeze",
    "zero_pad",
]


def identity(graph: GraphBuilder, x: Value, *_: Any, **__: Any) -> Value:
    """Dropout, contiguous and the like: nothing in evaluation mode."""
    return x


def concatenate(graph: GraphBuilder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Concatenation."""
    return Value(graph.add("Concat", *[graph.real(tensor) for tensor in tensors], axis=dim))


def flatten(graph: GraphBuilder, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Dimensions `start_dim` to `end_dim` as one."""
    rank = len(x.shape)
    start, end = start_dim % rank, end_dim % rank
    if start == 0:
        raise NotImplementedError("flatten of the batch dimension")
    if (start, end) == (1, rank - 1):
        return graph.move("Flatten", x, axis=1)
    return reshape(graph, x, (BATCH, *x.shape[1:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def reshape(graph: GraphBuilder, x: Value, *shape: Any) -> Value:
    """View or reshape; the batch is copied from the input (ONNX's 0), so that it stays free."""
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else list(shape)
    if any(size is BATCH for size in sizes[1:]):
        raise NotImplementedError("reshape that moves the batch dimension")
    return graph.move("Reshape", x, graph.integers([0 if size is BATCH else size for size in sizes]))


def permute(graph: GraphBuilder, x: Value, *dims: Any) -> Value:
    """Dimensions in another order; the batch stays first."""
    order = list(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple | list) else list(dims)
    order = [axis % len(x.shape) for axis in order]
    if order[0] != 0:
        raise NotImplementedError("permutation that moves the batch dimension")
    return graph.move("Transpose", x, perm=order)


def transpose(graph: GraphBuilder, x: Value, dim0: int, dim1: int) -> Value:
    """Two dimensions exchanged."""
    order = list(range(len(x.shape)))
    a, b = dim0 % len(order), dim1 % len(order)
    order[a], order[b] = b, a
    return permute(graph, x, order)


def squeeze(graph: GraphBuilder, x: Value, dim: Any = None) -> Value:
    """Dimensions of size 1 left out."""
    if dim is None:
        raise NotImplementedError("squeeze without `dim`")
    axes = [axis % len(x.shape) for axis in ([dim] if isinstance(dim, int) else dim)]
    if 0 in axes:
        raise NotImplementedError("squeeze of the batch dimension")
    return reshape(graph, x, (BATCH, *[s for axis, s in enumerate(x.shape) if axis and not (axis in axes and s == 1)]))


def unsqueeze(graph: GraphBuilder, x: Value, dim: int) -> Value:
    """A dimension of size 1 inserted."""
    sizes: list[Any] = [BATCH, *x.shape[1:]]
    place = dim % (len(sizes) + 1)
    if place == 0:
        raise NotImplementedError("unsqueeze before the batch dimension")
    return reshape(graph, x, (*sizes[:place], 1, *sizes[place:]))


def slice_along(graph: GraphBuilder, x: Value, axes: list[int], ranges: list[tuple[int, int, int]]) -> Value:
    """x[start:end:step] along each of `axes`."""
    starts, ends, steps = zip(*ranges, strict=True)
    parts = [graph.integers(values) for values in (starts, ends, axes, steps)]
    return graph.move("Slice", x, *parts)


def split(graph: GraphBuilder, x: Value, split_size_or_sections: Any, dim: int = 0) -> tuple[Value, ...]:
    """Slices of given sizes along `dim`."""
    axis = dim % len(x.shape)
    total = x.shape[axis]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        sizes = [min(step, total - start) for start in range(0, total, step)]
    else:
        sizes = list(split_size_or_sections)
    if axis == 0:
        raise NotImplementedError("split of the batch dimension")
    edges = np.cumsum([0, *sizes]).tolist()
    return tuple(slice_along(graph, x, [axis], [(a, b, 1)]) for a, b in itertools.pairwise(edges))


def chunk(graph: GraphBuilder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """At most `chunks` slices of equal size (the last may be smaller) along `dim`."""
    return split(graph, x, math.ceil(x.shape[dim % len(x.shape)] / chunks), dim)


def getitem(graph: GraphBuilder, x: Any, index: Any) -> Any:
    """x[index] with slices, integers, … and None; the batch may only be taken whole."""
    if not isinstance(x, Value):
        return x[index]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or isinstance(part, slice | int) for part in parts):
        raise NotImplementedError(f"index {index!r}")
    used = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(x.shape) - used)
    axes: list[int] = []
    ranges: list[tuple[int, int, int]] = []
    shape: list[Any] = []
    axis = 0
    for part in parts:
        if part is None:
            shape.append(1)
            continue
        start, stop, step = (
            slice(part, part + 1 or None).indices(x.shape[axis])
            if isinstance(part, int)
            else (part.indices(x.shape[axis]))
        )
        whole = isinstance(part, slice) and part in (slice(None), slice(None, None, 1))
        if axis == 0 and not whole:
            raise NotImplementedError("index into the batch dimension")
        if step < 0:
            raise NotImplementedError("negative step")
        if not whole:
            axes.append(axis)
            ranges.append((start, stop, step))
        if isinstance(part, slice):
            shape.append(BATCH if axis == 0 else len(range(start, stop, step)))
        axis += 1
    y = slice_along(graph, x, axes, ranges) if axes else x
    plain = all(isinstance(part, slice) for part in parts)
    return y if plain else reshape(graph, y, (*shape, *x.shape[axis:]))


def pad(graph: GraphBuilder, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """Pairs of pads from the last dimension backwards, as torch counts; on codes zero is the zero point."""
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for position in range(len(pad) // 2):
        before[rank - 1 - position], after[rank - 1 - position] = pad[2 * position], pad[2 * position + 1]
    pads = graph.integers(before + after)
    if mode != "constant":
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        return graph.move("Pad", x, pads, mode=names[mode])
    if value:
        return Value(graph.add("Pad", graph.real(x), pads, graph.real(float(value))))
    return graph.move("Pad", x, pads, fill=True)


def zero_pad(graph: GraphBuilder, x: Value, padding: Sequence[int]) -> Value:
    """`pad` with zeros."""
    return pad(graph, x, padding)


def narrow(graph: GraphBuilder, x: Value, dim: int, start: int, length: int) -> Value:
    """`length` positions from `start` along `dim`."""
    if dim % len(x.shape) == 0:
        raise NotImplementedError("narrow along the batch dimension")
    return slice_along(graph, x, [dim], [(start, start + length, 1)])


def pixel_shuffle(graph: GraphBuilder, x: Value, upscale_factor: int) -> Value:
    """(N, C·r², H, W) to (N, C, r·H, r·W)."""
    return Value(graph.add("DepthToSpace", graph.real(x), blocksize=upscale_factor, mode="CRD"))


def channel_shuffle(graph: GraphBuilder, x: Value, groups: int) -> Value:
    """Channels dealt out over `groups` in turn."""
    order = np.arange(x.shape[1]).reshape(groups, -1).T.reshape(-1)
    return graph.move("Gather", x, graph.integers(order), axis=1)


def index_select(graph: GraphBuilder, x: Value, dim: int, index: Tensor) -> Value:
    """Positions `index` along `dim`."""
    return graph.move("Gather", x, graph.integers(index.cpu().numpy()), axis=dim)


def size(graph: GraphBuilder, x: Value, dim: int | None = None) -> Any:
    """Sizes as numbers, the batch as `BATCH`."""
    sizes = (BATCH, *x.shape[1:])
    return sizes if dim is None else sizes[dim]


def attribute(graph: GraphBuilder, x: Value, name: str) -> Any:
    """getattr(x, "shape") or "ndim"."""
    known = {"shape": size(graph, x), "ndim": len(x.shape)}
    if name not in known:
        raise NotImplementedError(f"attribute {name!r}")
    return known[name]


def rank(graph: GraphBuilder, x: Value) -> int:
    """x.dim()."""
    return len(x.shape)
