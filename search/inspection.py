"""`forgefront inspect CANDIDATE`: a trial's candidate or a bundle layer by layer, or a model's compressible layers."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..compression.candidate import DESCRIPTION, Candidate, load_candidate
from ..studies.errors import InputError, RunError, TargetError
from .bundle import PLAN, WEIGHTS, load_bundle, read_description, registered
from .run_folder import RunFolder
from .tables import as_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..spaces.layers import LayerInfo
    from .layer_table import Exported

__all__ = ["inspect", "layers_frame"]

STUDY = RunFolder(".").study_file.name
INPUT, CLASSES = "3x32x32", 10
KINDS = "a model, a trial's folder, a run's folder with --trial, or a bundle's"


def inspect(
    candidate: str,
    *,
    trial: int | None = None,
    size: str | None = None,
    classes: int | None = None,
    form: str = "table",
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """The table that `forgefront inspect` prints.

    Args:
        candidate: A model's name, or the folder of a trial, of a run or of a bundle.
        trial: Number of a trial, with a run's folder.
        size: ``CxHxW`` of a model's input; None for ``3x32x32``.
        classes: A model's number of classes; None for 10.
        form: ``"table"``, ``"csv"`` or ``"json"``.
        say: Called with what a person should know beside CSV and JSON.

    Raises:
        InputError: `candidate` is none of these, or cannot be read.
    """
    folder = _folder(candidate)
    if folder is None:
        if trial is not None:
            raise InputError(f"`--trial` must come with the folder of a run; found {candidate!r}.")
        return _model(candidate, INPUT if size is None else size, CLASSES if classes is None else classes, form)
    for option, found in {"--input": size, "--classes": classes}.items():
        if found is not None:
            raise InputError(f"`{option}` must come with the name of a model; found {folder}, which states its own.")
    return _described(_given(folder, trial), form, say)


def layers_frame(model: str, input_shape: tuple[int, int, int], classes: int) -> pd.DataFrame:
    """One row a layer, in forward order: name, kind, shapes, parameters, MACs of one image, stage, residual coupling.

    Args:
        model: Name in the registry, ``torchvision:<name>`` or ``module:attribute``.
        input_shape: (C, H, W).
        classes: Number of classes that the model is built for.

    Raises:
        InputError: The name is unknown, or the model is not a CNN for such images.
    """
    from ..spaces.layers import inspect_layers

    layers = inspect_layers(_build(model, classes), input_shape)
    rows = [
        {
            "layer": layer.name.removeprefix("network."),
            "kind": layer.kind,
            "weight": "x".join(map(str, layer.weight_shape)),
            "output": "x".join(map(str, layer.output_shape)),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "stage": layer.stage,
            "coupled": (layer.coupled or "").removeprefix("network."),
            "prunable_filters": layer.prunable_filters,
        }
        for layer in layers
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Inspected:
    """A candidate on the CPU, with what its table needs besides."""

    title: str
    candidate: Candidate
    layers: Sequence[LayerInfo]
    example: Tensor
    threads: int


def _folder(candidate: str) -> Path | None:
    """The folder that is meant, None for the name of a model."""
    from ..studies.registry import REGISTRY

    path = Path(candidate)
    if candidate in REGISTRY["model"]:
        return None
    if path.is_dir():
        return path
    if path.exists() or ("/" in candidate and ":" not in candidate):
        found = f"the file {path}" if path.exists() else f"{path}, which does not exist"
        raise InputError(f"`CANDIDATE` must be {KINDS}; found {found}.")
    return None


def _given(folder: Path, number: int | None) -> _Inspected:
    # a relative path such as "." would hide the folders above it
    folder = folder.absolute()
    if (folder / STUDY).is_file():
        trials = _with_candidate(folder)
        if number is None or number not in trials:
            found = "none" if number is None else number
            allowed = ", ".join(map(str, trials)) or "none yet"
            raise RunError(f"`--trial` must be a trial of {folder} with a candidate ({allowed}); found {found}.")
        return _trial(folder, number)
    if number is not None:
        raise InputError(f"`--trial` must come with the folder of a run; found {folder}, which has no {STUDY}.")
    if (folder / DESCRIPTION).is_file():
        run = folder.parent.parent
        if not (run / STUDY).is_file() or not folder.name.isdigit():
            raise RunError(f"`CANDIDATE` must lie in its run, whose {STUDY} says what it was; found {folder} alone.")
        return _trial(run, int(folder.name))
    if (folder / PLAN).is_file():
        return _bundle(folder)
    raise InputError(f"`CANDIDATE` must be {KINDS}; found {folder}, which holds none of them.")


def _with_candidate(run: Path) -> list[int]:
    places = RunFolder(run).trials.glob(f"*/{DESCRIPTION}")
    return sorted(int(place.parent.name) for place in places if place.parent.name.isdigit())


def _trial(run: Path, number: int) -> _Inspected:
    from ..studies.load import load_study
    from .trial import TrialContext

    study = load_study(RunFolder.open(run).study_file)
    # whatever it was trained on, a table can be made here
    on_cpu = study.training.model_copy(update={"device": "cpu"})
    context = TrialContext(run, 1, study.model_copy(update={"training": on_cpu}))
    task, result = context.task, context.folder.result(number) or {}
    candidate = load_candidate(context.folder.trial(number), task.build_model, task.example)
    state = "" if result.get("state") == "complete" else f", which failed: {result.get('reason') or 'no reason stored'}"
    title = f"trial {number} of {study.study.name}{state}"
    return _Inspected(title, candidate, context.layers, task.example, _threads(study.target))


def _threads(targets: Sequence[Any]) -> int:
    """Threads of the study's own target on this runtime."""
    own = [target.options for target in targets if target.name == "onnxruntime-cpu"]
    return int(own[0].get("threads", 1)) if own else 1


