"""Packed candidates: every tensor back bit for bit, sizes near the entropy bound, damage told in one line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate, LayerCodes, load_candidate, save_candidate
from forgefront.compression.packed_layers import pack_codes, pack_weight, unpack_codes, unpack_weight
from forgefront.compression.packing import (
    METADATA,
    PARTS,
    Unpacked,
    is_packed,
    pack,
    packed_sizes,
    read_packed,
    unpack,
    write_packed,
)
from forgefront.spaces.plan import Clustering, Pruning, Quantization, TrialPlan
from forgefront.studies.errors import RunError
from forgefront.studies.seeds import Seed

HERE = Path("packed.safetensors")
PRUNING = {"dense": None, "weights": Pruning(0.8), "filters": Pruning(0.4, "filter"), "2:4": Pruning(0.5, "2:4")}
CLUSTERING = {"unclustered": None, "by layer": Clustering(16), "by channel": Clustering(4, per="channel")}
COMBINATIONS = [
    *itertools.product(("dense", "weights"), CLUSTERING, (None, *range(1, 9))),
    *itertools.product(("filters", "2:4"), CLUSTERING, (None, 4)),
]
EIGHTY_SIXTEEN_FOUR = {
    "pruning": Pruning(0.8),
    "clustering": Clustering(16),
    "quantization": Quantization("post", 4, 8),
}


_made: dict[str, Candidate] = {}


@pytest.fixture
def candidate(case, uniform_plan) -> Callable[..., Candidate]:
    """Attached, finalized and baked without training: a model's name and what is done to every layer."""

    def made(name: str, **compression) -> Candidate:
        key = f"{name} {sorted((part, plan) for part, plan in compression.items() if plan is not None)}"
        if key not in _made:
            subject = case(name)
            plan = uniform_plan(subject.layers, **compression)
            attached = attach(subject.model(), plan, subject.layers, subject.images(1), seed=Seed(0))
            attached.finalize([subject.images(4)])
            _made[key] = bake(attached, subject.build, subject.layers, subject.images(1))
        return _made[key]

    return made


