"""The index of the house: for each kind of part, its names and where each one lives, resolved when first used."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from .errors import InputError, StudyFileError
from .faults import Fault, nearest
from .messages import faults_of

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "FAMILIES",
    "REGISTRY",
    "bind",
    "names",
    "options_model",
    "resolve",
    "source_digest",
    "validate_options",
]

CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The fifteen published corruptions by group."""
EXTRA_CORRUPTIONS = {
    "noise": ("speckle_noise",),
    "blur": ("gaussian_blur",),
    "weather": ("spatter",),
    "digital": ("saturate",),
}
"""The four that are published for tuning, so that the fifteen stay unseen."""

REGISTRY: dict[str, dict[str, str]] = {
    "task": {"classification": "forgefront.trainers.tasks.classification:ClassificationTask"},
    "data": {
        "digits": "forgefront.trainers.data.digits:digits",
        "cifar10": "forgefront.trainers.data.cifar:cifar10",
        "cifar100": "forgefront.trainers.data.cifar:cifar100",
        "image-folder": "forgefront.trainers.data.folder:image_folder",
        "arrays": "forgefront.trainers.data.arrays:arrays",
    },
    "model": {
        "digits-cnn": "forgefront.trainers.models.digits_cnn:digits_cnn",
        "resnet20": "forgefront.trainers.models.cifar_resnet:resnet20",
        "resnet32": "forgefront.trainers.models.cifar_resnet:resnet32",
        "resnet56": "forgefront.trainers.models.cifar_resnet:resnet56",
        "resnet18-cifar": "forgefront.trainers.models.small_images:resnet18_cifar",
        "resnet50-cifar": "forgefront.trainers.models.small_images:resnet50_cifar",
        "vgg19-cifar": "forgefront.trainers.models.small_images:vgg19_cifar",
        "mobilenetv2-cifar": "forgefront.trainers.models.small_images:mobilenetv2_cifar",
    },
    "attack": {
        "n-fgsm": "forgefront.trainers.attacks.single_step:NFGSM",
        "fgsm-rs": "forgefront.trainers.attacks.single_step:FGSMRS",
        "pgd-at": "forgefront.trainers.attacks.multi_step:PGDAT",
        "trades": "forgefront.trainers.attacks.multi_step:TRADES",
        "fgsm": "forgefront.trainers.attacks.single_step:TrainingFGSM",
    },
    "evaluation_attack": {
        "fgsm": "forgefront.trainers.attacks.pgd:FGSM",
        "pgd": "forgefront.trainers.attacks.pgd:PGD",
        "apgd": "forgefront.trainers.attacks.apgd:APGD",
        "square": "forgefront.trainers.attacks.square:Square",
        "autoattack": "forgefront.trainers.attacks.autoattack:AutoAttack",
    },
    "augmentation": {
        "naturalistic": "forgefront.trainers.augmentations.naturalistic:naturalistic_augmentation",
        "augmix": "forgefront.trainers.augmentations.augmix:augmix",
    },
    "class_weighting": {
        "none": "forgefront.trainers.class_balance:none",
        "inverse": "forgefront.trainers.class_balance:inverse",
        "inverse-capped": "forgefront.trainers.class_balance:inverse_capped",
        "effective-number": "forgefront.trainers.class_balance:effective_number",
        "repeat-factor": "forgefront.trainers.class_balance:repeat_factor",
    },
    "corruption": {
        name: f"forgefront.objectives.corruptions.{family}:{name}"
        for families in (CORRUPTIONS, EXTRA_CORRUPTIONS)
        for family, members in families.items()
        for name in members
    },
    "objective": {
        "accuracy": "forgefront.objectives.accuracy:Accuracy",
        "worst_class_accuracy": "forgefront.objectives.accuracy:WorstClassAccuracy",
        "mce": "forgefront.objectives.corruption:MeanCorruptionError",
        "relative_mce": "forgefront.objectives.corruption:RelativeMeanCorruptionError",
        "mean_corruption_error": "forgefront.objectives.corruption:MeanError",
        "worst_class_corrupted_accuracy": "forgefront.objectives.corruption:WorstClassCorruptedAccuracy",
        "pgd_accuracy": "forgefront.objectives.adversarial:PGDAccuracy",
        "compression_ratio": "forgefront.objectives.size:CompressionRatio",
        "macs": "forgefront.objectives.size:MACs",
        "latency": "forgefront.objectives.latency:Latency",
    },
    "sampler": {
        "surrogate-nsga2": "forgefront.search.samplers.surrogate_nsga2:surrogate_nsga2",
        "nsga2": "forgefront.search.samplers.nsga2:nsga2",
        "nsga3": "forgefront.search.samplers.nsga3:nsga3",
        "pymoo-nsga2": "forgefront.search.samplers.pymoo_algorithms:pymoo_nsga2",
        "pymoo-nsga3": "forgefront.search.samplers.pymoo_algorithms:pymoo_nsga3",
        "pymoo-sms": "forgefront.search.samplers.pymoo_algorithms:pymoo_sms",
        "pymoo-agemoea2": "forgefront.search.samplers.pymoo_algorithms:pymoo_agemoea2",
        "nevergrad": "forgefront.search.samplers.nevergrad:nevergrad",
        "tpe": "forgefront.search.samplers.tpe:tpe",
        "gp": "forgefront.search.samplers.gp:gp",
        "random": "forgefront.search.samplers.random:random",
    },
    "target": {
        "onnxruntime-cpu": "forgefront.compression.targets.onnxruntime_cpu:OnnxRuntimeCPU",
        "torch-cuda": "forgefront.compression.targets.torch_cuda:TorchCUDA",
    },
    "engine": {
        "serial": "forgefront.search.engines.serial:SerialEngine",
        "processes": "forgefront.search.engines.processes:ProcessEngine",
        "ray": "forgefront.search.engines.ray:RayEngine",
    },
}

