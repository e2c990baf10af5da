"""The forms in which a layer's weight is stored, each exact: integer codes, codebook, sparse float, plain float.

Codes and codebook indices are entropy-coded by a histogram stored beside them, sparse weights have a coded map of their
zeros. Zeros compare by bits: a negative zero comes back as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .byte_records import DTYPES, Reader, checked_shape, table, tensor_bytes, varints
from .entropy_coding import decode, encode, shannon_bits
from .layer_codes import LayerCodes

__all__ = ["CODES", "FORMS", "PackedWeight", "pack_codes", "pack_weight", "unpack_codes", "unpack_weight"]

CODES = "codes"
FORMS = ("float", "sparse float", "codebook", "codebook by channel", CODES)
"""A form's place is what files hold, so new ones go to the end."""

MAXIMUM_CODEBOOK = 4096


@dataclass(frozen=True)
class PackedWeight:
    """One weight as bytes.

    Args:
        form: One of `FORMS`.
        data: Everything but shape and type.
        shannon_bytes: The least that coding its symbols one by one takes, with weights that are stored as floats, but
            without histogram, codebook and scales.
        raw_bytes: Scales or codebook, which stand in `data` as they are.
    """

    form: str
    data: bytes
    shannon_bytes: float
    raw_bytes: int = 0


def pack_codes(layer: LayerCodes) -> PackedWeight:
    """Codes by their histogram, and the scales as they are."""
    scale = tensor_bytes(layer.scale)
    alphabet, symbols, counts = np.unique(layer.codes.cpu().numpy(), return_inverse=True, return_counts=True)
    header = (layer.bits, DTYPES.index(layer.scale.dtype), layer.scale.dim(), layer.scale.numel())
    # codes lie a little above each other, seen from −128
    gaps = np.diff(alphabet.astype(np.int64), prepend=-128)
    data = varints(header) + scale + table([*gaps.tolist(), *counts.tolist()]) + encode(symbols, counts)
    return PackedWeight(CODES, data, shannon_bits(counts) / 8, len(scale))


def unpack_codes(data: bytes, shape: Sequence[int]) -> LayerCodes:
    """What `pack_codes` was given; `shape` is that of the codes.

    Raises:
        ValueError: The data is damaged.
    """
    reader, shape = Reader(data), checked_shape(shape)
    bits, kind, dimensions, channels = reader.varints(4)
    if not (1 <= bits <= 8 and kind < len(DTYPES) and dimensions <= 1 and (dimensions or channels == 1)):
        raise ValueError(f"codes of {bits} bits with {channels} scales of type {kind}")
    scale = reader.tensor(DTYPES[kind], (channels,) * dimensions)
    gaps_and_counts = reader.table()
    used = len(gaps_and_counts) // 2
    alphabet = np.cumsum(gaps_and_counts[:used]) - 128
    if used and alphabet[-1] > 127:
        raise ValueError(f"a code of {alphabet[-1]}")
    codes = _symbols(reader, gaps_and_counts[used:], shape)
    values = torch.from_numpy(alphabet.astype(np.int8)) if used else torch.zeros(1, dtype=torch.int8)
    return LayerCodes(values[codes].reshape(shape), scale, bits)


def pack_weight(weight: Tensor) -> PackedWeight:
    """A floating weight (out, …) in the smallest of the forms that take no codes."""
    forms = [_pack_float(weight), *_pack_sparse(weight), *_pack_codebooks(weight)]
    return min(forms, key=lambda packed: len(packed.data))


