"""A deployed bundle: what it says of itself, and how it becomes a torch module again. It never names code to run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spaces.plan import TrialPlan
from ..studies.errors import RunError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Architecture", "BundleDescription", "load_bundle", "read_description", "registered", "write_description"]

VERSION = 2
READABLE = (1, 2)
PLAN, WEIGHTS = "plan.json", "model.safetensors"


@dataclass(frozen=True)
class Architecture:
    """Which model a bundle's weights belong to.

    Args:
        name: A name of the model registry; a user's own ``module:attribute`` is recorded, but never imported from here.
        options: The model's options.
        classes: Number of classes.
        mean: Channel means of the normalisation inside the model.
        std: Channel deviations of it.
        input_shape: (C, H, W).
    """

    name: str
    options: dict[str, Any]
    classes: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class BundleDescription:
    """`plan.json`: the plan, the architecture, and which channels were removed, in order."""

    plan: TrialPlan
    architecture: Architecture
    removed: list[tuple[str, list[int]]]
    class_names: tuple[str, ...]


def write_description(description: BundleDescription, folder: Path) -> None:
    """Write `plan.json` into `folder`."""
    content = {
        "version": VERSION,
        "architecture": asdict(description.architecture),
        "class_names": list(description.class_names),
        "plan": description.plan.to_dict(),
        "removed": description.removed,
    }
    (folder / PLAN).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_description(folder: Path) -> BundleDescription:
    """Read `plan.json` of a bundle.

    Raises:
        RunError: The file is missing, damaged or of another version.
    """
    file = folder / PLAN
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] not in READABLE:
            allowed = " or ".join(map(str, READABLE))
            raise RunError(f"`version` of {file} must be {allowed}; found {content['version']!r}.")
        shape = content["architecture"].pop("input_shape")
        return BundleDescription(
            plan=TrialPlan.from_dict(content["plan"]),
            architecture=Architecture(**content["architecture"], input_shape=tuple(shape)),
            removed=[(str(name), [int(index) for index in indices]) for name, indices in content["removed"]],
            class_names=tuple(content["class_names"]),
        )
    except OSError:
        raise RunError(f"`path` must be the folder of a bundle; {file} cannot be read.") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}") from None


def load_bundle(path: str | Path, *, build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The deployed model as a torch module in eval mode: float32 images (N, C, H, W) in [0, 1] to logits.

    Args:
        path: Folder that `forgefront deploy` wrote.
        build: Makes a fresh model of the architecture, normalisation included; needed when the model was the user's
            own ``module:attribute``, because a bundle never names code to run.

    Raises:
        RunError: A file of the bundle is missing or damaged, or its model is user code and `build` is not given.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..compression.candidate import rebuild
    from ..compression.packing import is_packed, read_packed

    folder = Path(path)
    description = read_description(folder)
    example = torch.zeros(1, *description.architecture.input_shape)
    try:
        # version 1 wrote the weights as they are
        packed = is_packed(folder / WEIGHTS)
        state = read_packed(folder / WEIGHTS).state if packed else load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    maker = build or _maker(description.architecture, folder)
    return rebuild(maker, description.plan, description.removed, state, example, source=folder)


def registered(model: str) -> bool:
    """Whether a model's name is one of the house's, so that a bundle of it loads by itself."""
    from ..studies.registry import REGISTRY

    return model in REGISTRY["model"] or model.startswith("torchvision:")


def _maker(architecture: Architecture, folder: Path) -> Callable[[], nn.Module]:
    from ..studies.registry import resolve
    from ..trainers.models.base import build_classifier

    if not registered(architecture.name):
        raise RunError(f"{folder} holds a model of your own, {architecture.name!r}; pass `build`, which makes it.")
    part: Any = resolve("model", architecture.name)
    mean, std = architecture.mean, architecture.std
    # weights that the architecture once started from are not fetched again, its own are in the bundle
    options = {key: value for key, value in architecture.options.items() if key != "pretrained"}
    return lambda: build_classifier(part, architecture.classes, options=options, mean=mean, std=std)
