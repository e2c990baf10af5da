"""The entropy coder: exact, near its bound, and never misled by other bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forgefront.compression.entropy_coding import MAXIMUM_ALPHABET, decode, encode, shannon_bits
from forgefront.compression.packed_layers import MAXIMUM_CODEBOOK

GENERATOR = np.random.default_rng(0)
MESSAGES = {
    "nothing": np.zeros(0, np.int64),
    "one": np.array([0]),
    "one symbol": np.full(1000, 3),
    "two symbols, one of them once": np.append(np.zeros(5000, np.int64), 1),
    "evenly": GENERATOR.integers(0, 16, 5000),
    "four fifths zero": GENERATOR.choice(15, 20_000, p=[0.8, *[0.2 / 14] * 14]),
    "every symbol once": GENERATOR.permutation(4096),
    "far apart": np.array([0, 4000, 4000, 1]),
    "many, unevenly": np.minimum(GENERATOR.geometric(0.002, 200_000) - 1, 4095),
    "seldom not zero": GENERATOR.choice(16, 500_000, p=[0.985, *[0.001] * 15]),
}


@pytest.mark.parametrize("symbols", MESSAGES.values(), ids=MESSAGES.keys())
def test_what_is_decoded_is_what_was_encoded_within_some_bits_of_the_bound(symbols: np.ndarray) -> None:
    counts = np.bincount(symbols)
    data = encode(symbols, counts)
    decoded = decode(data, counts, symbols.size)
    np.testing.assert_array_equal(decoded, symbols)
    assert decoded.dtype == np.int32
    assert shannon_bits(counts) - 32 <= 8 * len(data) <= shannon_bits(counts) + 64 + 2e-4 * symbols.size


def test_the_alphabet_holds_every_codebook_that_is_packed() -> None:
    assert MAXIMUM_CODEBOOK <= MAXIMUM_ALPHABET


def test_symbols_that_nobody_uses_cost_next_to_nothing() -> None:
    symbols = MESSAGES["evenly"]
    padded = np.append(np.bincount(symbols), np.zeros(240, np.int64))
    data = encode(symbols, padded)
    np.testing.assert_array_equal(decode(data, padded, symbols.size), symbols)
    assert len(data) <= len(encode(symbols, np.bincount(symbols))) + 4


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([], 0.0), ([0, 0], 0.0), ([7], 0.0), ([0, 9, 0], 0.0), ([4, 4], 8.0), ([2, 1, 1], 6.0), ([1] * 256, 2048.0)],
)
def test_the_bound_is_shannons(counts: list[int], bits: float) -> None:
    assert shannon_bits(counts) == bits
    assert not math.copysign(1.0, shannon_bits(counts)) < 0


def test_the_same_message_gives_these_bytes_on_every_machine() -> None:
    """Bytes of a file written elsewhere: a coder that rounds otherwise would not read them."""
    symbols = np.arange(40) ** 2 % 7
    counts = np.bincount(symbols)
    assert encode(symbols, counts).hex() == "4ace380f0f40576d0ef01cd6"


@pytest.mark.parametrize("alphabet", [2, 16, 256])
def test_bytes_of_another_message_are_refused(alphabet: int) -> None:
    symbols = GENERATOR.integers(0, alphabet, 3000)
    counts = np.bincount(symbols, minlength=alphabet)
    data = encode(symbols, counts)
    middle = len(data) // 2
    changed = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    others = [changed, data[: middle // 4 * 4], data[:-3], b"", data[::-1], bytes(len(data)), b"\xff" * len(data)]
    for other in others:
        with pytest.raises(ValueError, match="`data`"):
            decode(other, counts, symbols.size)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="histogram"):
        encode([0, 1, 1], [2, 1])
    with pytest.raises(ValueError, match="histogram"):
        encode([0, 5], [1, 1])
    with pytest.raises(ValueError, match="histogram"):
        encode([-1, 0], [2])
    with pytest.raises(ValueError, match="add up"):
        decode(b"", [3], 4)
    with pytest.raises(ValueError, match="at least 0"):
        decode(b"", [4, -1], 3)
    with pytest.raises(ValueError, match="empty"):
        decode(b"1234", [4], 4)
    with pytest.raises(ValueError, match="at most"):
        encode([], np.zeros(MAXIMUM_ALPHABET + 1))
