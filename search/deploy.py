"""Deploy one trial: write its bundle, run it in its runtime on test images, refuse it if it disagrees with torch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from optuna.trial import FrozenTrial

from ..compression.candidate import Candidate
from ..compression.packing import PackedSizes, packed_sizes, write_packed
from ..compression.targets.base import Artefact, simulate
from ..compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from ..compression.targets.parity import Parity, check_parity
from ..studies.errors import InputError, ParityError
from ..trainers.tasks.base import to_float
from ..version import __version__
from .bundle import WEIGHTS, Architecture, BundleDescription, load_bundle, registered, write_description
from .card import write_card
from .trial import TrialContext

if TYPE_CHECKING:
    from .run import Run

__all__ = ["TEST_IMAGES", "deploy"]

TEST_IMAGES = 1000


@dataclass(frozen=True)
class _Checked:
    """What the exported file did on test images of the official test split."""

    indices: list[int]
    accuracy: float
    torch_accuracy: float
    parity: Parity


def deploy(run: Run, number: int, out: Path) -> list[str]:
    """Write the bundle of trial `number` into the folder `out`.

    The bundle appears whole or not at all: it is written beside `out` and renamed once every check has passed.

    Returns:
        Lines for a person: what was written, what it reached.

    Raises:
        InputError: `out` exists and is not empty, or cannot be written.
        RunError: There is no such complete trial.
        ParityError: The exported file, or the reloaded bundle, disagrees with the candidate; nothing is left behind.
    """
    trial = run.complete(number)
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"`--out` must be a new or an empty folder; found {out}.")
    context = TrialContext(run.folder.path, 1, run.study)
    # nothing is scored any more
    context.agree(run.fingerprint, split=None)
    candidate = context.candidate(number).to("cpu")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"`--out` must be a folder that can be written; found {out} ({error.strerror}).") from None
    try:
        artefact, packed, checked = _write(run, trial, context, candidate, staging)
        staging.chmod(0o755)
        for file in staging.iterdir():
            file.chmod(0o644)
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return [
        f"trial {number}: {artefact.bytes:,} bytes of ONNX ({artefact.zipped_bytes:,} zipped), "
        f"{packed.total_bytes:,} bytes packed",
        f"ONNX Runtime on {len(checked.indices)} test images: accuracy {checked.accuracy:.2%}, "
        f"torch {checked.torch_accuracy:.2%}, {checked.parity.agreement:.2%} equal predictions, "
        f"{checked.parity.snr_db:.1f} dB",
        "deployed: model.onnx, model.safetensors, plan.json, metrics.json, card.md",
    ]


def _write(
    run: Run, trial: FrozenTrial, context: TrialContext, candidate: Candidate, folder: Path
) -> tuple[Artefact, PackedSizes, _Checked]:
    # the study's own, with its gates, if it has one
    own = [target for target in context.targets if isinstance(target, OnnxRuntimeCPU)]
    target = own[0] if own else OnnxRuntimeCPU()
    artefact = target.export(candidate, folder, context.task.example.cpu())
    write_packed(candidate, folder / WEIGHTS)
    architecture = Architecture(**context.task.architecture())
    description = BundleDescription(candidate.plan, architecture, candidate.removed, context.task.class_names)
    write_description(description, folder)
    checked = _check(context, candidate, target, artefact, folder)
    packed = packed_sizes(candidate)
    metrics = _metrics(run, trial, artefact, packed, checked)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    write_card(run, trial, candidate, description, metrics, folder)
    return artefact, packed, checked


def _check(
    context: TrialContext, candidate: Candidate, target: OnnxRuntimeCPU, artefact: Artefact, folder: Path
) -> _Checked:
    task = context.task
    test = task.evaluation("test", TEST_IMAGES)
    images = to_float(test.images).cpu().numpy()
    simulated, exported = simulate(candidate, images), target.run(artefact, images)
    gates = {"minimum_snr_db": target.minimum_snr_db, "minimum_agreement": target.minimum_agreement}
    parity = check_parity(simulated, exported, predictions=task.predictions, **gates)
    reloaded = load_bundle(folder, build=None if registered(context.study.task.model.name) else task.build_model)
    with torch.inference_mode():
        again = np.concatenate([reloaded(torch.from_numpy(part)).numpy() for part in np.array_split(images, 8)])
    if not np.allclose(again, simulated, rtol=1e-4, atol=1e-4):
        worst = float(np.abs(again - simulated).max())
        raise ParityError(f"the reloaded bundle must give the candidate's outputs; found a difference of {worst:.3g}.")

    def accuracy(outputs: np.ndarray) -> float:
        return float(task.correct(torch.from_numpy(outputs).to(task.device), test.targets).float().mean())

    return _Checked(test.indices.tolist(), accuracy(exported), accuracy(simulated), parity)


def _metrics(
    run: Run, trial: FrozenTrial, artefact: Artefact, packed: PackedSizes, checked: _Checked
) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "forgefront": __version__,
        "study": run.study.study.name,
        "trial": trial.number,
        "test": {
            "runtime": "onnxruntime",
            "accuracy": checked.accuracy,
            "accuracy_in_torch": checked.torch_accuracy,
            "images": len(checked.indices),
            "split": "test",
            "indices": checked.indices,
        },
        "validation": attributes.get("scores", {}),
        "parity": checked.parity.to_dict(),
        "onnx_bytes": artefact.bytes,
        "onnx_zipped_bytes": artefact.zipped_bytes,
        "packed_bytes": packed.total_bytes,
        "shannon_bytes": round(packed.shannon_bytes),
        "achieved": attributes.get("achieved", {}),
    }
