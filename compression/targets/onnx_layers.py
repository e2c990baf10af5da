"""Convolution and linear layers in ONNX: float as trained, or int8 codes with batch norm folded into their scale.

w = scale·code per output channel c, so BN(w ∗ x) = (γ_c/σ_c · scale_c)·code ∗ x + shift_c with σ = √(variance + ε):
the codes stay as they are, and where γ_c < 0 they change sign, which a symmetric code allows exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto
from torch import Tensor, nn

from .onnx_builder import GraphBuilder, Value
from .onnx_codebook import weights

if TYPE_CHECKING:
    from ..candidate import LayerCodes

__all__ = ["Affine", "batch_norm", "batch_norm_affine", "convolution", "linear"]

# A bias code beyond this leaves too little of the 32-bit accumulator for the sum of products.
LARGEST_BIAS = 2.0**30
# A channel with a smaller step (a batch norm whose gain is 0) gives nothing but its bias.
SMALLEST_STEP = 1e-20


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift per channel, arrays of shape (C,), float64."""

    scale: np.ndarray
    shift: np.ndarray


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as a NumPy array."""
    return tensor.detach().cpu().numpy()


def batch_norm_affine(module: nn.BatchNorm2d | nn.BatchNorm1d) -> Affine:
    """What a batch norm does in evaluation mode."""
    if module.running_mean is None or module.running_var is None:
        raise NotImplementedError("batch norm without running statistics")
    deviation = np.sqrt(array(module.running_var).astype(np.float64) + module.eps)
    gamma = array(module.weight).astype(np.float64) if module.affine else np.ones_like(deviation)
    beta = array(module.bias).astype(np.float64) if module.affine else np.zeros_like(deviation)
    scale = gamma / deviation
    return Affine(scale, beta - array(module.running_mean) * scale)


def batch_norm(graph: GraphBuilder, x: Value, affine: Affine) -> Value:
    """A batch norm of its own; mean 0 and variance 1 are shared by all layers, so that they add nothing to the size."""
    shape = affine.scale.shape
    inputs = [
        graph.constant(affine.scale, np.float32),
        graph.constant(affine.shift, np.float32),
        graph.constant(np.zeros(shape, np.float32)),
        graph.constant(np.ones(shape, np.float32)),
    ]
    return Value(graph.add("BatchNormalization", graph.real(x), *inputs, epsilon=0.0))


def convolution(
    graph: GraphBuilder,
    x: Value,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    codes: LayerCodes | None,
    clustered: bool,
    norm: Affine | None,
    integer: bool,
    **attributes: Any,
) -> Value:
    """A convolution and, where `norm` is given, the batch norm behind it.

    Args:
        graph: Where to write.
        x: Input (N, C, H, W).
        weight: (out, in/groups, kH, kW) float.
        bias: (out,) float or None.
        codes: Integer codes of the weights, None to keep them float.
        clustered: Whether float weights take few values.
        norm: Batch norm to apply after the convolution, None for none.
        integer: Whether the output is quantized at once, so that an integer kernel can take the layer.
        attributes: Attributes of the ONNX node.
    """
    if codes is None:
        # Folding into float weights would give a clustered layer a codebook per channel; the runtime folds on loading.
        y = Value(graph.add("Conv", *_float_inputs(graph, x, weight, bias, clustered), **attributes))
        return y if norm is None else batch_norm(graph, y, norm)
    integers, scale, shift = fold(codes, bias, norm)
    write = _integer_inputs if integer and x.codes is not None else _computed_inputs
    return Value(graph.add("Conv", *write(graph, x, integers, scale, shift, axis=0), **attributes))


def linear(
    graph: GraphBuilder,
    x: Value,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    codes: LayerCodes | None,
    clustered: bool,
) -> Value:
    """y = x·Wᵀ + b over the last dimension; weight (out, in), bias (out,) or None; see `convolution`."""
    flat = len(x.shape) == 2
    if codes is None:
        inputs = _float_inputs(graph, x, weight if flat else weight.T, bias, clustered)
    else:
        integers, scale, shift = fold(codes, bias, None)
        write = _integer_inputs if x.codes is not None else _computed_inputs
        inputs = write(graph, x, integers if flat else integers.T, scale, shift, axis=0 if flat else 1)
    if flat:
        return Value(graph.add("Gemm", *inputs, transB=1))
    product = graph.add("MatMul", *inputs[:2])
    return Value(graph.add("Add", product, inputs[2]) if len(inputs) == 3 else product)


def fold(
    codes: LayerCodes, bias: np.ndarray | None, norm: Affine | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes (int8), scale (scalar, or (out,) float32) and bias ((out,) float64 or None) with `norm` folded in."""
    integers, scale = array(codes.codes).astype(np.int8), array(codes.scale).astype(np.float64)
    if scale.size == 1:
        scale = scale.reshape(())
    if norm is None:
        return integers, scale.astype(np.float32), None if bias is None else bias.astype(np.float64)
    shift = norm.shift if bias is None else norm.shift + bias * norm.scale
    sign = np.where(norm.scale < 0.0, -1, 1).astype(np.int8)
    folded = np.abs(norm.scale) * scale
    integers = integers * sign.reshape(-1, *[1] * (integers.ndim - 1))
    return integers, folded.astype(np.float32), shift


