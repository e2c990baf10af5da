"""The blur family against loops in NumPy and SciPy, at every severity of both sets of constants."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage


def is_large(image):
    return min(image.shape[:2]) > 64


def in_bytes(image):
    # sums that are whole levels but for float noise stay whole, here as there
    return np.uint8(np.clip(image, 0.0, 1.0) * 255.0 + 1e-3).astype(int)


def gaussian(image, sigma):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def gaussian_blur(image, severity, chance):
    sigma = ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6))[is_large(image)][severity - 1]
    return in_bytes(gaussian(image / 255.0, sigma))


def defocus_blur(image, severity, chance):
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    radius, sigma = (small, large)[is_large(image)][severity - 1]
    reach, half = (8, 1) if radius <= 8 else (radius, 2)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disk = (x**2 + y**2 <= radius**2).astype(float)
    taps = np.exp(-(np.arange(-half, half + 1) ** 2) / (2.0 * sigma**2))
    disk /= disk.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, taps / taps.sum(), axis, mode="mirror")
    return in_bytes(ndimage.correlate(image / 255.0, disk[..., None], mode="mirror"))


def glass_blur(image, severity, chance):
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach, iterations = (small, large)[is_large(image)][severity - 1]
    height, width = image.shape[:2]
    pixels = list(map(tuple, in_bytes(gaussian(image / 255.0, sigma)).reshape(-1, 3).tolist()))
    for _ in range(iterations):
        down, across = chance.integers(-reach, reach, 2, height, width).tolist()
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                # the published swap of two views of one array writes the neighbour's value and then reads it back
                pixels[h * width + w] = pixels[(h + down[h][w]) * width + w + across[h][w]]
    return in_bytes(gaussian(np.array(pixels).reshape(image.shape) / 255.0, sigma))


def smeared(image, radius, sigma, angle):
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2.0 * sigma**2))
    taps /= taps.sum()
    height, width = image.shape[:2]
    total = np.zeros(image.shape)
    for step, tap in enumerate(taps):
        across = int(np.ceil(step * np.cos(np.deg2rad(angle)) - 0.5))
        down = int(np.ceil(step * np.sin(np.deg2rad(angle)) - 0.5))
        rows, columns = np.arange(height) + down, np.arange(width) + across
        total += tap * image[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    return total


def motion_blur(image, severity, chance):
    small = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
    large = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    radius, sigma = (small, large)[is_large(image)][severity - 1]
    blurred = smeared(image.astype(float), radius, sigma, chance.uniform(low=-45.0, high=45.0))
    # ImageMagick rounds, imagecorruptions truncates
    return np.floor(blurred + (1e-3 if is_large(image) else 0.5)).astype(int)


def clipped_zoom(image, factor):
    height, width = image.shape[:2]
    kept = [int(np.ceil(size / factor)) for size in (height, width)]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    large = ndimage.zoom(image[top : top + kept[0], left : left + kept[1]], (factor, factor, 1), order=1)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def zoom_blur(image, severity, chance):
    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    factors = np.arange(1, *(small, large)[is_large(image)][severity - 1])
    assert len(factors) == ((7, 12, 16, 21, 26), (12, 16, 11, 13, 11))[is_large(image)][severity - 1]
    plain = (image / 255.0).astype(np.float32)
    return in_bytes((plain + sum(clipped_zoom(plain, factor) for factor in factors)) / (len(factors) + 1))


# motion blur moves an image along one angle
TOLERANCES = {
    gaussian_blur: {},
    defocus_blur: {},
    zoom_blur: {},
    glass_blur: {"mean": 1.0, "rms": 0.03, "spectrum": 0.015},
    motion_blur: {"mean": 1.5, "rms": 0.05, "spectrum": 0.02, "repeats": 12},
}


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("oracle", TOLERANCES, ids=lambda oracle: oracle.__name__)
def test_blurs_are_the_published_ones(oracle, severity, agrees, tolerance):
    agrees(oracle, severity, tolerance(**TOLERANCES[oracle]))
