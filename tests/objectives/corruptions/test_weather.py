"""The weather family against loops in NumPy and SciPy, at every severity of both sets of constants; frost's textures."""

from __future__ import annotations

import colorsys
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from forgefront.objectives.corruptions.frost import frost_canvas, load_textures, procedural_textures
from forgefront.objectives.corruptions.randomness import Draws
from forgefront.objectives.corruptions.weather import frost as corruption
from forgefront.studies.errors import DataError

PHOTOGRAPHS = Path(__file__).parents[4] / "shared" / "data" / "frost"


def is_large(image):
    return min(image.shape[:2]) > 64


def in_bytes(image):
    # sums that are whole levels but for float noise stay whole, here as there
    return np.uint8(np.clip(image, 0.0, 1.0) * 255.0 + 1e-3).astype(int)


def brightness(image, severity, chance):
    added = ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))[is_large(image)][severity - 1]
    raised = []
    for red, green, blue in (image / 255.0).reshape(-1, 3).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        raised.append(colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1.0)))
    return in_bytes(np.array(raised).reshape(image.shape))


def smeared(plane, radius, sigma, angle):
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2.0 * sigma**2))
    taps /= taps.sum()
    height, width = plane.shape
    total = np.zeros(plane.shape)
    for step, tap in enumerate(taps):
        across = int(np.ceil(step * np.cos(np.deg2rad(angle)) - 0.5))
        down = int(np.ceil(step * np.sin(np.deg2rad(angle)) - 0.5))
        rows, columns = np.arange(height) + down, np.arange(width) + across
        total += tap * plane[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    return np.round(total)


def snow(image, severity, chance):
    small = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )
    large = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )
    mean, deviation, zoom, threshold, radius, sigma, kept = (small, large)[is_large(image)][severity - 1]
    height, width = image.shape[:2]
    layer = mean + deviation * chance.normal(1, height, width)[0]
    rows, columns = int(np.ceil(height / zoom)), int(np.ceil(width / zoom))
    top, left = (height - rows) // 2, (width - columns) // 2
    layer = ndimage.zoom(layer[top : top + rows, left : left + columns], zoom, order=1)
    top, left = (layer.shape[0] - height) // 2, (layer.shape[1] - width) // 2
    layer = layer[top : top + height, left : left + width]
    flakes = in_bytes(np.where(layer < threshold, 0.0, layer)).astype(float)
    flakes = smeared(flakes, radius, sigma, chance.uniform(low=-135.0, high=-45.0))[..., None] / 255.0
    plain = image / 255.0
    grey = (plain @ [0.299, 0.587, 0.114])[..., None]
    whitened = kept * plain + (1.0 - kept) * np.maximum(plain, grey * 1.5 + 0.5)
    return in_bytes(whitened + flakes + np.rot90(flakes, 2))


def fog(image, severity, chance):
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
    thickness, decay = (small, large)[is_large(image)][severity - 1]
    size = step = 2 ** int(np.ceil(np.log2(max(image.shape))))
    plasma, wobble = np.zeros((size, size)), 100.0

    def at(rows, columns):
        return plasma[np.ix_(rows % size, columns % size)]

    def wobbled(total):
        return total / 4.0 + wobble * chance.uniform(*total.shape, low=-wobble, high=wobble)

    while step >= 2:
        half = step // 2
        whole, between = np.arange(0, size, step), np.arange(half, size, step)
        corners = at(whole, whole) + at(whole + step, whole) + at(whole, whole + step) + at(whole + step, whole + step)
        plasma[half::step, half::step] = wobbled(corners)
        upright = at(whole - half, between) + at(whole + half, between)
        upright = wobbled(upright + at(whole, whole) + at(whole, whole + step))
        level = at(between, whole - half) + at(between, whole + half)
        level = wobbled(level + at(whole, whole) + at(whole + step, whole))
        plasma[::step, half::step], plasma[half::step, ::step] = upright, level
        step, wobble = half, wobble / decay
    plasma = (plasma - plasma.min()) / (plasma.max() - plasma.min())
    plasma = plasma[: image.shape[0], : image.shape[1], None]
    brightest = image.max() / 255.0
    return in_bytes((image / 255.0 + thickness * plasma) * brightest / (brightest + thickness))


