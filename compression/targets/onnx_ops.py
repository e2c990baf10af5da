"""How each torch operation is written in ONNX: one rule a function, with the arguments of the torch call.

A rule takes the graph, then what torch takes, with `Value` in place of tensors; it returns a `Value` (or a tuple of
them). Shapes are filled in by the caller. Where nothing but positions change, rules work on the integer codes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, stochastic_depth

from .onnx_builder import BATCH, GraphBuilder, Value

__all__ = ["FUNCTIONS", "METHODS", "MODULES"]

Rule = Callable[..., Any]
Number = float | int


def elementwise(name: str) -> Rule:
    """A rule for an operator with one input and no attributes."""

    def rule(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
        return Value(graph.add(name, graph.float(x)))

    return rule


def arithmetic(name: str) -> Rule:
    """A rule for + − × ÷ between tensors and numbers."""

    def rule(graph: GraphBuilder, a: Any, b: Any, *, alpha: Number = 1) -> Value:
        if alpha != 1:
            raise NotImplementedError(f"alpha={alpha}")
        return Value(graph.add(name, graph.float(a), graph.float(b)))

    return rule


def identity(graph: GraphBuilder, x: Value, *_: Any, **__: Any) -> Value:
    """Dropout, contiguous and the like: nothing in evaluation mode."""
    return x


def relu(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """max(0, x); already true of codes whose zero point is 0."""
    if x.codes is not None and x.codes.zero_point == 0:
        return x
    return Value(graph.add("Relu", graph.float(x)))


def clip(graph: GraphBuilder, x: Value, min: Number | None = None, max: Number | None = None) -> Value:
    """x between `min` and `max`."""
    bounds = ["" if bound is None else graph.float(float(bound)) for bound in (min, max)]
    return Value(graph.add("Clip", graph.float(x), *bounds))


def hardtanh(
    graph: GraphBuilder, x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    """Clip; ReLU6 is the case 0 to 6."""
    return clip(graph, x, min_val, max_val)


def hardsigmoid(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """clip(x/6 + 1/2, 0, 1)."""
    return Value(graph.add("HardSigmoid", graph.float(x), alpha=1.0 / 6.0, beta=0.5))


def silu(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """x·sigmoid(x)."""
    real = graph.float(x)
    return Value(graph.add("Mul", real, graph.add("Sigmoid", real)))


def gelu(graph: GraphBuilder, x: Value, approximate: str = "none") -> Value:
    """x·Φ(x)."""
    return Value(graph.add("Gelu", graph.float(x), approximate=approximate))


def leaky_relu(graph: GraphBuilder, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x, or slope·x below 0."""
    return Value(graph.add("LeakyRelu", graph.float(x), alpha=float(negative_slope)))


def elu(graph: GraphBuilder, x: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x, or α(eˣ − 1) below 0."""
    return Value(graph.add("Elu", graph.float(x), alpha=float(alpha)))


def softmax(graph: GraphBuilder, x: Value, dim: int = -1, **_: Any) -> Value:
    """Softmax over `dim`."""
    return Value(graph.add("Softmax", graph.float(x), axis=dim))


def concatenate(graph: GraphBuilder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Concatenation."""
    return Value(graph.add("Concat", *[graph.float(tensor) for tensor in tensors], axis=dim))


def pair(value: Any) -> list[int]:
    """(h, w) from one number or two."""
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value]