def unpack_weight(form: str, data: bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """What `pack_weight` was given, bit for bit.

    Raises:
        ValueError: The data is damaged.
    """
    unpackers: dict[str, Callable[[Reader, torch.dtype, tuple[int, ...]], Tensor]] = {
        "float": _unpack_float,
        "sparse float": _unpack_sparse,
        "codebook": _unpack_codebook,
        "codebook by channel": _unpack_codebook,
    }
    reader = Reader(data)
    weight = unpackers[form](reader, dtype, checked_shape(shape))
    reader.finish()
    return weight


def _pack_float(weight: Tensor) -> PackedWeight:
    data = tensor_bytes(weight)
    return PackedWeight("float", data, len(data))


def _unpack_float(reader: Reader, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return reader.tensor(dtype, shape)


def _pack_sparse(weight: Tensor) -> list[PackedWeight]:
    """The map of zeros (0 for one, 2 for a negative one, 1 for any other value), then the other values."""
    flat = weight.detach().cpu().reshape(-1)
    zero = flat == 0
    if not zero.any():
        return []
    kinds = torch.where(zero, torch.where(torch.signbit(flat), 2, 0), 1).numpy()
    counts = np.bincount(kinds, minlength=3)
    coded, values = encode(kinds, counts), tensor_bytes(flat[~zero])
    data = varints([*counts.tolist(), len(coded)]) + coded + values
    return [PackedWeight("sparse float", data, shannon_bits(counts) / 8 + len(values))]


def _unpack_sparse(reader: Reader, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    counts = reader.varints(3)
    coded = reader.take(reader.varint())
    weight = torch.zeros(shape, dtype=dtype)
    kinds = torch.from_numpy(decode(coded, counts, weight.numel()))
    flat = weight.view(-1)
    flat[kinds == 2] = -0.0
    flat[kinds == 1] = reader.tensor(dtype, (counts[1],))
    return weight


def _pack_codebooks(weight: Tensor) -> list[PackedWeight]:
    packed = []
    for form, rows in (("codebook", 1), ("codebook by channel", len(weight) if weight.dim() else 0)):
        if rows and weight.numel():
            packed += _pack_codebook(form, weight.detach().cpu().reshape(rows, -1))
    return packed


def _pack_codebook(form: str, rows: Tensor) -> list[PackedWeight]:
    """Each row's distinct values, the most frequent first, so that zeros of all rows are symbol 0 where they lead."""
    carrier = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
    symbols, values, sizes = np.empty(rows.shape, np.int64), [], []
    for place, row in enumerate(rows.contiguous().view(carrier).numpy()):
        # seen on its first values, a float row needs no sorting
        if row.size > 2 * MAXIMUM_CODEBOOK and np.unique(row[: 2 * MAXIMUM_CODEBOOK]).size > MAXIMUM_CODEBOOK:
            return []
        found, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        if found.size > min(MAXIMUM_CODEBOOK, max(row.size // 2, 1)):
            return []
        order = np.argsort(-counts, kind="stable")
        symbols[place] = np.argsort(order)[inverse.reshape(-1)]
        values.append(found[order])
        sizes.append(found.size)
    counts = np.bincount(symbols.reshape(-1))
    codebook = tensor_bytes(torch.from_numpy(np.concatenate(values)).view(rows.dtype))
    data = table(sizes) + codebook + table(counts.tolist()) + encode(symbols, counts)
    return [PackedWeight(form, data, shannon_bits(counts) / 8, len(codebook))]


def _unpack_codebook(reader: Reader, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    sizes = torch.tensor(reader.table())
    codebook = reader.tensor(dtype, (int(sizes.sum()),))
    symbols = _symbols(reader, reader.table(), shape).reshape(len(sizes), -1)
    if (symbols >= sizes[:, None]).any():
        raise ValueError("an index beyond its codebook")
    starts = sizes.cumsum(0) - sizes
    return codebook[symbols + starts[:, None]].reshape(shape)


def _symbols(reader: Reader, counts: list[int], shape: tuple[int, ...]) -> Tensor:
    """The coded stream, which is the last thing in the data: int64, flat."""
    symbols: NDArray[np.int32] = decode(reader.rest(), counts, int(np.prod(shape, dtype=np.int64)))
    return torch.from_numpy(symbols).long()
