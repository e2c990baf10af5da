"""A candidate's stored size: every weight in its smallest exact form, the rest as it is, in one safetensors file.

The file holds three byte tensors: ``weights`` (one record a weight, see `packed_layers`), ``rest`` (all other values:
biases, batch norms, ranges) and ``index`` (names, types, shapes and lengths; deflated JSON), and states their CRC.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from ..studies.errors import RunError
from .byte_records import DTYPES, Reader, checked_shape, deflate, inflate, tensor_bytes
from .clustering import distinct_values
from .layer_codes import LayerCodes
from .packed_layers import CODES, FORMS, PackedWeight, pack_codes, pack_weight, unpack_codes, unpack_weight

__all__ = [
    "LayerSize",
    "PackedSizes",
    "Unpacked",
    "is_packed",
    "pack",
    "packed_sizes",
    "read_packed",
    "unpack",
    "write_packed",
]

VERSION = 1
METADATA = "forgefront_packed"
PARTS = ("index", "weights", "rest")
LONGEST_INDEX = 2**26


class Packable(Protocol):
    """What is packed of a candidate; see `Candidate`."""

    @property
    def model(self) -> nn.Module:
        """Baked."""

    @property
    def codes(self) -> Mapping[str, LayerCodes]:
        """Integer weights by layer name."""

    @property
    def codebooks(self) -> Mapping[str, Tensor]:
        """Distinct weights of clustered layers."""


@dataclass(frozen=True)
class LayerSize:
    """What one layer's weight takes.

    Args:
        packed_bytes: Its record: coded symbols, their histogram, scales or codebook.
        shannon_bytes: n · H / 8 of its symbols (codes, codebook indices, or the map of zeros), with the weights that
            are stored as floats; no histogram, scales or codebook. No code of single symbols takes less.
        form: One of `packed_layers.FORMS`.
    """

    packed_bytes: int
    shannon_bytes: float
    form: str


@dataclass(frozen=True)
class PackedSizes:
    """What a candidate takes when packed.

    Args:
        total_bytes: The whole file.
        shannon_bytes: The sum over layers.
        metadata_bytes: Everything outside the layers' records: names, shapes, header, and all other values.
        layers: By layer name.
        raw_bytes: Numbers kept as they are, beside the weights: scales, codebooks, biases, batch norms, ranges.
    """

    total_bytes: int
    shannon_bytes: float
    metadata_bytes: int
    layers: Mapping[str, LayerSize]
    raw_bytes: int

    def __str__(self) -> str:
        width = max([len(name) for name in (*self.layers, "everything else")])
        rows = [f"{'layer':{width}}  {'form':19}  {'bytes':>11}  {'Shannon':>11}"]
        for name, layer in self.layers.items():
            rows.append(f"{name:{width}}  {layer.form:19}  {layer.packed_bytes:11,}  {layer.shannon_bytes:11,.0f}")
        rows.append(f"{'everything else':{width}}  {'':19}  {self.metadata_bytes:11,}")
        rows.append(f"{'total':{width}}  {'':19}  {self.total_bytes:11,}  {self.shannon_bytes:11,.0f}")
        return "\n".join(rows)


@dataclass(frozen=True)
class Unpacked:
    """What a packed file holds: the model's `state_dict`, codes and codebooks, as `Candidate` has them."""

    state: dict[str, Tensor]
    codes: dict[str, LayerCodes]
    codebooks: dict[str, Tensor]


def pack(candidate: Packable) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The candidate's model, codes and codebooks as byte tensors and the metadata of their file.

    Args:
        candidate: On any device. Its plan, latent weights and report are no part of the file.

    Returns:
        uint8 tensors, (bytes,), named as in `PARTS`; and one entry of metadata, JSON with version and CRC-32.
    """
    packed = _packed(candidate)
    return packed.tensors, packed.metadata


def packed_sizes(candidate: Packable) -> PackedSizes:
    """What `write_packed` of this candidate takes, by layer and in total."""
    packed = _packed(candidate)
    total = len(save(packed.tensors, packed.metadata))
    in_layers = sum(layer.packed_bytes for layer in packed.layers.values())
    shannon = sum(layer.shannon_bytes for layer in packed.layers.values())
    return PackedSizes(total, shannon, total - in_layers, packed.layers, packed.raw_bytes)


def write_packed(candidate: Packable, path: Path) -> None:
    """Write the candidate's packed file, from which `read_packed` gives the same bits.

    Args:
        candidate: As for `pack`.
        path: The safetensors file, in a folder that exists; one that is there is replaced.

    Raises:
        SafetensorError: It cannot be written.
    """
    tensors, metadata = pack(candidate)
    save_file(tensors, path, metadata)


def read_packed(path: Path) -> Unpacked:
    """What the packed file at `path` holds.

    Raises:
        OSError: It cannot be read.
        RunError: It is damaged, or no packed file.
    """
    with path.open("rb"):
        pass
    try:
        with safe_open(path, framework="pt") as file:
            # not each file has metadata, and not each the same tensors
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RunError(f"{path} must be an intact packed file; found it damaged ({error}).") from None
    return unpack(tensors, metadata, source=path)


def is_packed(path: Path) -> bool:
    """Whether a safetensors file says that it is packed; False for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, source: Path) -> Unpacked:
    """What `pack` was given, bit for bit.

    Args:
        tensors: Its tensors.
        metadata: Its metadata.
        source: Where they were read from, for messages.

    Raises:
        RunError: They are damaged, not packed, or of another version.
    """
    try:
        version = json.loads(metadata[METADATA])["version"]
        if version != VERSION:
            raise RunError(f"`version` of {source} must be {VERSION}; found {version!r}.")
        parts = [tensor_bytes(tensors[name]) for name in PARTS]
        if json.loads(metadata[METADATA])["crc32"] != _checksum(parts):
            raise ValueError("its checksum is another")
        return _unpacked(*parts)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{source} must be an intact packed file; found it damaged ({found}).") from None


