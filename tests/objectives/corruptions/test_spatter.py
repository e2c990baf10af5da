"""Spatter and its steps against plain loops that follow OpenCV's documentation and source."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from forgefront.objectives.corruptions.liquid import canny, chamfer_distance, equalized


def edges_of(levels, low, high):
    """Canny's edges (1986) as OpenCV finds them: Sobel, |dx| + |dy|, thinning in fixed point, hysteresis."""
    padded = np.pad(levels.astype(int), 1, mode="edge")
    dx = ndimage.correlate(padded, np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]))[1:-1, 1:-1]
    dy = ndimage.correlate(padded, np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]))[1:-1, 1:-1]
    strength = np.pad(np.abs(dx) + np.abs(dy), 1)
    thin = np.zeros(levels.shape, bool)
    for row, column in zip(*np.nonzero(strength[1:-1, 1:-1] > low), strict=True):
        x, y = abs(int(dx[row, column])), abs(int(dy[row, column])) << 15
        gentle = x * 13573
        here = strength[row + 1, column + 1]
        if y < gentle:
            thin[row, column] = here > strength[row + 1, column] and here >= strength[row + 1, column + 2]
        elif y > gentle + (x << 16):
            thin[row, column] = here > strength[row, column + 1] and here >= strength[row + 2, column + 1]
        else:
            side = -1 if (dx[row, column] < 0) != (dy[row, column] < 0) else 1
            before, after = strength[row, column + 1 - side], strength[row + 2, column + 1 + side]
            thin[row, column] = here > before and here > after
    labels, _ = ndimage.label(thin, np.ones((3, 3)))
    strong = np.unique(labels[thin & (strength[1:-1, 1:-1] > high)])
    return np.isin(labels, strong[strong > 0])


def distance_of(edges):
    """The shortest way to an edge in moves of 1, 1.4 and 2.1969 pixels, at most 20: relaxed until nothing changes."""
    far = 20.0
    distance = np.where(edges, 0.0, far)
    moves = [(dy, dx, {1: 1.0, 2: 1.4, 5: 2.1969}[dy * dy + dx * dx]) for dy in range(-2, 3) for dx in range(-2, 3)
             if dy * dy + dx * dx in (1, 2, 5)]  # fmt: skip
    while True:
        padded = np.pad(distance, 2, constant_values=far)
        height, width = distance.shape
        better = np.minimum.reduce(
            [padded[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] + cost for dy, dx, cost in moves] + [distance]
        )
        if np.array_equal(better, distance):
            return distance
        distance = better


def equalized_levels(levels):
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    if counts[lowest] == levels.size:
        return levels
    scale = np.float32(255.0) / np.float32(levels.size - counts[lowest])
    above = np.concatenate([np.zeros(lowest + 1, int), np.cumsum(counts[lowest + 1 :])])
    return np.rint(above.astype(np.float32) * scale).astype(int)[levels]


def box(levels):
    return ndimage.uniform_filter(levels.astype(float), 3, mode="mirror")


def spatter(image, severity, chance):
    small = (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    )
    large = (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    )
    mean, deviation, sigma, threshold, amount, dirty = (small, large)[min(image.shape[:2]) > 64][severity - 1]
    layer = mean + deviation * chance.normal(1, *image.shape[:2])[0]
    layer = ndimage.gaussian_filter(layer, sigma, mode="nearest")
    plain = image / 255.0
    if dirty:
        covered = ndimage.gaussian_filter((layer > threshold).astype(float), amount, mode="nearest")
        covered = np.where(covered < 0.8, 0.0, covered)[..., None]
        result = plain * (1.0 - covered) + covered * np.array([63, 42, 20]) / 255.0
    else:
        liquid = np.floor(np.where(layer < threshold, 0.0, layer) * 255.0) % 256
        near = np.floor(box(distance_of(edges_of(liquid, 50, 150))) + 1e-4).astype(int)
        kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
        relief = ndimage.correlate(equalized_levels(near), kernel, mode="mirror").clip(0, 255)
        drops = liquid * np.rint(box(relief))
        drops = amount * drops / max(drops.max(), 1.0)
        result = plain + drops[..., None] * np.array([175, 238, 238]) / 255.0
    return np.uint8(np.clip(result, 0.0, 1.0) * 255.0 + 1e-3).astype(int)


# few drops an image, of random sizes; one pixel of liquid more changes the scale of an image's drops
TOLERANCE = {"beyond": 5e-3, "mean": 1.0, "rms": 0.1, "spectrum": 0.03, "saturation": 0.01, "repeats": 12}


@pytest.mark.parametrize("severity", range(1, 6))
def test_spatter_is_the_published_one(severity, agrees, tolerance):
    agrees(spatter, severity, tolerance(**TOLERANCE))


def layers(shape, threshold=0.68):
    generator = np.random.default_rng(shape[0])
    for sigma in (0.7, 1.0, 2.0, 3.0):
        layer = ndimage.gaussian_filter(generator.normal(0.65, 0.1 * (1.0 + sigma), shape), sigma, mode="nearest")
        yield np.floor(np.where(layer < threshold, 0.0, layer).clip(0.0, 1.0) * 255.0).astype(int)


def plane(array):
    return torch.from_numpy(np.ascontiguousarray(array)).float()[None, None]


@pytest.mark.parametrize("shape", [(24, 24), (32, 32), (33, 61), (70, 90)])
def test_edges_are_those_of_the_loop(shape):
    for levels in layers(shape):
        assert np.array_equal(canny(plane(levels), low=50.0, high=150.0)[0, 0].numpy(), edges_of(levels, 50, 150))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(24, 24), (70, 33)])
def test_distances_are_shortest_paths(share, shape):
    edges = np.random.default_rng(0).random(shape) < share
    found = chamfer_distance(plane(edges) > 0.5)[0, 0].numpy()
    assert np.abs(found - distance_of(edges)).max() < 1e-4


def test_distance_from_a_point_is_an_octagonal_norm():
    edges = torch.zeros(1, 1, 45, 45, dtype=torch.bool)
    edges[0, 0, 22, 22] = True
    found = chamfer_distance(edges)[0, 0]
    for down, across, expected in (
        (0, 7, 7.0),
        (5, 5, 7.0),
        (3, 6, 3 * 2.1969),
        (4, 6, 2 * 2.1969 + 2 * 1.4),
        (0, 22, 20.0),
    ):
        assert float(found[22 + down, 22 - across]) == pytest.approx(expected, abs=1e-4)
        assert math.isclose(found[22 + down, 22 - across], found[22 - across, 22 + down], abs_tol=1e-4)


def test_equalizing_spreads_levels_and_keeps_an_even_image():
    levels = np.random.default_rng(0).integers(3, 18, (20, 30))
    assert np.array_equal(equalized(plane(levels))[0, 0].numpy(), equalized_levels(levels))
    even = torch.full((1, 1, 5, 5), 7.0)
    assert torch.equal(equalized(even), even)