def bits_of(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and bits_of(first) == bits_of(second)


def assert_same(unpacked: Unpacked, candidate: Candidate) -> None:
    state = candidate.model.state_dict()
    assert unpacked.state.keys() == state.keys()
    assert unpacked.codes.keys() == candidate.codes.keys()
    assert unpacked.codebooks.keys() == candidate.codebooks.keys()
    assert all(same(unpacked.state[name], value) for name, value in state.items())
    for name, layer in candidate.codes.items():
        back = unpacked.codes[name]
        assert same(back.codes, layer.codes)
        assert same(back.scale, layer.scale)
        assert back.bits == layer.bits
    assert all(same(unpacked.codebooks[name], values) for name, values in candidate.codebooks.items())


@pytest.mark.parametrize(("pruning", "clustering", "bits"), COMBINATIONS)
def test_every_tensor_comes_back_bit_for_bit(candidate, pruning, clustering, bits) -> None:
    quantization = None if bits is None else Quantization("post", bits, 8)
    compression = {"pruning": PRUNING[pruning], "clustering": CLUSTERING[clustering], "quantization": quantization}
    packed = candidate("digits_cnn", **compression)
    assert_same(unpack(*pack(packed), source=HERE), packed)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("clustering", CLUSTERING.values(), ids=CLUSTERING.keys())
@pytest.mark.parametrize("pruning", [None, Pruning(0.8)], ids=["dense", "weights"])
def test_resnet20_comes_back_from_its_file(case, candidate, pruning, clustering, bits, tmp_path: Path) -> None:
    quantization = None if bits is None else Quantization("post", bits, 8)
    packed = candidate("resnet20", pruning=pruning, clustering=clustering, quantization=quantization)
    write_packed(packed, tmp_path / HERE)
    assert_same(read_packed(tmp_path / HERE), packed)
    sizes = packed_sizes(packed)
    assert sizes.total_bytes == (tmp_path / HERE).stat().st_size
    assert sizes.total_bytes == sizes.metadata_bytes + sum(layer.packed_bytes for layer in sizes.layers.values())
    assert sizes.shannon_bytes == pytest.approx(sum(layer.shannon_bytes for layer in sizes.layers.values()))
    assert sizes.layers.keys() == {layer.name for layer in case("resnet20").layers}


def test_sixteen_clusters_of_four_bits_and_eighty_percent_zeros_pack_to_the_bound(
    case, candidate, tmp_path: Path
) -> None:
    """At most a tenth above n · H of each layer's codes and the numbers that stand beside them."""
    subject = case("resnet20")
    packed = candidate("resnet20", **EIGHTY_SIXTEEN_FOUR)
    sizes, bound = packed_sizes(packed), 0.0
    for layer in packed.codes.values():
        _, counts = torch.unique(layer.codes, return_counts=True)
        shares = counts.double() / layer.codes.numel()
        bound -= layer.codes.numel() * float((shares * shares.log2()).sum()) / 8
    assert sizes.shannon_bytes == pytest.approx(bound)
    floats = sum(value.nbytes for name, value in packed.model.state_dict().items() if name not in weights_of(packed))
    scales = sum(layer.scale.nbytes for layer in packed.codes.values())
    assert sizes.raw_bytes == floats + scales
    assert sizes.total_bytes <= 1.10 * (bound + sizes.raw_bytes)
    assert sum(layer.packed_bytes for layer in sizes.layers.values()) <= 1.10 * bound
    assert {layer.form for layer in sizes.layers.values()} == {"codes"}
    save_candidate(packed, tmp_path)
    loaded = load_candidate(tmp_path, subject.build, subject.images(1))
    images = subject.images(3)
    assert torch.equal(loaded.model(images), packed.model(images))


def weights_of(candidate: Candidate) -> set[str]:
    return {name for name, value in candidate.model.named_parameters() if value.dim() > 1}


FORMS: list[tuple[str, dict, str]] = [
    ("dense", {}, "float"),
    ("pruned", {"pruning": Pruning(0.8)}, "sparse float"),
    ("clustered", {"clustering": Clustering(16)}, "codebook"),
    ("clustered by channel", {"clustering": Clustering(4, per="channel")}, "codebook by channel"),
    ("quantized", {"quantization": Quantization("post", 8, 8)}, "codes"),
    ("all", EIGHTY_SIXTEEN_FOUR, "codes"),
]


@pytest.mark.parametrize(("compression", "form"), [one[1:] for one in FORMS], ids=[one[0] for one in FORMS])
def test_layers_take_the_form_that_fits_and_sizes_print_as_a_table(candidate, compression, form) -> None:
    sizes = packed_sizes(candidate("digits_cnn", **compression))
    largest = max(sizes.layers, key=lambda name: sizes.layers[name].packed_bytes)
    assert sizes.layers[largest].form == form
    assert sizes.shannon_bytes <= sizes.total_bytes
    lines = str(sizes).splitlines()
    assert len(lines) == len(sizes.layers) + 3
    assert largest in str(sizes)
    assert f"{sizes.total_bytes:,}" in lines[-1]


def test_each_compressor_makes_the_file_smaller(candidate) -> None:
    parts = ("quantization", "clustering", "pruning")
    kept = [{name: EIGHTY_SIXTEEN_FOUR[name] for name in parts[:count]} for count in range(4)]
    sizes = [packed_sizes(candidate("resnet20", **compression)).total_bytes for compression in kept]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[-1] > 15


SPECIAL = {
    "zeros of both signs": torch.tensor([[0.0, -0.0, 1.5, -0.0, 0.0, 2.5, 0.0, 0.0]]).repeat(40, 9),
    "not numbers": torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e-45]]).repeat(8, 8),
    "nothing but zeros": torch.zeros(8, 3, 3, 3),
    "nothing but negative zeros": -torch.zeros(8, 3, 3, 3),
    "one value": torch.full((8, 27), 0.1),
    "no filters": torch.zeros(0, 3, 3, 3),
    "no inputs": torch.zeros(4, 0),
    "one weight": torch.ones(1, 1),
    "double": torch.randn(5, 7, dtype=torch.float64),
    "double, sparse": torch.randn(50, 7, dtype=torch.float64).relu() * torch.tensor([1.0, -0.0, 0.0, 1, 1, 0, 0]),
    "half": torch.randn(40, 40).mul(2).round().half(),
    "bfloat16": torch.randn(40, 40).mul(2).round().bfloat16(),
    "not contiguous": torch.randn(30, 40).round().t(),
    "more values than a codebook takes": torch.arange(100_000.0).reshape(100, 1000).repeat(1, 2),
}


