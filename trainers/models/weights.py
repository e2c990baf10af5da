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
from .base import ImageClassifier, Normalize

__all__ = ["load_weights", "read_state_dict"]

_NESTS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "network.")
_NORMALIZATION = "normalize."

# stored statistics may have been rounded to half precision
_TOLERANCE = 1e-3


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the checkpoint at `path` into `model`, into ``.network`` when it is an `ImageClassifier`.

    A checkpoint may hold its tensors under ``state_dict`` or ``model`` and may prefix every name with ``module.``;
    ``num_batches_tracked`` may be absent. The normalisation that a whole classifier stores must be the model's own; a
    bare network has none, and takes what belongs to a network.

    Raises:
        ModelError: The file is missing, damaged, holds pickled code, does not fit the model, or was trained behind
            another normalisation; one line.
    """
    network = model.network if isinstance(model, ImageClassifier) else model
    stored, normalization = _split(_read_tensors(path))
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
    if isinstance(model, ImageClassifier) and normalization:
        _check_normalization(model.normalize, normalization, path)
    network.load_state_dict(stored, strict=False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The network's named tensors in a checkpoint, unnested and without the prefixes that wrappers add.

    Nothing is executed. The normalisation that a whole classifier stores beside its network is left out.

    Raises:
        ModelError: The file is missing, damaged, or holds anything but tensors.
    """
    return _split(_read_tensors(path))[0]


def _read_tensors(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"`weights` must be a file; found none at {path}.")
    return _unnested(_read(path), path)


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


def _split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors under their own names, and those of the normalisation that a classifier stores beside."""
    normalization: dict[str, Tensor] = {}
    for _ in range(len(_PREFIXES)):  # wrappers nest, for example module._orig_mod.network.
        for prefix in _PREFIXES:
            beside = {key: value for key, value in tensors.items() if key.startswith(_NORMALIZATION)}
            inner = {key: value for key, value in tensors.items() if key not in beside}
            if inner and all(key.startswith(prefix) for key in inner):
                tensors = {key.removeprefix(prefix): value for key, value in inner.items()}
                normalization |= {key.removeprefix(_NORMALIZATION): value for key, value in beside.items()}
    return tensors, normalization


def _check_normalization(own: nn.Module, stored: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that were trained behind other channel statistics: they would load, and be less accurate."""
    trained = {name: stored[name].flatten().tolist() for name in ("mean", "std") if name in stored}
    has = {name: getattr(own, name).flatten().tolist() for name in trained} if isinstance(own, Normalize) else {}
    if all(_close(values, has.get(name)) for name, values in trained.items()):
        return
    found = ", ".join(f"{name} {_numbers(values)}" for name, values in has.items()) or "none"
    options = " and ".join(f"`task.model.{name} = {_numbers(values)}`" for name, values in trained.items())
    raise ModelError(
        f"`weights` {path} must meet the normalisation they were trained with; found {found}. Set {options}."
    )


def _close(values: list[float], others: list[float] | None) -> bool:
    return others is not None and torch.allclose(torch.tensor(values), torch.tensor(others), rtol=0.0, atol=_TOLERANCE)


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


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
