"""ONNX rules for operations that compute: elementwise functions, pooling and normalisation.

A rule takes the graph, then what torch takes, with `Value` in place of tensors; the caller fills in shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .onnx_builder import GraphBuilder, Value

Rule = Callable[..., Any]
Number = float | int

__all__ = [
    "adaptive_average_pool",
    "adaptive_max_pool",
    "arithmetic",
    "average_pool",
    "averaging_matrix",
    "clip",
    "elementwise",
    "elu",
    "gelu",
    "hardsigmoid",
    "hardtanh",
    "layer_norm",
    "leaky_relu",
    "line_of_hardsigmoid",
    "max_pool",
    "mean",
    "pair",
    "relu",
    "silu",
    "softmax",
]


def elementwise(name: str) -> Rule:
    """A rule for an operator with one input and no attributes."""

    def rule(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
        return Value(graph.add(name, graph.real(x)))

    return rule


def arithmetic(name: str) -> Rule:
    """A rule for + − × ÷ between tensors and numbers."""

    def rule(graph: GraphBuilder, a: Any, b: Any, *, alpha: Number = 1) -> Value:
        if alpha != 1:
            raise NotImplementedError(f"alpha={alpha}")
        return Value(graph.add(name, graph.real(a), graph.real(b)))

    return rule


def relu(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """max(0, x); already true of codes whose zero point is 0."""
    if x.codes is not None and x.codes.zero_point == 0:
        return x
    return Value(graph.add("Relu", graph.real(x)))


def clip(graph: GraphBuilder, x: Value, min: Number | None = None, max: Number | None = None) -> Value:
    """x between `min` and `max`."""
    bounds = ["" if bound is None else graph.real(float(bound)) for bound in (min, max)]
    return Value(graph.add("Clip", graph.real(x), *bounds))


def hardtanh(
    graph: GraphBuilder, x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    """Clip; ReLU6 is the case 0 to 6."""
    return clip(graph, x, min_val, max_val)


def hardsigmoid(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """clip(x/6 + 1/2, 0, 1)."""
    return Value(graph.add("HardSigmoid", graph.real(x), alpha=1.0 / 6.0, beta=0.5))


def line_of_hardsigmoid(graph: GraphBuilder, x: Value) -> Value:
    """x/6 + 1/2 of codes, for a quantizer behind it that clips to [0, 1]: x with a sixth of its step, and a sum.

    A hardsigmoid has no integer kernel, but a sum has one.
    """
    assert x.codes is not None
    sixth = graph.real(Value("", x.shape, replace(x.codes, scale=x.codes.scale / 6.0)))
    half = graph.add("DequantizeLinear", graph.constant(np.uint8(1)), graph.real(0.5), graph.constant(np.uint8(0)))
    return Value(graph.add("Add", sixth, half))


def silu(graph: GraphBuilder, x: Value, inplace: bool = False) -> Value:
    """x·sigmoid(x)."""
    real = graph.real(x)
    return Value(graph.add("Mul", real, graph.add("Sigmoid", real)))


def gelu(graph: GraphBuilder, x: Value, approximate: str = "none") -> Value:
    """x·Φ(x)."""
    return Value(graph.add("Gelu", graph.real(x), approximate=approximate))


def leaky_relu(graph: GraphBuilder, x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """x, or slope·x below 0."""
    return Value(graph.add("LeakyRelu", graph.real(x), alpha=float(negative_slope)))


def elu(graph: GraphBuilder, x: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    """x, or α(eˣ − 1) below 0."""
    return Value(graph.add("Elu", graph.real(x), alpha=float(alpha)))


def softmax(graph: GraphBuilder, x: Value, dim: int = -1, **_: Any) -> Value:
    """Softmax over `dim`."""
    return Value(graph.add("Softmax", graph.real(x), axis=dim))


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
    attributes: dict[str, Any] = {
        "kernel_shape": pair(kernel_size),
        "strides": pair(stride or kernel_size),
        "pads": pair(padding) * 2,
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad),
    }
    return Value(graph.add("AveragePool", graph.real(x), **attributes))


def adaptive_average_pool(graph: GraphBuilder, x: Value, output_size: Any) -> Value:
    """Mean over an (h, w) grid of windows, whose sizes may differ by one where the input does not divide."""
    sizes = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    target = [have if want is None else want for have, want in zip(x.shape[-2:], sizes, strict=True)]
    if target == [1, 1]:
        return Value(graph.add("GlobalAveragePool", graph.real(x)))
    if all(have % want == 0 for have, want in zip(x.shape[-2:], target, strict=True)):
        window = [have // want for have, want in zip(x.shape[-2:], target, strict=True)]
        return average_pool(graph, x, window)
    # Row windows as one matrix on the left, column windows as one on the right: A·X·Bᵀ.
    rows, columns = (averaging_matrix(have, want) for have, want in zip(x.shape[-2:], target, strict=True))
    left = graph.add("MatMul", graph.constant(rows), graph.real(x))
    return Value(graph.add("MatMul", left, graph.constant(columns.T)))


def averaging_matrix(have: int, want: int) -> np.ndarray:
    """(want, have) float32; row i averages inputs ⌊i·have/want⌋ up to ⌈(i+1)·have/want⌉, as torch does."""
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
        pooled = graph.add("GlobalAveragePool", graph.real(x))
        return Value(pooled if keepdim else graph.add("Flatten", pooled, axis=1))
    return Value(graph.add("ReduceMean", graph.real(x), graph.integers(axes), keepdims=int(keepdim)))


def adaptive_max_pool(graph: GraphBuilder, x: Value, output_size: Any, return_indices: bool = False) -> Value:
    """Maximum over an (h, w) grid of equal windows."""
    target = pair(output_size)
    if return_indices or any(have % want for have, want in zip(x.shape[-2:], target, strict=True)):
        raise NotImplementedError("windows of unequal size")
    return max_pool(graph, x, [have // want for have, want in zip(x.shape[-2:], target, strict=True)])


def layer_norm(
    graph: GraphBuilder, x: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    """Layer normalisation over the last dimensions."""
    scale = torch.ones(tuple(normalized_shape)) if weight is None else weight
    inputs = [graph.real(x), graph.real(scale), *([] if bias is None else [graph.real(bias)])]
    return Value(graph.add("LayerNormalization", *inputs, axis=-len(normalized_shape), epsilon=float(eps)))