FAMILIES: dict[str, dict[str, tuple[str, str]]] = {
    "model": {
        "torchvision": (
            "forgefront.trainers.models.torchvision_models:build",
            "forgefront.trainers.models.torchvision_models:torchvision_names",
        ),
    },
}
"""Names of the form ``family:member``: the part, which gets the member's name first, and what lists the members."""


def names(kind: str) -> list[str]:
    """The names of one kind of part, in the order of the registry."""
    return list(_of_kind(kind))


def resolve(kind: str, name: str, *, where: str | None = None) -> Callable[..., Any]:
    """The part called `name`: a callable whose keyword-only parameters are its options.

    Args:
        kind: A key of `REGISTRY`.
        name: A registered name, ``family:member``, or the user's own ``module:attribute``, looked up in the current
            directory too.
        where: Key that holds the name, for the messages; `kind` when None.

    Raises:
        InputError: There is no such name, or what it names cannot be imported.
    """
    registered = _of_kind(kind)
    where = where or kind
    if name in registered:
        return _import(where, registered[name])
    module, colon, attribute = name.partition(":")
    families = FAMILIES.get(kind, {})
    if colon and module in families:
        build, members = (_import(where, path) for path in families[module])
        if attribute not in members():
            match = nearest(attribute, members())
            suggestion = f'"{module}:{match}"' if match else None
            raise InputError(Fault((where,), f"{module}: and one of its names", name, suggestion).line(None))
        return functools.partial(build, attribute)
    if not (colon and module and attribute):
        raise InputError(_unknown(kind, name, where).line(None))
    here = os.getcwd()
    # last, so that a user's file never shadows an installed module
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    return _import(where, name)