def _bundle(folder: Path) -> _Inspected:
    import torch

    from ..compression.packing import is_packed, read_packed
    from ..spaces.layers import inspect_layers

    description = read_description(folder)
    made_of = description.architecture
    if not registered(made_of.name):
        raise RunError(
            f"`CANDIDATE` must be a bundle of one of Forgefront's models; found one of {made_of.name!r}. "
            "Inspect its trial instead."
        )
    # what its weights once started from is not fetched again
    options = {key: value for key, value in made_of.options.items() if key != "pretrained"}
    build = functools.partial(_build, made_of.name, made_of.classes, options, made_of.mean, made_of.std)
    model = load_bundle(folder, build=build)
    weights = folder / WEIGHTS
    parts: dict[str, Any] = {}
    if is_packed(weights):
        unpacked = read_packed(weights)
        parts = {"codes": unpacked.codes, "codebooks": unpacked.codebooks}
    candidate = Candidate(model, model, description.plan, removed=description.removed, **parts)
    layers = inspect_layers(build(), made_of.input_shape)
    return _Inspected(f"bundle {folder}", candidate, layers, torch.zeros(1, *made_of.input_shape), 1)


def _build(
    model: str,
    classes: int,
    options: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    from ..studies.registry import resolve
    from ..trainers.models.base import build_classifier

    part: Any = resolve("model", model)
    return build_classifier(part, classes, options=options or {}, mean=mean, std=std)


def _model(model: str, size: str, classes: int, form: str) -> str:
    shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size.strip())
    if shape is None or min(int(side) for side in shape.groups()) < 1:
        raise InputError(f"`--input` must be CxHxW such as 3x32x32; found {size!r}.")
    channels, height, width = (int(side) for side in shape.groups())
    frame = layers_frame(model, (channels, height, width), classes)
    if form != "table":
        return as_data(frame, form)
    total = f"{len(frame)} layers, {frame['parameters'].sum():,} parameters, {frame['macs'].sum() / 1e6:.2f} M MACs"
    shown = frame.assign(macs=frame["macs"].map("{:,}".format), parameters=frame["parameters"].map("{:,}".format))
    return f"{shown.to_string(index=False)}\n{total}"


def _described(found: _Inspected, form: str, say: Callable[[str], None]) -> str:
    from ..compression.packing import packed_sizes
    from .layer_table import candidate_frame, render_candidate

    export = _exported(found)
    sizes = packed_sizes(found.candidate)
    frame = candidate_frame(found.candidate, found.layers, sizes, export)
    if form == "table":
        return render_candidate(frame, found.candidate, sizes, found.title, export)
    if export.fault:
        say(export.fault)
    return as_data(frame, form)


def _exported(found: _Inspected) -> Exported:
    """The candidate in ONNX Runtime, exported and measured now; or why that cannot be."""
    from ..compression.targets.layer_times import layer_times
    from ..compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
    from ..compression.targets.size import zipped_layer_bytes
    from .layer_table import Exported

    target = OnnxRuntimeCPU(threads=found.threads)
    zipped: int | None = None
    layers: dict[str, int] | None = None
    try:
        target.check_available()
        with tempfile.TemporaryDirectory(prefix="forgefront-") as folder:
            artefact = target.export(found.candidate, Path(folder), found.example)
            zipped, layers = artefact.zipped_bytes, zipped_layer_bytes(artefact.path)
            seconds = layer_times(artefact, threads=found.threads)
    except TargetError as error:
        reason = " ".join(str(error).split())
        return Exported(zipped, layers, fault=f"no latencies: not measurable in {target.name} here: {reason}")
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    return Exported(zipped, layers, seconds, f"{target.name}, {threads}")
