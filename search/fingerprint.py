"""What a run's results depend on: stored when it begins, compared when it is resumed."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..objectives import MEASUREMENTS
from ..studies.errors import StudyMismatchError
from ..version import __version__

if TYPE_CHECKING:
    from ..studies.schema import Study

__all__ = ["compare", "fingerprint"]

PACKAGES = ("torch", "torchvision", "torch-pruning", "numpy", "optuna", "onnx", "onnxruntime")
# how long, where and by whom a run is worked on does not change what a trial yields, nor does the place of data,
# checkpoint and what objectives read, whose contents are hashed
FREE = (
    "study.study.description",
    "study.search.trials",
    "study.search.timeout",
    "study.search.workers",
    "study.search.engine",
    "study.search.engine_options",
    "study.search.device_hours",
    "study.search.stagnation",
    "study.search.trial_timeout",
    "study.task.data.root",
    "study.task.data.path",
    "study.task.data.download",
    "study.task.model.weights",
    "study.objectives.archive",
    "study.objectives.frost",
    "study.metrics.archive",
    "study.metrics.frost",
)
# these may change the last bits of a result, not its meaning
WARNED = ("environment", "study.training.threads")
MEASURED = "environment.measurements"
# keys that came later, with what runs did before there was such a key; audits came too, and change no score
ADDED: dict[str, Any] = {
    "study.search.repeats": 1,
    "study.space.clusters_gradient": "mean",
    "study.space.clusters_per": "layer",
    "study.space.lloyd_iterations": 10,
    "study.space.scales": "range",
    "study.space.sparsity.cost": "operations",
    "study.space.sparsity.mask": ["magnitude"],
    "study.space.sparsity.scope": "layer",
    "study.space.sparsity.structure_per": "network",
    "study.training.augmentation": "naturalistic",
    "study.training.consistency": 0.0,
    "study.training.weight_averaging": 0.0,
    **{
        f"study.{measured}.{key}": value
        for measured in ("objectives", "metrics")
        for key, value in {
            "audit": True,
            "audit_images": 100,
            "baseline": "control",
            "norm": "linf",
            "of": "zipped",
        }.items()
    },
    MEASURED: 1,
}
MASK = "study.space.sparsity.mask"
# read by learned masks alone
LEARNING = "study.training.masks"


def fingerprint(study: Study, inputs: Mapping[str, Any], *, threads: int, device: str = "cpu") -> dict[str, Any]:
    """The fingerprint as JSON values.

    Args:
        study: The study, every default resolved.
        inputs: What task and objectives state of data, checkpoint and other files: hashes and sizes.
        threads: CPU threads of one trial.
        device: The device that trials run on, as resolved here.
    """
    versions: dict[str, str | None] = {"forgefront": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    environment = {"versions": versions, "threads": threads, "device": device, "measurements": MEASUREMENTS}
    whole = {
        "study": study.model_dump(mode="json", by_alias=True, exclude={"storage"}),
        "inputs": dict(inputs),
        "environment": environment,
    }
    result: dict[str, Any] = json.loads(json.dumps(whole, default=str))
    return result


def compare(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Check that a run may go on.

    Returns:
        One line for each thing that changed and may move results slightly: versions, threads, device; and one where
        objectives have come to measure something else.

    Raises:
        StudyMismatchError: The study, data or checkpoint changed; the message lists every key, old and new.
    """
    refused: list[str] = []
    warned: list[str] = []
    before, after = dict(_leaves(stored)), dict(_leaves(current))
    learned = any("learned" in (side.get(MASK) or ()) for side in (before, after))
    free = FREE if learned else (*FREE, LEARNING)
    for key in sorted(before.keys() | after.keys()):
        old, new = before[key] if key in before else ADDED.get(_unnumbered(key)), after.get(key)
        if old == new or _under(key, free):
            continue
        line = f"{key.removeprefix('study.')}: {_shown(old)} -> {_shown(new)}"
        if key == MEASURED:
            line += " (objectives measure otherwise: scores of new trials are not comparable with the earlier ones)"
        (warned if _under(key, WARNED) else refused).append(line)
    if refused:
        raise StudyMismatchError(
            f"`study` must be what this run began with, or the run needs another name; found {'; '.join(refused)}."
        )
    return warned


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}[{index}]")
    else:
        yield key, value


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    key = _unnumbered(key)
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _unnumbered(key: str) -> str:
    return re.sub(r"\[\d+\]", "", key)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