@functools.cache
def pictures():
    """Two (h, w, 3) uint8 of two sizes: something like frost, smooth and bright."""
    generator = np.random.default_rng(5)
    made = []
    for height, width in ((300, 420), (260, 330)):
        noise = ndimage.gaussian_filter(generator.standard_normal((height, width, 3)), (6, 6, 0))
        made.append(np.uint8(np.clip(150 + 40 * noise / noise.std(), 0, 255)))
    return made


@functools.cache
def grown(index):
    """A picture enlarged by a tenth, cubic, (h, w, 3) uint8."""
    planes = torch.from_numpy(pictures()[index].astype(np.float32)).permute(2, 0, 1)[None]
    size = [int(np.ceil(1.1 * side)) for side in planes.shape[2:]]
    large = torch.nn.functional.interpolate(planes, size=size, mode="bicubic")[0].permute(1, 2, 0)
    return np.uint8(large.round().clamp(0, 255).numpy())


def frost(image, severity, chance):
    small = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    kept, ice = (small, large)[is_large(image)][severity - 1]
    index = int(chance.integers(0, 2))
    texture = grown(index) if is_large(image) else pictures()[index][2::5, 2::5]
    height, width = image.shape[:2]
    down, across = chance.uniform(2)
    top, left = int(down * (texture.shape[0] - height)), int(across * (texture.shape[1] - width))
    return in_bytes((kept * image + ice * texture[top : top + height, left : left + width]) / 255.0)


# fog, frost and snow depend on one place or angle an image; fog's change swings most, for a plasma's largest waves are
# as large as the image
TOLERANCES = {
    brightness: {},
    snow: {"beyond": 2e-3, "mean": 3.0, "rms": 0.05, "spectrum": 0.03, "saturation": 0.01, "repeats": 12},
    fog: {"mean": 6.0, "rms": 0.08, "spectrum": 0.01, "saturation": 0.005, "repeats": 24},
    frost: {"mean": 3.0, "rms": 0.04, "spectrum": 0.015, "saturation": 0.015, "repeats": 12},
}


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("oracle", TOLERANCES, ids=lambda oracle: oracle.__name__)
def test_weather_is_the_published_one(oracle, severity, agrees, tolerance, tmp_path):
    options = {}
    if oracle is frost:
        for name, picture in zip("ab", pictures(), strict=True):
            Image.fromarray(picture).save(tmp_path / f"{name}.png")
        options["textures"] = load_textures(tmp_path)
    agrees(oracle, severity, tolerance(**TOLERANCES[oracle]), **options)


def test_fog_thickens_evenly_on_average(images):
    # the mean plasma of many images is flat, so the mean fog is c * 0.5 * max / (max + c) above the scaled image
    from forgefront.objectives.corruptions.weather import fog as fogged

    grey = torch.full((200, 3, *images.shape[1:3]), 0.5)
    thickness = (1.5 if is_large(images[0]) else 0.2) + 0.0
    result = fogged(grey, 1, Draws(0, torch.arange(200), "a"))
    assert float(result.mean()) == pytest.approx(0.5 * (0.5 + 0.5 * thickness) / (0.5 + thickness), abs=0.01)


# frost's textures


def spectrum_slope(plane):
    power = np.square(np.abs(np.fft.fft2(plane - plane.mean())))
    frequency = np.hypot(np.fft.fftfreq(plane.shape[0])[:, None], np.fft.fftfreq(plane.shape[1])[None, :])
    inside = (frequency > 0.03) & (frequency < 0.4)
    return np.polyfit(np.log(frequency[inside]), np.log(power[inside] + 1e-9), 1)[0]