@pytest.mark.parametrize("weight", SPECIAL.values(), ids=SPECIAL.keys())
def test_weights_of_any_kind_come_back(weight: Tensor) -> None:
    packed = pack_weight(weight)
    assert same(unpack_weight(packed.form, packed.data, weight.dtype, weight.shape), weight.contiguous())
    assert packed.shannon_bytes <= len(packed.data)
    assert len(packed.data) <= weight.nbytes


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (4, 0), (1, 1), (8, 27)])
@pytest.mark.parametrize("code", [0, -127, 127])
def test_codes_of_one_symbol_and_of_none_come_back(shape: tuple[int, ...], code: int) -> None:
    layer = LayerCodes(torch.full(shape, code, dtype=torch.int8), torch.rand(shape[0]), 8)
    back = unpack_codes(pack_codes(layer).data, shape)
    assert same(back.codes, layer.codes)
    assert same(back.scale, layer.scale)


def test_codes_that_do_not_give_the_weight_are_kept_beside_it(candidate) -> None:
    packed = candidate("digits_cnn", quantization=Quantization("post", 4, 8))
    flipped = {name: LayerCodes(torch.flip(one.codes, [0]), one.scale, one.bits) for name, one in packed.codes.items()}
    other = dataclasses.replace(packed, codes=flipped)
    assert_same(unpack(*pack(other), source=HERE), other)
    assert packed_sizes(other).total_bytes > packed_sizes(packed).total_bytes


def test_codebooks_that_do_not_follow_from_the_weight_are_kept(candidate) -> None:
    packed = candidate("digits_cnn", clustering=Clustering(4))
    other = dataclasses.replace(packed, codebooks={name: torch.randn(5) for name in packed.codebooks})
    assert_same(unpack(*pack(other), source=HERE), other)


def test_double_precision_candidates_come_back(case, uniform_plan) -> None:
    subject = case("digits_cnn")
    plan = uniform_plan(subject.layers, clustering=Clustering(4), quantization=Quantization("post", 4, 8))
    attached = attach(
        subject.model(dtype=torch.float64), plan, subject.layers, subject.images(1, dtype=torch.float64), seed=Seed(0)
    )
    attached.finalize([subject.images(4, dtype=torch.float64)])
    packed = bake(attached, subject.build, subject.layers, subject.images(1))
    assert_same(unpack(*pack(packed), source=HERE), packed)


