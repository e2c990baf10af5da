"""TensorBoard: scalars of each trial's training and scores, HParams for the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .events import TrialFinished

__all__ = ["trial_folder", "write_finished", "write_trial"]


def trial_folder(folder: Path, number: int) -> Path:
    """Where the logs of one trial are."""
    return folder / f"trial-{number:04d}"


def write_finished(folder: Path, event: TrialFinished) -> None:
    """Write a trial that was just told, if it is complete; see `write_trial`."""
    if event.state == "complete":
        write_trial(
            folder,
            event.number,
            history=event.history,
            scores=event.values,
            params=event.params,
            role=event.role,
        )


def write_trial(
    folder: Path,
    number: int,
    *,
    history: Sequence[Mapping[str, Any]],
    scores: Mapping[str, float],
    params: Mapping[str, Any],
    role: str,
) -> None:
    """Write one finished trial to its folder in `folder`: its epochs, its scores and its hyper-parameters.

    Args:
        history: One mapping an epoch; every finite number in it becomes a scalar ``train/<key>``.
        scores: Value per objective or metric, shown as ``score/<name>`` and as HParams metrics.
        params: The flat params, as HParams.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    with SummaryWriter(str(trial_folder(folder, number))) as writer:
        for epoch, row in enumerate(history):
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    writer.add_scalar(f"train/{key}", value, epoch)
        for name, value in scores.items():
            writer.add_scalar(f"score/{name}", value, number)
        metrics = {f"score/{name}": value for name, value in scores.items()}
        for summary in hparams({"role": role, **params}, metrics):
            writer.file_writer.add_summary(summary)
