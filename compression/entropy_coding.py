"""Entropy coding of integer symbols by their own histogram, order 0 (Shannon 1948): range coding, and the bound on it.

The coder's model is made of integer counts alone. In float64 their partial sums are exact in any order, and what is
left to compute is one division and one product a symbol, each rounded once, so that every IEEE machine decodes the same
symbols (`constriction`'s ``perfect=False``; its ``perfect=True`` calls a logarithm, which libraries round differently).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MAXIMUM_ALPHABET", "decode", "encode", "shannon_bits"]

MAXIMUM_ALPHABET = 4096
WORD_BYTES = 4


def shannon_bits(counts: ArrayLike) -> float:
    """n · H in bits: the least that coding these symbols one by one can take, Σ c · log2(n / c).

    Args:
        counts: (alphabet,) integers, how often each symbol occurs; 0 for one that does not.
    """
    used = np.asarray(counts, dtype=np.float64)
    used = used[used > 0]
    return float((used * np.log2(used.sum() / used)).sum()) if used.size > 1 else 0.0


def encode(symbols: ArrayLike, counts: ArrayLike) -> bytes:
    """The symbols as whole 32-bit words, within about 64 bits + 0.0002 bits a symbol of `shannon_bits`.

    The coder counts probabilities in steps of 2⁻²⁴ of a range that it keeps between 2³² and 2⁶⁴; what the steps cut off
    takes about 0.00013 bits a symbol in the mean. In larger alphabets rounding the model to such steps would take more.

    Args:
        symbols: (n,) integers in [0, alphabet).
        counts: (alphabet,) integers, their histogram; 4,096 symbols at most.

    Returns:
        Little-endian words; nothing where no more than one symbol is used.

    Raises:
        ValueError: `counts` is not the histogram of `symbols`.
    """
    values, histogram = np.asarray(symbols, dtype=np.int64).reshape(-1), _histogram(counts)
    inside = not values.size or (values.min() >= 0 and values.max() < histogram.size)
    if not inside or not np.array_equal(np.bincount(values, minlength=histogram.size), histogram):
        raise ValueError(f"`counts` must be the histogram of `symbols`; found another for {values.size} symbols.")
    if np.count_nonzero(histogram) < 2:
        return b""
    from constriction import stream

    encoder = stream.queue.RangeEncoder()
    encoder.encode(values.astype(np.int32), stream.model.Categorical(histogram.astype(np.float64), perfect=False))
    return encoder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, counts: ArrayLike, n: int) -> NDArray[np.int32]:
    """The symbols, (n,) int32, that `encode` was given.

    Args:
        data: What `encode` returned.
        counts: The same counts.
        n: How many symbols there are.

    Raises:
        ValueError: `data` or `counts` are not those of one message of n symbols.
    """
    histogram = _histogram(counts)
    if int(histogram.sum()) != n:
        raise ValueError(f"`counts` must add up to {n}; found {int(histogram.sum())}.")
    used = np.flatnonzero(histogram)
    if used.size < 2:
        if data:
            raise ValueError(f"`data` must be empty for a single symbol; found {len(data)} bytes.")
        return np.full(n, used[0] if used.size else 0, dtype=np.int32)
    if not data or len(data) % WORD_BYTES:
        raise ValueError(f"`data` must be whole words of {WORD_BYTES} bytes; found {len(data)} bytes.")
    from constriction import stream

    decoder = stream.queue.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    try:
        symbols = decoder.decode(stream.model.Categorical(histogram.astype(np.float64), perfect=False), n)
    except AssertionError as error:
        raise ValueError(f"`data` must be a coded message; found other bytes ({error}).") from None
    # other bytes than those encoded give other symbols, whose histogram all but certainly differs
    if not np.array_equal(np.bincount(symbols, minlength=histogram.size), histogram):
        raise ValueError("`data` must hold symbols of these `counts`; found others.")
    return symbols


def _histogram(counts: ArrayLike) -> NDArray[np.int64]:
    histogram = np.asarray(counts, dtype=np.int64).reshape(-1)
    if histogram.size > MAXIMUM_ALPHABET:
        raise ValueError(f"`counts` must have at most {MAXIMUM_ALPHABET} entries; found {histogram.size}.")
    if histogram.size and histogram.min() < 0:
        raise ValueError(f"`counts` must be at least 0; found {histogram.min()}.")
    return histogram
