"""Data sets: what each layout gives, and one clear line for each way in which it can be wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from forgefront.studies.errors import DataError
from forgefront.trainers.data.arrays import arrays
from forgefront.trainers.data.base import ImageData, Split, image_data
from forgefront.trainers.data.cifar import PIXELS, cifar10, cifar100, read_binary, read_python
from forgefront.trainers.data.digits import digits
from forgefront.trainers.data.folder import image_folder

SHARED = Path(__file__).parents[2] / "../shared/data"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_binary(path: Path, records: int, *, label_bytes: int = 1, label: int = 3) -> np.ndarray:
    table = noise(records, label_bytes + PIXELS)
    table[:, :label_bytes] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    table.tofile(path)
    return table


def write_npz(path: Path, **changes) -> None:
    content = {
        "train_images": noise(6, 8, 8, 3),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": noise(3, 8, 8, 3, seed=1),
        "test_labels": np.array([0, 1, 2]),
    }
    np.savez(path, **{key: value for key, value in {**content, **changes}.items() if value is not None})


def write_folder(root: Path, splits: dict[str, dict[str, int]], size: tuple[int, int] = (12, 10)) -> None:
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise(size[1], size[0], 3, seed=number)).save(root / split / name / f"{number}.png")


def test_digits_are_the_bundled_ones_in_their_order():
    from sklearn.datasets import load_digits

    data, bunch = digits(), load_digits()
    assert (len(data.train), len(data.test), data.image_shape, data.num_classes) == (1500, 297, (3, 32, 32), 10)
    assert data.test.labels.tolist() == bunch.target[1500:].tolist()
    assert int(data.train.images.max()) == 255
    assert digits().content_hash == data.content_hash != digits(upsampling="nearest").content_hash


def test_digits_upsampled_to_nearest_are_the_originals_four_times_as_large():
    from sklearn.datasets import load_digits

    data = digits(upsampling="nearest")
    original = torch.from_numpy(load_digits().images[:1500] * 255 / 16).round().to(torch.uint8)
    assert torch.equal(data.train.images[:, 0, ::4, ::4], original)
    assert torch.equal(data.train.images[:, 1], data.train.images[:, 0])


@pytest.fixture(scope="module")
def cifar_root(tmp_path_factory) -> Path:
    script = SHARED / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip("../shared/data is not there")
    root = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(script), str(root)], check=True, capture_output=True)
    return root


def test_cifar10_in_the_official_layout(cifar_root):
    data = cifar10(root=str(cifar_root))
    assert (len(data.train), len(data.test), data.image_shape) == (50_000, 10_000, (3, 32, 32))
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.train.class_counts(10).tolist() == [5000] * 10
    # the published channel means are those of the training images
    means = data.train.images[::10].double().mean(dim=(0, 2, 3)) / 255
    assert means.tolist() == pytest.approx(data.mean, abs=0.01)


def test_cifar10_reads_the_same_images_from_both_layouts(cifar_root, tmp_path):
    images, labels = read_binary(cifar_root / "cifar-10-batches-bin" / "data_batch_1.bin", records=10_000)
    batch = {b"data": images.reshape(10_000, PIXELS), b"labels": labels.tolist(), b"filenames": [b"a.png"]}
    for protocol in (2, 4):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=protocol))
        again, numbers = read_python(tmp_path / "data_batch_1", records=10_000, key="labels")
        assert np.array_equal(again, images)
        assert np.array_equal(numbers, labels)


def test_binary_records_are_label_bytes_then_planes(tmp_path):
    table = write_binary(tmp_path / "train.bin", 5, label_bytes=2)
    table[:, 1] = np.arange(5)
    table.tofile(tmp_path / "train.bin")
    images, labels = read_binary(tmp_path / "train.bin", records=5, label_bytes=2, column=1, classes=100)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert images[2, 1, 0, 3] == table[2, 2 + 1024 + 3]


def cifar100_batch(records: int, *, number: int) -> dict[bytes, object]:
    """A batch of the python layout: a few images of noise, each with its labels, and black ones of class 0."""
    data = np.zeros((records, PIXELS), dtype=np.uint8)
    fine = [99, 7, 42] + [0] * (records - 3)
    data[:3] = noise(3, PIXELS, seed=number)
    return {b"data": data, b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine], b"filenames": []}


def cifar100_names() -> dict[bytes, list[bytes]]:
    """As many names as the official ones."""
    return {
        f"{labels}_label_names".encode(): [f"{labels}_{number}".encode() for number in range(count)]
        for labels, count in (("fine", 100), ("coarse", 20))
    }


def test_cifar100_unpacks_an_archive_that_is_there_and_reads_both_kinds_of_labels(tmp_path, monkeypatch):
    import hashlib
    import tarfile

    from torchvision.datasets import CIFAR100

    folder = tmp_path / "made" / "cifar-100-python"
    folder.mkdir(parents=True)
    for number, (name, records) in enumerate((("train", 50_000), ("test", 10_000))):
        (folder / name).write_bytes(pickle.dumps(cifar100_batch(records, number=number), protocol=2))
    (folder / "meta").write_bytes(pickle.dumps(cifar100_names(), protocol=2))
    root = tmp_path / "data"
    root.mkdir()
    archive = root / CIFAR100.filename
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(folder, arcname="cifar-100-python")
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = cifar100(root=str(root), download=True)
    assert (len(data.train), len(data.test), data.num_classes) == (50_000, 10_000, 100)
    assert data.train.labels[:4].tolist() == [99, 7, 42, 0]
    assert data.class_names[42] == "fine_42"
    assert torch.equal(data.test.images[:3], torch.from_numpy(noise(3, PIXELS, seed=1).reshape(3, 3, 32, 32)))
    coarse = cifar100(root=str(root), labels="coarse")
    assert coarse.num_classes == 20
    assert coarse.train.labels[:4].tolist() == [19, 1, 8, 0]
    assert coarse.class_names[19] == "coarse_19"


def test_a_download_that_fails_is_one_clear_line(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"`download` of file:.* failed: .* Unpack it into .* by hand") as caught:
        cifar100(root=str(tmp_path / "data"), download=True)
    assert "\n" not in str(caught.value)


def test_cifar100_in_the_official_binary_layout(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for number, (name, records) in enumerate((("train.bin", 50_000), ("test.bin", 10_000))):
        table = noise(3, 2 + PIXELS, seed=number)
        table[:, 0], table[:, 1] = [19, 1, 8], [99, 7, 42]
        table.tofile(folder / name)
        with (folder / name).open("r+b") as file:  # the rest of the records are zeros
            file.truncate(records * (2 + PIXELS))
    for key, names in cifar100_names().items():
        (folder / f"{key.decode()}.txt").write_bytes(b"\n".join([*names, b""]))
    (folder / "coarse_label_names.txt").unlink()
    for labels, first, name in (("fine", [99, 7, 42, 0], "fine_99"), ("coarse", [19, 1, 8, 0], "19")):
        data = cifar100(root=str(tmp_path), labels=labels)
        assert (len(data.train), len(data.test)) == (50_000, 10_000)
        assert data.train.labels[:4].tolist() == data.test.labels[:4].tolist() == first
        assert data.class_names[-1] == name
        planes = torch.from_numpy(noise(3, 2 + PIXELS, seed=1)[:, 2:].reshape(3, 3, 32, 32))
        assert torch.equal(data.test.images[:3], planes)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


@pytest.mark.parametrize("payload", [Bomb(), {b"data": Bomb()}, {b"labels": np.array([Bomb()], dtype=object)}])
def test_no_code_runs_from_the_python_layout(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError, match="must be a pickled dict of arrays; it names pathlib"):
        read_python(tmp_path / "data_batch_1", records=1, key="labels")
    assert not (tmp_path / "touched-by-a-pickle").exists()


def test_folder_takes_classes_from_names_and_brings_images_to_one_size(tmp_path):
    write_folder(tmp_path, {"train": {"cat": 3, "ant": 2}, "test": {"ant": 1}})
    data = image_folder(root=str(tmp_path), size=8)
    assert data.class_names == ("ant", "cat")
    assert data.image_shape == (3, 8, 8)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0]


def test_folder_leaves_images_of_the_size_as_they_are(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1}, "test": {"a": 1}}, size=(8, 8))
    data = image_folder(root=str(tmp_path), size=8)
    assert torch.equal(data.train.images[0], torch.from_numpy(noise(8, 8, 3).transpose(2, 0, 1).copy()))


@pytest.mark.parametrize(
    "train_images",
    [
        noise(6, 8, 8, 3),
        noise(6, 8, 8, 3).transpose(0, 3, 1, 2),
        noise(6, 8, 8, 3) / 255.0,
        (noise(6, 8, 8, 3) / 255.0).astype(np.float32),
    ],
)
def test_arrays_of_every_layout_are_the_same_data(tmp_path, train_images):
    write_npz(tmp_path / "plain.npz")
    write_npz(tmp_path / "other.npz", train_images=train_images)
    plain, other = arrays(path=str(tmp_path / "plain.npz")), arrays(path=str(tmp_path / "other.npz"))
    assert plain.content_hash == other.content_hash
    assert plain.class_names == ("0", "1", "2")


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 8, 8, 1), (6, 1, 8, 8)])
def test_grey_arrays_get_three_equal_channels(tmp_path, shape):
    write_npz(tmp_path / "a.npz", train_images=noise(*shape), class_names=np.array(["x", "y", "z"]))
    data = arrays(path=str(tmp_path / "a.npz"))
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert data.class_names == ("x", "y", "z")


def test_hash_follows_content():
    first = image_data(noise(2, 3, 4, 4), [0, 1], noise(1, 3, 4, 4), [0], class_names=("a", "b"))
    labels = image_data(noise(2, 3, 4, 4), [1, 0], noise(1, 3, 4, 4), [0], class_names=("a", "b"))
    pixels = image_data(noise(2, 3, 4, 4, seed=1), [0, 1], noise(1, 3, 4, 4), [0], class_names=("a", "b"))
    assert len({first.content_hash, labels.content_hash, pixels.content_hash}) == 3


def npz(**changes):
    def make(folder: Path) -> ImageData:
        write_npz(folder / "a.npz", **changes)
        return arrays(path=str(folder / "a.npz"))

    return make


def folder(splits, *, junk: str | None = None):
    def make(root: Path) -> ImageData:
        write_folder(root, splits)
        if junk:
            (root / junk).write_bytes(b"no image")
        return image_folder(root=str(root), size=8)

    return make


def cifar(kind, name, size):
    def make(root: Path) -> ImageData:
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(bytes(size))
        return kind(root=str(root))

    return make


def wrong_label(root: Path):
    write_binary(root / "x.bin", 2, label=10)
    return read_binary(root / "x.bin", records=2)


def python_batch(content):
    def make(root: Path):
        (root / "x").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return read_python(root / "x", records=2, key="labels")

    return make


def written(name: str, content: bytes):
    def make(root: Path):
        (root / name).write_bytes(content)
        return arrays(path=str(root / name))

    return make


def single_array(root: Path):
    np.save(root / "a.npy", noise(2))
    return arrays(path=str(root / "a.npy"))


TWO = {"data": noise(2, PIXELS)}
BOTH = {"train": {"a": 2}, "test": {"a": 1}}
BAD = {
    "cifar nowhere": (
        lambda root: cifar10(root=str(root)),
        "must hold cifar-10-batches-bin/ or cifar-10-batches-py/; found neither.*download = true",
    ),
    "cifar100 nowhere": (lambda root: cifar100(root=str(root)), "must hold cifar-100-binary/ or cifar-100-python/"),
    "cifar truncated": (
        cifar(cifar10, "cifar-10-batches-bin/data_batch_1.bin", 1000),
        r'data_batch_1.bin" must have 30,730,000 bytes \(10,000 records\); found 1,000',
    ),
    "cifar file missing": (
        cifar(cifar10, "cifar-10-batches-bin/data_batch_2.bin", 10),
        'data_batch_1.bin" must be there, 30,730,000 bytes; found no such file',
    ),
    "cifar100 truncated": (cifar(cifar100, "cifar-100-binary/train.bin", 7), "must have 153,700,000 bytes.*found 7"),
    "cifar wrong label": (wrong_label, "must hold labels 0–9; found 10 in record 0"),
    "cifar python missing": (
        cifar(cifar10, "cifar-10-batches-py/batches.meta", 1),
        'data_batch_1" must be there, a batch of the python layout',
    ),
    "cifar python truncated": (python_batch(pickle.dumps(TWO)[:100]), "must be a pickled dict of arrays; "),
    "cifar python not a dict": (python_batch([1, 2]), "found list"),
    "cifar python without pixels": (python_batch({"labels": [0, 1]}), "must hold `data`, uint8 .*found NoneType"),
    "cifar python few labels": (
        python_batch({**TWO, "labels": [0]}),
        "must hold `labels`, a list of 2 labels; found 1",
    ),
    "cifar python wrong label": (python_batch({**TWO, "labels": [0, -1]}), "found -1 in record 1"),
    "folder nowhere": (lambda root: image_folder(root=str(root / "x"), size=8), "must hold train/<class>/<images>"),
    "folder without test": (folder({"train": {"a": 1}}), "found no test/"),
    "folder without classes": (
        lambda root: ((root / "train").mkdir(), image_folder(root=str(root), size=8)),
        "must hold a subfolder for each class; found none",
    ),
    "folder with an empty class": (folder({**BOTH, "train": {"a": 1, "b": 0}}), "must hold images .*found none"),
    "folder with a foreign class": (folder({**BOTH, "test": {"b": 1}}), 'must hold classes of train/ only; found "b"'),
    "folder with an empty test": (folder({**BOTH, "test": {"a": 0}}), "must hold images; found none"),
    "folder with junk": (folder(BOTH, junk="train/a/x.png"), 'x.png" must be an image; '),
    "npz nowhere": (lambda root: arrays(path=str(root / "a.npz")), "must be an .npz file; found no file"),
    "npz damaged": (written("a.npz", b"PK\x03\x04 and no more"), "must be an .npz file of plain arrays; "),
    "npz is text": (written("a.npz", b"hello"), "must be an .npz file of plain arrays; "),
    "npz is one array": (single_array, "it holds a single array"),
    "npz with objects": (npz(train_labels=np.array([Path("a")] * 6, dtype=object)), "must be an .npz file of plain"),
    "npz without labels": (npz(test_labels=None), "`test_labels` is missing, found train_images"),
    "npz of other type": (npz(train_images=noise(6, 8, 8, 3).astype(int)), "must be uint8 or floats.*found int64"),
    "npz out of range": (npz(train_images=noise(6, 8, 8, 3) / 2.0), r"must be in \[0, 1\]; found 0 to 127.5"),
    "npz not a number": (npz(train_images=np.full((6, 8, 8, 3), np.nan)), r"must be in \[0, 1\]; found nan"),
    "npz of two channels": (npz(train_images=noise(6, 8, 8, 2)), "must have 1 or 3 channels on axis 1 or on axis 3"),
    "npz ambiguous": (npz(train_images=noise(6, 3, 8, 3)), r"and not on both\); found shape \(6, 3, 8, 3\)"),
    "npz of vectors": (npz(train_images=noise(6, 192)), r"must have 3 or 4 axes; found shape \(6, 192\)"),
    "npz empty": (npz(test_images=noise(0, 8, 8, 3), test_labels=np.zeros(0, int)), "must hold at least one image"),
    "npz few labels": (npz(train_labels=np.zeros(5, int)), r"must be 6 integers.*found int64 of shape \(5,\)"),
    "npz float labels": (npz(train_labels=np.zeros(6)), "must be 6 integers.*found float64"),
    "npz negative label": (npz(train_labels=np.full(6, -1)), "`train_labels` must be 0 or more; found -1"),
    "npz two sizes": (npz(test_images=noise(3, 9, 9, 3)), r"must have one shape; found \(3, 8, 8\) and \(3, 9, 9\)"),
    "npz few names": (npz(class_names=np.array(["a"])), "must name each class in `class_names`; found 1 names"),
    "own data with a label too high": (
        lambda _: image_data(noise(1, 3, 4, 4), [1], noise(1, 3, 4, 4), [0], class_names=["a"]),
        r"`train` labels must be in 0–0 \(one a class\); found 1",
    ),
    "own data of floats": (
        lambda _: image_data(noise(1, 3, 4, 4) / 255.0, [0], noise(1, 3, 4, 4), [0], class_names=["a"]),
        r"`images` must be uint8 of shape \(N, 3, H, W\); found torch.float64",
    ),
    "own data with few labels": (
        lambda _: Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(1).long(), torch.arange(2)),
        r"`labels` must be int64 of shape \(2,\)",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_gives_one_clear_line(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