def max_pool(
    graph: GraphBuilder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Maximum over windows; monotone, so the codes are pooled as they are."""
    if return_indices:
        raise NotImplementedError("return_indices=True")
    return graph.move(
        "MaxPool",
        x,
        kernel_shape=pair(kernel_size),
        strides=pair(stride or kernel_size),
        pads=pair(padding) * 2,
        dilations=pair(dilation),
        ceil_mode=int(ceil_mode),
    )


def average_pool(
    graph: GraphBuilder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """Mean over windows."""
    if divisor_override is not None:
        raise NotImplementedError("divisor_override")
    attributes = {
        "kernel_shape": pair(kernel_size),
        "strides": pair(stride or kernel_size),
        "pads": pair(padding) * 2,
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad),
    }
    return Value(graph.add("AveragePool", graph.float(x), **attributes))


def adaptive_average_pool(graph: GraphBuilder, x: Value, output_size: Any) -> Value:
    """Mean over an (h, w) grid of windows, whose sizes may differ by one where the input does not divide."""
    sizes = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    target = [have if want is None else want for have, want in zip(x.shape[-2:], sizes, strict=True)]
    if target == [1, 1]:
        return Value(graph.add("GlobalAveragePool", graph.float(x)))
    if all(have % want == 0 for have, want in zip(x.shape[-2:], target, strict=True)):
        window = [have // want for have, want in zip(x.shape[-2:], target, strict=True)]
        return average_pool(graph, x, window)
    # Row windows as one matrix on the left, column windows as one on the right: A·X·Bᵀ.
    rows, columns = (averaging_matrix(have, want) for have, want in zip(x.shape[-2:], target, strict=True))
    left = graph.add("MatMul", graph.constant(rows), graph.float(x))
    return Value(graph.add("MatMul", left, graph.constant(columns.T)))


def averaging_matrix(have: int, want: int) -> np.ndarray:
    """(want, have) float32; row i averages inputs ⌊i·have/want⌋ up to ⌈(i+1)·have/want⌉, as torch's adaptive pooling."""
    matrix = np.zeros((want, have), np.float32)
    for i in range(want):
        start, end = (i * have) // want, math.ceil((i + 1) * have / want)
        matrix[i, start:end] = 1.0 / (end - start)
    return matrix


def mean(graph: GraphBuilder, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    """Mean over dimensions; over both image sides it is a global average pool, which has an integer kernel."""
    if dim is None:
        raise NotImplementedError("mean over the batch")
    axes = sorted(axis % len(x.shape) for axis in ([dim] if isinstance(dim, int) else dim))
    if len(x.shape) == 4 and axes == [2, 3]:
        pooled = graph.add("GlobalAveragePool", graph.float(x))
        return Value(pooled if keepdim else graph.add("Flatten", pooled, axis=1))
    return Value(graph.add("ReduceMean", graph.float(x), graph.integers(axes), keepdims=int(keepdim)))


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
    return tuple(slice_along(graph, x, [axis], [(a, b, 1)]) for a, b in zip(edges, edges[1:], strict=False))


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
    axes, ranges, shape, axis = [], [], [], 0
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
        return Value(graph.add("Pad", graph.float(x), pads, graph.float(float(value))))
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
    return Value(graph.add("DepthToSpace", graph.float(x), blocksize=upscale_factor, mode="CRD"))


def channel_shuffle(graph: GraphBuilder, x: Value, groups: int) -> Value:
    """Channels dealt out over `groups` in turn."""
    order = np.arange(x.shape[1]).reshape(groups, -1).T.reshape(-1)
    return graph.move("Gather", x, graph.integers(order), axis=1)


def adaptive_max_pool(graph: GraphBuilder, x: Value, output_size: Any, return_indices: bool = False) -> Value:
    """Maximum over an (h, w) grid of equal windows."""
    target = pair(output_size)
    if return_indices or any(have % want for have, want in zip(x.shape[-2:], target, strict=True)):
        raise NotImplementedError("windows of unequal size")
    return max_pool(graph, x, [have // want for have, want in zip(x.shape[-2:], target, strict=True)])


def index_select(graph: GraphBuilder, x: Value, dim: int, index: Tensor) -> Value:
    """Positions `index` along `dim`."""
    return graph.move("Gather", x, graph.integers(index.cpu().numpy()), axis=dim)


def layer_norm(
    graph: GraphBuilder, x: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    """Layer normalisation over the last dimensions."""
    scale = torch.ones(tuple(normalized_shape)) if weight is None else weight
    inputs = [graph.float(x), graph.float(scale), *([] if bias is None else [graph.float(bias)])]
    return Value(graph.add("LayerNormalization", *inputs, axis=-len(normalized_shape), epsilon=float(eps)))


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


_UNARY = {
    "Sigmoid": [torch.sigmoid, F.sigmoid, nn.Sigmoid, "sigmoid"],
    "Tanh": [torch.tanh, F.tanh, nn.Tanh, "tanh"],
    "HardSwish": [F.hardswish, nn.Hardswish],
    "Mish": [F.mish, nn.Mish],
    "Sqrt": [torch.sqrt, "sqrt"],
    "Exp": [torch.exp, "exp"],
    "Abs": [torch.abs, "abs"],
    "Neg": [torch.neg, operator.neg, "neg"],
}
_BINARY = {
    "Add": [torch.add, operator.add, operator.iadd, "add", "add_"],
    "Sub": [torch.sub, operator.sub, operator.isub, "sub", "sub_"],
    "Mul": [torch.mul, operator.mul, operator.imul, "mul", "mul_"],
    "Div": [torch.div, operator.truediv, operator.itruediv, "div", "div_"],
}
_RULES: list[tuple[Rule, list[Any]]] = [
    *[(elementwise(name), keys) for name, keys in _UNARY.items()],
    *[(arithmetic(name), keys) for name, keys in _BINARY.items()],
    (relu, [F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"]),
    (clip, [torch.clamp, torch.clip, "clamp", "clip", "clamp_"]),
    (hardtanh, [F.hardtanh]),
    (lambda graph, x, inplace=False: clip(graph, x, 0.0, 6.0), [F.relu6]),
    (hardsigmoid, [F.hardsigmoid]),
    (silu, [F.silu]),
    (gelu, [F.gelu]),
    (leaky_relu, [F.leaky_relu]),
    (elu, [F.elu]),
    (softmax, [F.softmax, torch.softmax, "softmax"]),
    (concatenate, [torch.cat, torch.concat, torch.concatenate]),
    (max_pool, [F.max_pool2d, torch.max_pool2d]),
    (average_pool, [F.avg_pool2d]),
    (adaptive_average_pool, [F.adaptive_avg_pool2d]),
    (mean, [torch.mean, "mean"]),
    (flatten, [torch.flatten, "flatten"]),
    (reshape, [torch.reshape, "reshape", "view"]),
    (permute, [torch.permute, "permute"]),
    (transpose, [torch.transpose, torch.swapaxes, "transpose", "swapaxes"]),
    (squeeze, [torch.squeeze, "squeeze"]),
    (unsqueeze, [torch.unsqueeze, "unsqueeze"]),
    (split, [torch.split, "split"]),
    (chunk, [torch.chunk, "chunk"]),
    (getitem, [operator.getitem]),
    (pad, [F.pad, torch._C._nn.pad]),
    (index_select, [torch.index_select, "index_select"]),
    (narrow, [torch.narrow, "narrow"]),
    (pixel_shuffle, [F.pixel_shuffle]),
    (channel_shuffle, [F.channel_shuffle]),
    (adaptive_max_pool, [F.adaptive_max_pool2d]),
    (layer_norm, [F.layer_norm]),
    (size, ["size"]),
    (rank, ["dim"]),
    (attribute, [getattr]),
    (identity, [F.dropout, F.dropout2d, stochastic_depth, "contiguous", "clone", "detach"]),
]

FUNCTIONS: dict[Any, Rule] = {key: rule for rule, keys in _RULES for key in keys if not isinstance(key, str | type)}
METHODS: dict[str, Rule] = {key: rule for rule, keys in _RULES for key in keys if isinstance(key, str)}

# Modules without weights: the rule and the attributes that become its keyword arguments.
MODULES: dict[type[nn.Module], tuple[Rule, tuple[str, ...]]] = {
    **{key: (rule, ()) for rule, keys in _RULES for key in keys if isinstance(key, type)},
    nn.ReLU: (relu, ()),
    nn.ReLU6: (hardtanh, ("min_val", "max_val")),
    nn.Hardtanh: (hardtanh, ("min_val", "max_val")),
    nn.Hardsigmoid: (hardsigmoid, ()),
    nn.SiLU: (silu, ()),
    nn.GELU: (gelu, ("approximate",)),
    nn.LeakyReLU: (leaky_relu, ("negative_slope",)),
    nn.ELU: (elu, ("alpha",)),
    nn.Softmax: (softmax, ("dim",)),
    nn.MaxPool2d: (max_pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool2d: (
        average_pool,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d: (adaptive_average_pool, ("output_size",)),
    nn.AdaptiveMaxPool2d: (adaptive_max_pool, ("output_size", "return_indices")),
    nn.ZeroPad2d: (zero_pad, ("padding",)),
    nn.PixelShuffle: (pixel_shuffle, ("upscale_factor",)),
    nn.ChannelShuffle: (channel_shuffle, ("groups",)),
    nn.Flatten: (flatten, ("start_dim", "end_dim")),
    **{kind: (identity, ()) for kind in (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, StochasticDepth)},
}
