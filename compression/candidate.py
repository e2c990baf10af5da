"""`Candidate`: the baked, trained model with its plan, its integer codes and what was achieved; to disk and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..spaces.plan import TrialPlan
from ..studies.errors import RunError
from .insertion import insert_activation_quantizers
from .layer_codes import LayerCodes
from .packing import Unpacked, read_packed, write_packed
from .quantizers import activation_quantizers
from .removal import Removed, remove_channels

__all__ = ["Candidate", "LayerCodes", "load_candidate", "rebuild", "save_candidate"]

VERSION = 2
PACKED, LATENT, DESCRIPTION = "packed.safetensors", "latent.safetensors", "candidate.json"
PLAIN_VERSION, PLAIN = 1, "weights.safetensors"


@dataclass(frozen=True)
class Candidate:
    """What a trial scores and what a target exports.

    Args:
        model: In eval mode: plain weights, channels removed, activation quantizers frozen (straight-through gradients).
        latent: In eval mode: the same structure with the float, masked weights before clusters and bits, and no
            quantizers; for transfer attacks.
        plan: What was planned.
        codes: Integer weights by layer name, for layers of at most 8 bits.
        codebooks: For clustered layers the distinct weights that `model` uses, ascending: (values,), or (out, values)
            when clustered by channel (short rows repeat their last value).
        removed: (convolution, its output channels, counted in the full network) in the order of removal.
        achieved: JSON values; "layers" by name, "totals" and "deviations" from the plan.
    """

    model: nn.Module
    latent: nn.Module
    plan: TrialPlan
    codes: Mapping[str, LayerCodes] = field(default_factory=dict)
    codebooks: Mapping[str, Tensor] = field(default_factory=dict)
    removed: Removed = field(default_factory=list)
    achieved: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Candidate:
        """This candidate with both models moved to `device` (in place); codes and codebooks stay where they are."""
        self.model.to(device)
        self.latent.to(device)
        return self


def save_candidate(candidate: Candidate, folder: Path) -> None:
    """Write packed.safetensors, latent.safetensors and candidate.json into `folder` (made if absent).

    The packed file is the candidate's stored size (see `packing`); the latent weights serve attacks alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_packed(candidate, folder / PACKED)
    save_file(_own(candidate.latent.state_dict()), folder / LATENT)
    description = {
        "version": VERSION,
        "plan": candidate.plan.to_dict(),
        "removed": [[name, indices] for name, indices in candidate.removed],
        "achieved": candidate.achieved,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_candidate(folder: Path, build: Callable[[], nn.Module], example: Tensor) -> Candidate:
    """The candidate that `save_candidate` wrote, of this version or the one before; its outputs are equal bit for bit.

    Args:
        folder: Where it was written.
        build: Makes a fresh model of the same architecture.
        example: (1, C, H, W), one input; only its shape matters.

    Raises:
        RunError: A file is missing, damaged or of another version, or does not fit the architecture.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = description["version"]
        if version not in (PLAIN_VERSION, VERSION):
            raise RunError(
                f"`version` of {folder / DESCRIPTION} must be {PLAIN_VERSION} or {VERSION}; found {version!r}."
            )
        plan = TrialPlan.from_dict(description["plan"])
        removed = [(str(name), [int(index) for index in indices]) for name, indices in description["removed"]]
        achieved = description["achieved"]
        bits = description["bits"] if version == PLAIN_VERSION else {}
    except OSError as error:
        raise _missing(folder, error) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / DESCRIPTION} must describe a candidate; found it damaged ({error!r}).") from None
    try:
        stored = _read_plain(folder, bits) if version == PLAIN_VERSION else read_packed(folder / PACKED)
        latent_state = load_file(folder / LATENT)
    except OSError as error:
        raise _missing(folder, error) from None
    except (AttributeError, KeyError, SafetensorError, TypeError, ValueError) as error:
        raise RunError(f"{folder} must hold an intact candidate; found a damaged one ({error}).") from None
    return Candidate(
        model=rebuild(build, plan, removed, stored.state, example, source=folder),
        latent=rebuild(build, TrialPlan(), removed, latent_state, example, source=folder),
        plan=plan,
        codes=stored.codes,
        codebooks=stored.codebooks,
        removed=removed,
        achieved=achieved,
    )


def _missing(folder: Path, error: OSError) -> RunError:
    return RunError(f"`folder` must hold a candidate; found {folder} without {Path(error.filename or '').name}.")


def _read_plain(folder: Path, bits: Mapping[str, int]) -> Unpacked:
    """What version 1 wrote: every tensor as it is."""
    tensors = load_file(folder / PLAIN)
    codes, scales = _section(tensors, "codes"), _section(tensors, "scale")
    return Unpacked(
        state=_section(tensors, "model"),
        codes={name: LayerCodes(codes[name], scales[name], number) for name, number in bits.items()},
        codebooks=_section(tensors, "codebook"),
    )


def rebuild(
    build: Callable[[], nn.Module],
    plan: TrialPlan,
    removed: Iterable[tuple[str, Sequence[int]]],
    state: Mapping[str, Tensor],
    example: Tensor,
    *,
    source: Path,
) -> nn.Module:
    """The baked model, on the CPU in eval mode, from what determines it; a plan without bits gives a float model.

    Args:
        build: Makes a fresh model of the same architecture.
        plan: Says where activation quantizers sit.
        removed: Channels to take out; see `Candidate`.
        state: The baked model's `state_dict`.
        example: (1, C, H, W), one input; only its shape matters.
        source: Where the state was read from, for messages.

    Raises:
        RunError: The state does not fit the architecture.
    """
    # a caller may well be in inference mode, in which channel dependencies cannot be traced
    with torch.inference_mode(False), torch.enable_grad():
        model, example = build().cpu().eval(), torch.zeros(example.shape, dtype=example.dtype)
        try:
            remove_channels(model, removed, example)
            model = insert_activation_quantizers(model, plan, example)
            # tensors read from a file are not aligned as fresh ones are, and some kernels round by alignment
            model.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
        except (AttributeError, IndexError, RuntimeError) as error:
            lines = " ".join(line.strip() for line in str(error).splitlines()[:3])
            raise RunError(
                f"`build` must make the architecture that {source} was saved from; found: {lines}"
            ) from error
        for quantizer in activation_quantizers(model.modules()):
            quantizer.freeze()
        return model.eval()


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