def source_digest(kind: str, name: str) -> str:
    """Digest of the file that a user's own part is in; empty for a registered one, and where there is no such file."""
    if name in _of_kind(kind):
        return ""
    try:
        file = inspect.getsourcefile(inspect.unwrap(resolve(kind, name)))
        return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def options_model(part: Callable[..., Any]) -> type[BaseModel]:
    """The options of `part`, as a pydantic model made from its keyword-only parameters.

    Fields bear the parameters' names as aliases, for a parameter may be called like a method of pydantic's.
    """
    function = part.func if isinstance(part, functools.partial) else part
    initializer: Any = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
    if not inspect.isclass(function) and not hasattr(initializer, "__globals__"):
        initializer = type(function).__call__
    namespace = getattr(inspect.unwrap(initializer), "__globals__", {})
    fields: dict[str, Any] = {}
    extra = "forbid"
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = eval(annotation, dict(namespace))
        annotation = Any if annotation is parameter.empty else annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"option_{len(fields)}"] = (annotation, Field(default, alias=name))
    config = ConfigDict(strict=True, extra=extra, allow_inf_nan=False, arbitrary_types_allowed=True)  # type: ignore[typeddict-item]
    return create_model("Options", __config__=config, **fields)


def validate_options(
    kind: str, name: str, raw: Mapping[str, Any], where: str = "", *, file: str | None = None, known: Sequence[str] = ()
) -> dict[str, Any]:
    """Check the options given to a part and fill in its defaults.

    Args:
        kind: A key of `REGISTRY`.
        name: The part's name.
        raw: Options as the study file gives them.
        where: Key of the section that holds them, such as ``objectives[1]``, for the messages.
        file: Name of the study file, for the messages.
        known: Keys of the section itself, offered as nearest matches beside the options.

    Returns:
        Keyword arguments for the part.

    Raises:
        StudyFileError: One line for each option that is unknown, missing or out of range.
        InputError: There is no such part.
    """
    model = options_model(resolve(kind, name))
    try:
        # as JSON: strict about types, yet a list may stand for a tuple and text for a path
        checked = model.model_validate_json(json.dumps(dict(raw), default=str))
    except ValidationError as error:
        found = faults_of(error, dict(raw), model, known=known)
        lines = [Fault((where, *fault.key) if where else fault.key, *_rest(fault)).line(file) for fault in found]
        raise StudyFileError(lines) from None
    return _keywords(checked)


def bind(kind: str, name: str, options: Mapping[str, Any], where: str = "") -> Callable[..., Any]:
    """The part called `name` with its checked options filled in; call it with what the house gives by position."""
    return functools.partial(resolve(kind, name), **validate_options(kind, name, options, where))


def _keywords(checked: BaseModel) -> dict[str, Any]:
    fields = type(checked).model_fields
    keywords = {field.alias or name: getattr(checked, name) for name, field in fields.items()}
    return {**keywords, **(checked.__pydantic_extra__ or {})}


def _rest(fault: Fault) -> tuple[str, Any, str | None]:
    return fault.allowed, fault.found, fault.suggestion


def _of_kind(kind: str) -> dict[str, str]:
    if kind not in REGISTRY:
        raise ValueError(f"`kind` must be {' or '.join(REGISTRY)}; found {kind!r}.")
    return REGISTRY[kind]


def _unknown(kind: str, name: str, where: str) -> Fault:
    known = names(kind)
    families = [f"{family}:<name>" for family in FAMILIES.get(kind, {})]
    allowed = f"one of {', '.join([*known, *families])} or your own module:attribute"
    match = nearest(name, known)
    return Fault((where,), allowed, name, f'"{match}"' if match else None)


def _import(where: str, path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    try:
        part: Any = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f'`{where}` must be importable; found "{path}" ({reason}).') from error
    for step in attribute.split("."):
        if not hasattr(part, step):
            match = nearest(step, [name for name in vars(part) if not name.startswith("_")])
            hint = f' Did you mean "{module}:{match}"?' if match else ""
            raise InputError(f'`{where}` must be an attribute of {module}; found "{path}".{hint}')
        part = getattr(part, step)
    if not callable(part):
        raise InputError(f'`{where}` must be a function or class; found "{path}", {type(part).__name__}.')
    return part