def test_the_same_candidate_gives_the_same_file(candidate, tmp_path: Path) -> None:
    packed = candidate("digits_cnn", **EIGHTY_SIXTEEN_FOUR)
    for name in ("first", "second"):
        write_packed(packed, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert is_packed(tmp_path / "first")
    assert not is_packed(tmp_path / "none")


def flip(place: float) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        offset = int(place * (len(data) - 1))
        return data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]

    return changed


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "a header alone": lambda data: data[:200],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "text": lambda data: b"hello",
    "a header of exabytes": lambda data: b"\xff" * 7 + b"\x0f" + data[8:],
    "zeros": lambda data: bytes(len(data)),
    "another version": lambda data: data.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
    "another checksum": lambda data: data.replace(b'\\"crc32\\": ', b'\\"crc32\\":1'),
    "another format": lambda data: data.replace(b"forgefront_packed", b"forgefront_pucked"),
    "another part": lambda data: data.replace(b'"weights"', b'"waights"'),
    **{f"a bit at {place:.0%}": flip(place) for place in (0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Candidate, bytes]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10)).eval()
    codes = {"0": LayerCodes(torch.randint(-7, 8, (8, 3, 3, 3), dtype=torch.int8), torch.rand(8), 4)}
    with torch.no_grad():
        network[0].weight.copy_(codes["0"].weight())
        network[3].weight.mul_(10).round_()
    made = Candidate(network, network, TrialPlan(), codes, {"3": torch.unique(network[3].weight.detach())})
    file = tmp_path_factory.mktemp("small") / HERE
    write_packed(made, file)
    return made, file.read_bytes()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_files_are_told_in_one_line(small, damage, tmp_path: Path) -> None:
    (tmp_path / HERE).write_bytes(damage(small[1]))
    assert damage(small[1]) != small[1]
    with pytest.raises(RunError) as caught:
        read_packed(tmp_path / HERE)
    assert str(tmp_path / HERE) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changes_that_keep_the_checksum_never_raise_anything_else(small) -> None:
    """A file made to deceive: its parts are changed at random and its checksum is right."""
    made, generator = small[0], random.Random(0)
    tensors, _ = pack(made)
    for _ in range(300):
        name = generator.choice(PARTS)
        part = bytearray(tensors[name].numpy().tobytes())
        for _ in range(generator.randint(1, 3)):
            part[generator.randrange(len(part))] = generator.randrange(256)
        part = part[: generator.choice([len(part), generator.randrange(1, len(part))])]
        changed = {**tensors, name: torch.frombuffer(part, dtype=torch.uint8)}
        checksum = zlib.crc32(b"".join(changed[one].numpy().tobytes() for one in PARTS))
        try:
            unpack(changed, {METADATA: json.dumps({"version": 1, "crc32": checksum})}, source=HERE)
        except RunError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_missing_files_are_named(case, candidate, tmp_path: Path) -> None:
    subject = case("digits_cnn")
    save_candidate(candidate("digits_cnn"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"packed.safetensors", "latent.safetensors", "candidate.json"}
    (tmp_path / "packed.safetensors").unlink()
    with pytest.raises(RunError, match=r"without packed\.safetensors"):
        load_candidate(tmp_path, subject.build, subject.images(1))


def test_folders_of_version_1_are_still_read(case, candidate, tmp_path: Path) -> None:
    subject = case("digits_cnn")
    made = candidate("digits_cnn", **EIGHTY_SIXTEEN_FOUR)
    save_candidate(made, tmp_path)
    tensors = {f"model/{name}": value for name, value in made.model.state_dict().items()}
    tensors |= {f"codes/{name}": layer.codes for name, layer in made.codes.items()}
    tensors |= {f"scale/{name}": layer.scale for name, layer in made.codes.items()}
    tensors |= {f"codebook/{name}": values for name, values in made.codebooks.items()}
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "packed.safetensors").unlink()
    description = json.loads((tmp_path / "candidate.json").read_text())
    description |= {"version": 1, "bits": {name: layer.bits for name, layer in made.codes.items()}}
    (tmp_path / "candidate.json").write_text(json.dumps(description))
    loaded = load_candidate(tmp_path, subject.build, subject.images(1))
    assert_same(Unpacked(loaded.model.state_dict(), dict(loaded.codes), dict(loaded.codebooks)), made)
    stored = load_file(tmp_path / "weights.safetensors")
    save_file(
        {name: value for name, value in stored.items() if not name.startswith("scale/")},
        tmp_path / "weights.safetensors",
    )
    with pytest.raises(RunError, match="damaged"):
        load_candidate(tmp_path, subject.build, subject.images(1))
    (tmp_path / "candidate.json").write_text(json.dumps(description | {"version": 3}))
    with pytest.raises(RunError, match="must be 1 or 2; found 3"):
        load_candidate(tmp_path, subject.build, subject.images(1))