def test_procedural_textures_look_like_the_photographs_to_statistics():
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("needs ../shared/data/frost")
    for made, photograph in zip(procedural_textures(1).double().numpy(), load_textures(PHOTOGRAPHS), strict=True):
        taken = photograph[:, 2::5, 2::5].double().numpy()
        assert made.mean() == pytest.approx(taken.mean(), abs=12)
        assert made.std() == pytest.approx(taken.std(), rel=0.4)
        assert spectrum_slope(made.mean(0)) == pytest.approx(spectrum_slope(taken.mean(0)), abs=0.8)


@pytest.mark.parametrize("severity", range(1, 6))
def test_procedural_frost_changes_images_about_as_the_photographs_do(severity, images):
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("needs ../shared/data/frost")
    plain = torch.from_numpy(np.tile(images, (8, 1, 1, 1))).permute(0, 3, 1, 2).float() / 255.0
    change = []
    for textures in (None, load_textures(PHOTOGRAPHS)):
        result = corruption(plain, severity, Draws(0, torch.arange(len(plain)), "a"), textures=textures)
        change.append(((result - plain).mean().item() * 255.0, (result - plain).square().mean().sqrt().item()))
    assert change[0][0] == pytest.approx(change[1][0], abs=9.0)
    assert change[0][1] == pytest.approx(change[1][1], rel=0.15)


def test_the_sixth_published_photograph_is_left_out():
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("needs ../shared/data/frost")
    textures = load_textures(PHOTOGRAPHS)
    assert [tuple(texture.shape[1:]) for texture in textures] == [
        (600, 900),
        (315, 560),
        (315, 560),
        (350, 527),
        (495, 660),
    ]


@pytest.mark.parametrize("scale", [1, 5])
def test_procedural_textures_repeat_without_a_seam(scale):
    planes = procedural_textures(scale).float()
    for axis in (2, 3):
        inside = planes.diff(dim=axis).abs().mean()
        seam = (planes.select(axis, 0) - planes.select(axis, -1)).abs().mean()
        assert seam < 1.5 * inside


@pytest.mark.parametrize("shape", [(24, 24), (64, 200), (65, 66), (1024, 40), (600, 700)])
def test_textures_are_enlarged_to_fit_any_image(shape, tmp_path):
    Image.fromarray(pictures()[0][:120, :150]).save(tmp_path / "small.jpg")
    canvas, places = frost_canvas(load_textures(tmp_path), *shape, min(shape) <= 64, torch.device("cpu"))
    assert canvas.shape[2] > shape[0]
    assert canvas.shape[3] > shape[1]
    assert (places > 0).all()
    assert (places + torch.tensor(shape) <= torch.tensor(canvas.shape[2:])).all()


def test_transparent_grey_and_palette_images_are_read(tmp_path):
    picture = Image.fromarray(pictures()[0])
    for mode in ("RGBA", "L", "P", "LA"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
    (tmp_path / "LICENSE.txt").write_text("text")
    assert [tuple(texture.shape) for texture in load_textures(tmp_path)] == [(3, 300, 420)] * 4


def damaged(folder):
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")


def tiny(folder):
    Image.new("RGB", (40, 9)).save(folder / "a.png")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.rmdir(), "which is no folder"),
        (lambda folder: None, "found none in"),
        (lambda folder: (folder / "a.txt").write_text("a"), "found none in"),
        (damaged, "that can be read"),
        (tiny, "at least 10 pixels a side; found .*40 x 9"),
    ],
)
def test_bad_folders_are_one_clear_line(prepare, message, tmp_path):
    prepare(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_textures(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texture", [torch.zeros(3, 40, 40), torch.zeros(1, 40, 40, dtype=torch.uint8)])
def test_textures_must_be_bytes_of_three_channels(texture):
    with pytest.raises(ValueError, match=r"`textures` must be uint8 of shape \(3, h, w\)"):
        corruption(torch.zeros(1, 3, 32, 32), 1, Draws(0, torch.arange(1), "a"), textures=[texture])
