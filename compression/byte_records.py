"""Numbers as bytes that any machine reads alike: variable-length integers (LEB128), little-endian tensors, DEFLATE."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "DTYPES",
    "MAXIMUM_VALUES",
    "Reader",
    "checked_shape",
    "deflate",
    "inflate",
    "table",
    "tensor_bytes",
    "varints",
]

# a type's place is what files hold, so new ones go to the end
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
)
MAXIMUM_VALUES = 2**31
LONGEST_TABLE = 2**20
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def varints(values: Iterable[int]) -> bytes:
    """Non-negative integers in seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    for value in values:
        if value < 0:
            raise ValueError(f"`values` must be at least 0; found {value}.")
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor of a type in `DTYPES`, bit for bit, in row-major order."""
    if tensor.dtype not in DTYPES:
        raise ValueError(f"`tensor` must be real; found {tensor.dtype}.")
    size = tensor.element_size()
    carrier = tensor.detach().cpu().contiguous().reshape(-1).view(_CARRIERS[size])
    return carrier.numpy().astype(f"<i{size}" if size > 1 else "u1").tobytes()


def deflate(data: bytes) -> bytes:
    """`data` in the fewest bytes that DEFLATE (RFC 1951) finds, without header or checksum."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def inflate(data: bytes, limit: int) -> bytes:
    """What `deflate` was given.

    Raises:
        ValueError: `data` is no such bytes, or would give more than `limit`.
    """
    decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        found = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(found) > limit or not decompressor.eof or decompressor.unused_data:
        raise ValueError("deflated bytes end too early or too late")
    return found


def table(values: Iterable[int]) -> bytes:
    """Many integers that are alike, for `Reader.table`; deflated where that is smaller."""
    plain = varints(values)
    smaller = deflate(plain)
    deflated = len(smaller) < len(plain)
    return varints([2 * min(len(plain), len(smaller)) + deflated]) + (smaller if deflated else plain)


class Reader:
    """Takes numbers off the front of `data`.

    Every method raises ValueError where the data ends too early or states what cannot be.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._offset = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._offset + count
        if count < 0 or end > len(self._data):
            raise ValueError(f"{count} bytes at {self._offset} of {len(self._data)}")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._offset)

    def varint(self) -> int:
        """One integer that `varints` wrote, below 2^63."""
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("an integer of more than 63 bits")

    def varints(self, count: int) -> list[int]:
        """`count` integers."""
        if count > len(self._data):
            raise ValueError(f"{count} integers in {len(self._data)} bytes")
        return [self.varint() for _ in range(count)]

    def table(self) -> list[int]:
        """All integers that `table` wrote."""
        length, deflated = divmod(self.varint(), 2)
        data = self.take(length)
        reader, values = Reader(inflate(data, LONGEST_TABLE) if deflated else data), []
        while reader._offset < len(reader._data):
            values.append(reader.varint())
        return values

    def tensor(self, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """A tensor that `tensor_bytes` wrote."""
        size = dtype.itemsize
        data = self.take(prod(checked_shape(shape)) * size)
        values = np.frombuffer(data, dtype=f"<i{size}" if size > 1 else "u1")
        # native byte order, in memory of its own
        values = values.astype(values.dtype.newbyteorder("="))
        return torch.from_numpy(values).view(dtype).reshape(tuple(shape))

    def finish(self) -> None:
        """Raise ValueError unless everything was taken."""
        if self._offset != len(self._data):
            raise ValueError(f"{len(self._data) - self._offset} bytes too many")


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as integers of at least 0, of at most 2^31 values in all."""
    checked = tuple(int(side) for side in shape)
    if any(side < 0 for side in checked) or prod(checked) > MAXIMUM_VALUES:
        raise ValueError(f"a tensor of {checked}")
    return checked
