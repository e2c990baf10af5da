"""Weights of few distinct values as packed indices into a table, which the runtime unpacks once, on loading.

ONNX has 4-bit integers, but DequantizeLinear of them keeps a convolution out of the integer kernels (1.07 against
0.25 ms for ResNet-20), and ONNX Runtime 1.20 cannot cast them. Bits of bytes serve every width and every version: the
expression is constant, so that the runtime computes it before it looks for kernels.
"""

from __future__ import annotations

import zlib

import numpy as np
from onnx import TensorProto

from .onnx_builder import GraphBuilder

__all__ = ["pack", "weights"]

WIDTHS = (1, 2, 4, 8)
LARGEST_TABLE = 256
# Enough to tell which form zips smaller, twice DEFLATE's window.
SAMPLE = 2**16
# What the nodes of one layer add to the file, and to an archive of it.
NODE_BYTES, ZIPPED_NODE_BYTES = 220, 60


def weights(graph: GraphBuilder, values: np.ndarray) -> str:
    """The name of a constant tensor equal to `values` (out, …), bit for bit, float32 or int8.

    It is written as indices of 1, 2, 4 or 8 bits where there are few enough distinct values, in the tensor or (float)
    in each of its rows, and both the file and its zipped form get smaller by it; plainly otherwise.
    """
    table, indices = _distinct(values)
    width = next((w for w in WIDTHS if table.shape[-1] <= 2**w and indices.size % (8 // w) == 0), None)
    if width is None or width >= 8 * values.itemsize or not _pays(values, table, indices, width):
        return graph.constant(values)
    packed = graph.constant(pack(indices, width))
    if width < 8:
        places = np.arange(0, 8, width, dtype=np.uint8)[:, None]
        packed = graph.add("BitShift", packed, graph.constant(places), direction="RIGHT")
        packed = graph.add("BitwiseAnd", packed, graph.constant(np.uint8(2**width - 1)))
    numbers = graph.add("Cast", packed, to=TensorProto.INT32)
    if table.ndim == 1:
        numbers = graph.add("Reshape", numbers, graph.integers(values.shape))
        return graph.add("Gather", graph.constant(table), numbers)
    rows = graph.add("Reshape", numbers, graph.integers([len(values), -1]))
    found = graph.add("GatherElements", graph.constant(table), rows, axis=1)
    return graph.add("Reshape", found, graph.integers(values.shape))


def pack(indices: np.ndarray, width: int) -> np.ndarray:
    """Indices below 2^width (any shape, uint8) as bytes: the first 8/width-th of them in the lowest bits, and so on.

    Args:
        indices: Their number divides by 8/width.
        width: 1, 2, 4 or 8 bits.

    Returns:
        (indices.size·width/8,) uint8.
    """
    planes = indices.reshape(8 // width, -1)
    packed = np.zeros(planes.shape[1], np.uint8)
    for place, plane in enumerate(planes):
        packed |= plane << np.uint8(place * width)
    return packed


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, (K,) or (out, K) by row, and the uint8 index of each value among them; none if there are many.

    Zeros keep their sign: values are told apart by their bits.
    """
    bits = np.ascontiguousarray(values).view(np.uint32 if values.dtype == np.float32 else np.uint8)
    table = np.unique(bits)
    if len(table) <= LARGEST_TABLE:
        return table.view(values.dtype), np.searchsorted(table, bits).astype(np.uint8)
    rows = [np.unique(row) for row in bits]
    widest = max(len(row) for row in rows)
    if widest > LARGEST_TABLE:
        return np.empty(2 * LARGEST_TABLE, values.dtype), np.empty(0, np.uint8)
    tables = np.stack([np.pad(row, (0, widest - len(row)), mode="edge") for row in rows])
    indices = [np.searchsorted(table, row) for table, row in zip(rows, bits, strict=True)]
    return tables.view(values.dtype), np.stack(indices).astype(np.uint8)


def _pays(values: np.ndarray, table: np.ndarray, indices: np.ndarray, width: int) -> bool:
    """Whether the packed form is smaller, both as it is and zipped."""
    if indices.size * width // 8 + table.nbytes + NODE_BYTES >= values.nbytes:
        return False
    sample = min(indices.size, SAMPLE) // 8 * 8
    plain = _zipped(values.reshape(-1)[:sample])
    packed = _zipped(pack(indices.reshape(-1)[:sample], width))
    overhead = (_zipped(table) + ZIPPED_NODE_BYTES) * sample / values.size
    return packed + overhead <= plain


def _zipped(data: np.ndarray) -> int:
    return len(zlib.compress(np.ascontiguousarray(data).tobytes(), 9))