def _float_inputs(
    graph: GraphBuilder, x: Value, weight: np.ndarray, bias: np.ndarray | None, clustered: bool
) -> list[str]:
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    stored = weights(graph, weight) if clustered else graph.constant(weight)
    return [graph.shielded(x), stored, *([] if bias is None else [graph.constant(bias, np.float32)])]


def _computed_inputs(
    graph: GraphBuilder, x: Value, integers: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, axis: int
) -> list[str]:
    """x, the weights as a constant expression of their codes (computed once, on loading) and a float bias."""
    along = [-1 if place == axis else 1 for place in range(integers.ndim)] if scale.ndim else []
    real = graph.add("Cast", weights(graph, integers), to=TensorProto.FLOAT)
    weight = graph.add("Mul", real, graph.constant(scale.reshape(along)))
    return [graph.shielded(x), weight, *([] if bias is None else [graph.constant(bias, np.float32)])]


def _integer_inputs(
    graph: GraphBuilder, x: Value, integers: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, axis: int
) -> list[str]:
    """Quantized x, dequantized codes and a dequantized int32 bias, which the runtime makes an integer layer of."""
    assert x.codes is not None
    if bias is not None:
        integers, scale = _room_for_bias(integers, scale, bias, x.codes.scale, axis)
    step = graph.constant(scale)
    inputs = [graph.real(x), _dequantize(graph, integers, step, scale.shape, axis)]
    if bias is None:
        return inputs
    # The bias's step is stated as a product: the runtime computes it on loading, and the file does not carry it.
    bias_step = graph.add("Mul", step, graph.constant(np.float32(x.codes.scale)))
    bias_codes = np.rint(bias / (scale * np.float32(x.codes.scale)).astype(np.float64)).astype(np.int32)
    return [*inputs, _dequantize(graph, bias_codes, bias_step, scale.shape, 0)]


def _dequantize(graph: GraphBuilder, integers: np.ndarray, step: str, shape: tuple[int, ...], axis: int) -> str:
    zero = graph.constant(np.zeros(shape, integers.dtype))
    stored = weights(graph, integers) if integers.dtype == np.int8 else graph.constant(integers)
    return graph.add("DequantizeLinear", stored, step, zero, **({"axis": axis} if shape else {}))


def _room_for_bias(
    integers: np.ndarray, scale: np.ndarray, bias: np.ndarray, input_scale: float, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where a bias would not fit 32 bits, the channel's products are below its rounding: drop them, widen the step."""
    needed = np.maximum(np.abs(bias) / (LARGEST_BIAS * input_scale), SMALLEST_STEP)
    narrow = needed > scale
    if not narrow.any():
        return integers, scale
    shape = [1] * integers.ndim
    shape[axis] = -1
    kept = np.where(narrow, np.int8(0), np.int8(1)).reshape(shape)
    return integers * kept, np.where(narrow, needed, scale).astype(np.float32)
