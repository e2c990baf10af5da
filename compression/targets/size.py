"""What an artefact weighs: its bytes, and its bytes inside a zip archive (Castro et al. measure the latter)."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

__all__ = ["file_bytes", "zipped_bytes", "zipped_layer_bytes"]


def file_bytes(path: Path) -> int:
    """Size of the file in bytes."""
    return path.stat().st_size


def zipped_bytes(path: Path) -> int:
    """Size in bytes of a zip archive (DEFLATE as zip tools do it by default) that holds only this file.

    Name and time inside the archive are fixed, so the same content always gives the same number.
    """
    entry = zipfile.ZipInfo("model", date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as archived:
        archived.writestr(entry, path.read_bytes())
    return archive.tell()


def zipped_layer_bytes(path: Path) -> dict[str, int]:
    """What each layer's numbers take in a zip archive of an ONNX file, in bytes, by layer name.

    Each tensor is deflated by itself, as DEFLATE hardly looks from one into the next; a tensor that several layers
    read counts for the first. What belongs to no layer, the graph's structure included, is not among them.

    Args:
        path: An ONNX file whose nodes are named ``<layer>/<operator>``.
    """
    import onnx

    graph = onnx.load(path).graph
    # a layer's weight may be an expression of several tensors: codes and scale, or indices and their table
    tensors = {tensor.name: {tensor.name} for tensor in graph.initializer}
    deflated = {tensor.name: _deflated(tensor.raw_data) for tensor in graph.initializer}
    sizes: dict[str, int] = {}
    for node in graph.node:
        constant = all(name in tensors for name in node.input if name)
        read = set().union(*(tensors.get(name, set()) for name in node.input))
        if constant:
            tensors |= dict.fromkeys(node.output, read)
            continue
        layer, slash, _ = node.name.rpartition("/")
        if slash:
            sizes[layer] = sizes.get(layer, 0) + sum(deflated.pop(name, 0) for name in sorted(read))
    return sizes


def _deflated(content: bytes) -> int:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return len(compressor.compress(content)) + len(compressor.flush())
