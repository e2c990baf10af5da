"""A network drawn at random for a benchmark: 18 layers in three stages, what each costs, and how its weights code.

A residual network of width and depths per stage that vary from instance to instance. The first convolution of a block
can lose filters for good, which the second one then need not read; layers that write into the residual stream only
leave theirs out. Weights have tails of different heaviness, so that the same bits cost and hurt layers differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

__all__ = ["BITS", "CLUSTERS", "Layer", "coding_tables", "draw_network", "mac_share", "rounded_up", "size_share"]

BITS = (8, 6, 5, 4, 3)
CLUSTERS = (0, 64, 32, 16, 8)
"""Weak to strong; 0 is none."""

STAGES = ((3, 3, 2), (2, 3, 3), (2, 4, 2), (3, 2, 3))
FLOAT_BITS = 32
QUANTILES = 1000
LLOYD_ITERATIONS = 20


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        name: Its name.
        stage: Its stage.
        block: Its block.
        inputs: Channels in.
        outputs: Channels out.
        weights: Number of its weights.
        macs: Operations when nothing is removed.
        reads: Index of the layer whose filters, once removed, it need not read; None when it reads them all.
        leaves_zeros: Its zeros are single weights, whose places must be coded.
    """

    name: str
    stage: str
    block: str
    inputs: int
    outputs: int
    weights: int
    macs: int
    reads: int | None = None
    leaves_zeros: bool = False


def draw_network(generator: np.random.Generator) -> tuple[Layer, ...]:
    """18 layers for images of 32x32: a stem, 16 convolutions in blocks of two, a classifier."""
    base = int(generator.choice([16, 24, 32, 48]))
    blocks = STAGES[int(generator.integers(len(STAGES)))]
    layers = [_convolution("stem", "stem", "stem", 3, base, 32)]
    channels = base
    for stage, count in enumerate(blocks):
        width = base * 2**stage
        for block in range(count):
            place = (f"stage{stage + 1}", f"stage{stage + 1}.{block}")
            size = 32 // 2**stage
            layers.append(_convolution(f"{place[1]}.conv1", *place, channels, width, size))
            layers.append(_convolution(f"{place[1]}.conv2", *place, width, width, size, reads=len(layers) - 1))
            channels = width
    weights = 100 * channels
    layers.append(Layer("head", "head", "head", channels, 100, weights, weights, leaves_zeros=True))
    return tuple(layers)


def _convolution(
    name: str, stage: str, block: str, inputs: int, outputs: int, size: int, reads: int | None = None
) -> Layer:
    weights = 9 * inputs * outputs
    return Layer(name, stage, block, inputs, outputs, weights, weights * size * size, reads)


def rounded_up(channels: float, multiple: int = 1) -> int:
    """The next multiple, at least one of it."""
    return max(multiple, multiple * int(np.ceil(channels / multiple - 1e-9)))


def mac_share(layers: tuple[Layer, ...], sparsity: np.ndarray, multiple: int = 1) -> np.ndarray:
    """Operations that are left of each layer, as shares of its own.

    Args:
        layers: The network.
        sparsity: (layers,) shares of filters removed.
        multiple: Channels are computed in blocks of so many.

    Returns:
        (layers,) floats.
    """
    left = np.ones(len(layers))
    for index, layer in enumerate(layers):
        if layer.leaves_zeros:
            continue
        left[index] = rounded_up((1.0 - sparsity[index]) * layer.outputs, multiple) / layer.outputs
        if layer.reads is not None:
            left[index] *= rounded_up((1.0 - sparsity[layer.reads]) * layer.inputs, multiple) / layer.inputs
    return left


def size_share(
    layers: tuple[Layer, ...], sparsity: np.ndarray, bits_a_weight: np.ndarray, clusters: np.ndarray
) -> float:
    """Bytes as a share of the dense network's, in floats.

    Args:
        layers: The network.
        sparsity: (layers,) shares of filters, or of weights where zeros stay, that are left out.
        bits_a_weight: (layers,) what one stored weight takes.
        clusters: (layers,) values in the codebook, 0 for none.
    """
    left = mac_share(layers, sparsity) * [
        1.0 - s if layer.leaves_zeros else 1.0 for layer, s in zip(layers, sparsity, strict=True)
    ]
    weights = np.array([layer.weights for layer in layers], dtype=float)
    # norms and biases of each channel stay floats
    floats = sum(3.0 * layer.outputs for layer in layers)
    stored = float((weights * left * bits_a_weight).sum() + clusters.sum() * FLOAT_BITS + floats * FLOAT_BITS)
    return stored / (float(weights.sum() + floats) * FLOAT_BITS)


def coding_tables(tails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each choice of bits and clusters makes of weights with the given tails.

    Args:
        tails: (layers,) exponents on normal quantiles: 1 is normal, more is heavier.

    Returns:
        Entropy of the stored symbols in bits and mean squared error relative to the weights' variance, both (layers,
        bits, clusters).
    """
    entropy = np.zeros((len(tails), len(BITS), len(CLUSTERS)))
    error = np.zeros_like(entropy)
    normal = ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
    for layer, tail in enumerate(tails):
        weights = np.sign(normal) * np.abs(normal) ** tail
        for column, count in enumerate(CLUSTERS):
            clustered = _lloyd(weights, count) if count else weights
            for row, bits in enumerate(BITS):
                steps = 2 ** (bits - 1) - 1
                scale = np.abs(weights).max() / steps
                codes = np.clip(np.round(clustered / scale), -steps, steps)
                shares = np.unique(codes, return_counts=True)[1] / len(codes)
                entropy[layer, row, column] = -(shares * np.log2(shares)).sum()
                error[layer, row, column] = ((codes * scale - weights) ** 2).mean() / weights.var()
    return entropy, error


def _lloyd(weights: np.ndarray, count: int) -> np.ndarray:
    """`weights` (sorted) at the nearest of `count` values found by Lloyd's iteration from evenly spaced ones."""
    centres = np.linspace(weights[0], weights[-1], count)
    for _ in range(LLOYD_ITERATIONS):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2.0, weights)
        held = np.bincount(nearest, minlength=count)
        sums = np.bincount(nearest, weights=weights, minlength=count)
        centres = np.where(held > 0, sums / np.maximum(held, 1), centres)
    return centres[np.searchsorted((centres[1:] + centres[:-1]) / 2.0, weights)]
