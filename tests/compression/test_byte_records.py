"""Numbers as bytes and back, and what is too short, too long or too large."""

from __future__ import annotations

import pytest
import torch

from forgefront.compression.byte_records import DTYPES, Reader, deflate, inflate, table, tensor_bytes, varints


def test_integers_come_back_and_small_ones_take_a_byte() -> None:
    values = [0, 1, 127, 128, 16_383, 16_384, 2**31, 2**62]
    data = varints(values)
    assert len(varints(range(128))) == 128
    reader = Reader(data)
    assert reader.varints(len(values)) == values
    reader.finish()
    with pytest.raises(ValueError, match="at least 0"):
        varints([-1])


@pytest.mark.parametrize("values", [[], [5], [1] * 1000, list(range(300))])
def test_tables_come_back_and_repetition_costs_little(values: list[int]) -> None:
    data = table(values)
    assert Reader(data + b"x").table() == values
    assert len(data) <= len(varints(values)) + 2
    assert values != [1] * 1000 or len(data) < 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 1, 2)])
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    data = tensor_bytes(tensor.t() if tensor.dim() == 2 else tensor)
    back = Reader(data).tensor(dtype, shape)
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_signs_of_zeros_and_payloads_of_nan_are_kept() -> None:
    bits = torch.tensor([-(2**31), 0, 0x7FC00001, -1], dtype=torch.int32)
    back = Reader(tensor_bytes(bits.view(torch.float32))).tensor(torch.float32, (4,))
    assert torch.equal(back.view(torch.int32), bits)


def test_bytes_are_little_endian() -> None:
    assert tensor_bytes(torch.tensor([1.0])) == b"\x00\x00\x80\x3f"
    assert varints([300]) == b"\xac\x02"


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.take(5),
        lambda reader: reader.take(-1),
        lambda reader: reader.varints(10**12),
        lambda reader: reader.varints(4),
        lambda reader: reader.tensor(torch.float32, (2,)),
        lambda reader: reader.tensor(torch.float32, (-1,)),
        lambda reader: reader.tensor(torch.float32, (2**20, 2**20)),
        lambda reader: reader.finish(),
        lambda reader: Reader(b"\xff" * 20).varint(),
        lambda reader: Reader(varints([3]) + b"a").table(),
    ],
)
def test_what_is_not_there_is_refused(read) -> None:
    with pytest.raises(ValueError):
        read(Reader(b"\x80\x80\x80\x01"))


def test_deflated_bytes_come_back_up_to_a_limit() -> None:
    data = b"abc" * 1000
    small = deflate(data)
    assert len(small) < 40
    assert inflate(small, len(data)) == data
    assert inflate(deflate(b""), 0) == b""
    for damaged, limit in ((small, len(data) - 1), (small[:-1], 10**6), (small + b"x", 10**6), (b"\xff" * 9, 10**6)):
        with pytest.raises(ValueError):
            inflate(damaged, limit)