@dataclass(frozen=True)
class _Packed:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    layers: dict[str, LayerSize]
    raw_bytes: int


def _packed(candidate: Packable) -> _Packed:
    state = {name: value.detach().cpu() for name, value in candidate.model.state_dict().items()}
    records = list(_records(candidate, state))
    in_records = {name for name, _, _, given in records if given}
    others = {name: value for name, value in state.items() if name not in in_records}
    codebooks, rest = [], b"".join(map(tensor_bytes, others.values()))
    for name, values in candidate.codebooks.items():
        per = _rule(values.cpu(), state.get(f"{name}.weight"))
        codebooks.append([name, per, DTYPES.index(values.dtype), list(values.shape)])
        rest += b"" if per else tensor_bytes(values)
    index = {
        "weights": [
            [name, FORMS.index(own.form), int(given), DTYPES.index(value.dtype), list(value.shape), len(own.data)]
            for name, value, own, given in records
        ],
        "rest": [[name, DTYPES.index(value.dtype), list(value.shape)] for name, value in others.items()],
        "codebooks": codebooks,
    }
    text = json.dumps(index, separators=(",", ":")).encode()
    parts = [deflate(text), b"".join(packed.data for _, _, packed, _ in records), min(rest, deflate(rest), key=len)]
    stated = json.dumps({"version": VERSION, "crc32": _checksum(parts)})
    layers: dict[str, LayerSize] = {}
    for name, _, packed, _ in records:
        layer = name.removesuffix(".weight")
        own = layers.get(layer, LayerSize(0, 0.0, packed.form))
        layers[layer] = LayerSize(
            own.packed_bytes + len(packed.data), own.shannon_bytes + packed.shannon_bytes, packed.form
        )
    return _Packed(
        tensors={name: _as_tensor(part) for name, part in zip(PARTS, parts, strict=True)},
        metadata={METADATA: stated},
        layers=layers,
        raw_bytes=len(rest) + sum(packed.raw_bytes for _, _, packed, _ in records),
    )


def _records(candidate: Packable, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, PackedWeight, bool]]:
    """(name, tensor, its record, whether the record gives the weight) for each weight and for all codes."""
    parameters = {name for name, _ in candidate.model.named_parameters(remove_duplicate=False)}
    for name, value in state.items():
        if name not in parameters or value.dim() < 2 or not value.is_floating_point():
            continue
        codes = candidate.codes.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        reproduced = codes is not None and _equal(codes.weight().cpu(), value)
        if codes is not None:
            yield name, codes.codes.cpu(), pack_codes(codes), reproduced
        if not reproduced:
            yield name, value, pack_weight(value), True


def _unpacked(index_part: bytes, weights_part: bytes, rest_part: bytes) -> Unpacked:
    index = json.loads(inflate(index_part, LONGEST_INDEX))
    state: dict[str, Tensor] = {}
    codes: dict[str, LayerCodes] = {}
    reader = Reader(weights_part)
    for name, form, is_weight, dtype, shape, length in index["weights"]:
        data = reader.take(length)
        if FORMS[form] != CODES:
            state[name] = unpack_weight(FORMS[form], data, DTYPES[dtype], shape)
            continue
        layer = unpack_codes(data, shape)
        codes[name.removesuffix(".weight")] = layer
        if is_weight:
            state[name] = layer.weight()
    reader.finish()
    return Unpacked(state, codes, _read_rest(index, rest_part, state))


def _read_rest(index: Mapping[str, Any], part: bytes, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add all other values to `state`; the codebooks."""
    raw = [entry[1:] for entry in index["rest"]] + [entry[2:] for entry in index["codebooks"] if not entry[1]]
    size = sum(DTYPES[dtype].itemsize * prod(checked_shape(shape)) for dtype, shape in raw)
    reader = Reader(part if len(part) == size else inflate(part, size))
    for name, dtype, shape in index["rest"]:
        state[name] = reader.tensor(DTYPES[dtype], shape)
    codebooks = {}
    for name, per, dtype, shape in index["codebooks"]:
        derived = distinct_values(state[f"{name}.weight"], per) if per else reader.tensor(DTYPES[dtype], shape)
        codebooks[name] = derived
    reader.finish()
    return codebooks


def _rule(codebook: Tensor, weight: Tensor | None) -> str:
    """How the codebook follows from the weight: by ``"layer"``, by ``"channel"``, or not at all."""
    if weight is None or not weight.numel() or weight.dtype not in (torch.float32, torch.float64, torch.float16):
        return ""
    rules: tuple[Literal["layer", "channel"], ...] = ("layer", "channel")
    for per in rules:
        if _equal(distinct_values(weight, per), codebook):
            return per
    return ""


def _equal(first: Tensor, second: Tensor) -> bool:
    """Bit for bit."""
    same = first.dtype == second.dtype and first.shape == second.shape
    return same and tensor_bytes(first) == tensor_bytes(second)


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _checksum(parts: list[bytes]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
