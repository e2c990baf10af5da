"""The digital family against Pillow, SciPy and the standard library, at every severity of both sets of constants."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from forgefront.objectives.corruptions.jpeg import jpeg


def is_large(image):
    return min(image.shape[:2]) > 64


def in_bytes(image):
    # sums that are whole levels but for float noise stay whole, here as there
    return np.uint8(np.clip(image, 0.0, 1.0) * 255.0 + 1e-3).astype(int)


def contrast(image, severity, chance):
    kept = ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))[is_large(image)][severity - 1]
    mean = (image / 255.0).mean(axis=(0, 1))
    return in_bytes((image / 255.0 - mean) * kept + mean)


def saturate(image, severity, chance):
    small = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
    large = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))
    factor, added = (small, large)[is_large(image)][severity - 1]
    changed = []
    for red, green, blue in (image / 255.0).reshape(-1, 3).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        changed.append(colorsys.hsv_to_rgb(hue, min(max(saturation * factor + added, 0.0), 1.0), value))
    return in_bytes(np.array(changed).reshape(image.shape))


def pixelate(image, severity, chance):
    share = ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))[is_large(image)][severity - 1]
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    upwards = Image.Resampling.NEAREST if is_large(image) else Image.Resampling.BOX
    return np.asarray(small.resize((width, height), upwards)).astype(int)


def compressed(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(int)


def jpeg_compression(image, severity, chance):
    return compressed(image, ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7))[is_large(image)][severity - 1])


def sampled(image, x, y, mode):
    channels = [ndimage.map_coordinates(image[..., c], [y, x], order=1, mode=mode) for c in range(3)]
    return np.stack(channels, axis=-1).reshape(image.shape)


def elastic_transform(image, severity, chance):
    height, width = image.shape[:2]
    side = min(height, width)
    image = image / 255.0
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    if is_large(image):
        strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
        sigma, furthest = (0.01 * height, 0.01 * width), 0.005 * height
    else:
        shares = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
        strength, sigma, jitter = (side * share for share in shares[severity - 1])
        furthest = 1.0
        centre, reach = np.array([width, height]) // 2, side // 3
        points = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
        moved = points + chance.uniform(2, 3, low=-jitter, high=jitter).T
        forward = np.linalg.solve(np.column_stack([points, np.ones(3)]), moved).T
        source = np.linalg.solve(forward[:, :2], np.stack([x.ravel(), y.ravel()]) - forward[:, 2:])
        image = sampled(image, *source, mode="mirror")
    if strength:
        field = chance.uniform(2, height, width, low=-furthest, high=furthest)
        dx, dy = (ndimage.gaussian_filter(plane, sigma, mode="reflect", truncate=3) * strength for plane in field)
        image = sampled(image, (x + dx).ravel(), (y + dy).ravel(), mode="reflect")
    return in_bytes(image)


# an elastic transform's change depends on where edges happen to move to
TOLERANCES = {
    contrast: {},
    saturate: {},
    pixelate: {},
    jpeg_compression: {},
    elastic_transform: {"beyond": 1e-3, "mean": 1.0, "rms": 0.05, "spectrum": 0.03, "repeats": 8},
}


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("oracle", TOLERANCES, ids=lambda oracle: oracle.__name__)
def test_digital_corruptions_are_the_published_ones(oracle, severity, agrees, tolerance):
    agrees(oracle, severity, tolerance(**TOLERANCES[oracle]))


def to_tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0


@pytest.mark.parametrize("shape", [(24, 24), (25, 31), (27, 45), (28, 100), (64, 72), (66, 200)])
@pytest.mark.parametrize("quality", [7, 10, 18, 25, 40, 50, 58, 65, 80, 95, 100])
def test_jpeg_is_pillow_bit_for_bit(shape, quality, large_photographs):
    photographs = np.concatenate(list(large_photographs[:3]), axis=1)[: shape[0], : shape[1]]
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for image in (np.ascontiguousarray(photographs), noise):
        found = (jpeg(to_tensor(image), quality) * 255.0).round()[0].permute(1, 2, 0).numpy()
        assert np.array_equal(found, compressed(image, quality))


@pytest.mark.parametrize("severity", range(1, 6))
def test_pixelate_is_pillow_bit_for_bit(severity, images):
    from forgefront.objectives.corruptions.digital import pixelate as corruption
    from forgefront.objectives.corruptions.randomness import Draws

    for image in images[:4]:
        found = corruption(to_tensor(image), severity, Draws(0, torch.arange(1), "a"))
        found = (found * 255.0).round()[0].permute(1, 2, 0).numpy()
        assert np.array_equal(found, pixelate(image, severity, None))


@pytest.mark.parametrize(("severity", "added"), [(1, 0.0), (3, 0.0), (4, 0.1), (5, 0.2)])
def test_saturate_reddens_greys_by_what_it_adds(severity, added):
    from forgefront.objectives.corruptions.digital import saturate as corruption
    from forgefront.objectives.corruptions.randomness import Draws

    result = corruption(torch.full((1, 3, 8, 8), 200 / 255), severity, Draws(0, torch.arange(1), "a")) * 255.0
    assert result[0, :, 0, 0].round().tolist() == [200.0, *(2 * [float(int(200.0 * (1.0 - added) + 1e-3))])]
