"""Loads a checkpoint into a model: safetensors, or a torch file that holds nothing but tensors."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...studies.errors import ModelError
from .base import ImageClassifier

__all__ = ["load_weights", "read_state_dict"]

_NESTS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "network.")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the checkpoint at `path` into `model`, into ``.network`` when it is an `ImageClassifier`.

    A checkpoint may hold its tensors under ``state_dict`` or ``model`` and may prefix every name with ``module.``;
    ``num_batches_tracked`` may be absent.

    Raises:
        ModelError: The file is missing, damaged, holds pickled code, or does not fit the model; one line.
    """
    network = model.network if isinstance(model, ImageClassifier) else model
    stored = read_state_dict(path)
    own = network.state_dict()
    missing = [key for key in own if key not in stored and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in stored if key not in own]
    differing = [key for key, value in stored.items() if key in own and own[key].shape != value.shape]
    if missing or unexpected or differing:
        faults = [
            _counted("missing", missing, ""),
            _counted("unexpected", unexpected, _nearest(unexpected, missing)),
            _counted("of another shape", differing, _shapes(differing, stored, own)),
        ]
        raise ModelError(
            f"`weights` {path} does not fit the model {type(network).__name__}: {'; '.join(filter(None, faults))}."
        )
    network.load_state_dict(stored, strict=False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, unnested and without the prefixes that wrappers add; nothing is executed.

    Raises:
        ModelError: The file is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"`weights` must be a file; found none at {path}.")
    return _without_prefixes(_unnested(_read(path), path))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"`weights` {path} must be a safetensors file; it could not be read: {error}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"`weights` {path} must hold only tensors; found pickled objects, which can run code and are never loaded. "
            "Save the model's state_dict() instead, best as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"`weights` {path} must be a checkpoint of torch or safetensors; it could not be read: {reason}"
        ) from error


def _unnested(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        nest = next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if tensors or nest is None:
            if not tensors:
                break
            return tensors
        content = content[nest]
    keys = f"a mapping with the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else None
    raise ModelError(f"`weights` {path} must hold named tensors; found {keys or type(content).__name__}.")


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(len(_PREFIXES)):  # wrappers nest, for example module._orig_mod.network.
        for prefix in _PREFIXES:
            # a whole classifier stores its normalisation beside its network
            inner = {key: value for key, value in tensors.items() if not key.startswith("normalize.")}
            if inner and all(key.startswith(prefix) for key in inner):
                tensors = {key.removeprefix(prefix): value for key, value in inner.items()}
    return tensors


def _counted(kind: str, keys: list[str], detail: str) -> str:
    if not keys:
        return ""
    more = ", …" if len(keys) > 3 and not detail else ""
    shown = detail or ", ".join(keys[:3])
    return f"{len(keys)} {kind} ({shown}{more})"


def _nearest(unexpected: list[str], missing: list[str]) -> str:
    if not unexpected or not (near := difflib.get_close_matches(unexpected[0], missing, n=1)):
        return ""
    return f"{', '.join(unexpected[:3])}{', …' if len(unexpected) > 3 else ''}, the model has {near[0]}"


def _shapes(keys: list[str], stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} is {tuple(stored[key].shape)}, needs {tuple(own[key].shape)}" for key in keys[:3])
