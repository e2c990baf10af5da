"""From a trial's outcome to the record and to whoever watches: common to a coordinator and to independent workers."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from ..studies.errors import TrialError
from .engines.base import TrialOutcome
from .events import TrialFinished
from .non_dominated import feasible
from .problem import CONTROL
from .record import StudyRecord
from .run_folder import RunFolder
from .score_columns import audit_text

__all__ = ["ControlFailedError", "check_control", "finished_event", "stored_outcome", "tell"]

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class ControlFailedError(TrialError):
    """The dense control, which every score is stated against, failed; the study cannot go on."""


def stored_outcome(folder: RunFolder, trial: FrozenTrial) -> TrialOutcome | None:
    """What a dead process finished but did not tell; None where a trial has to run."""
    result = folder.result(trial.number)
    if result is None or result.get("params") != dict(trial.params):
        return None
    return TrialOutcome(trial.number, result)


def tell(folder: RunFolder, record: StudyRecord, outcome: TrialOutcome) -> FrozenTrial:
    """Tell an outcome, whose result.json is written first where the trial could not do so itself."""
    if folder.result(outcome.number) is None:
        folder.publish(folder.attempt(outcome.number), outcome.number, outcome.result)
    trial = record.tell(outcome.number, outcome.result)
    # what a kill between the trial's last two steps has left
    folder.discard_checkpoints(outcome.number)
    return trial


def finished_event(record: StudyRecord, trial: FrozenTrial, outcome: TrialOutcome, trials: int) -> TrialFinished:
    """What those who watch hear of a trial that was told; `trials` is how many are asked for in all."""
    attributes = trial.user_attrs
    return TrialFinished(
        number=trial.number,
        role=attributes["role"],
        state=STATES[trial.state],
        params=trial.params,
        values={name: score["value"] for name, score in attributes.get("scores", {}).items()},
        feasible=feasible(trial),
        reason=attributes.get("reason"),
        seconds=attributes.get("seconds"),
        finished=record.finished,
        trials=trials,
        front=record.front,
        hypervolume=record.hypervolume,
        history=outcome.result.get("history") or (),
        audit=audit_text(attributes.get("scores", {})),
    )


def check_control(folder: RunFolder, record: StudyRecord) -> None:
    """Raise ControlFailedError when the control has failed."""
    control = record.control
    if control is not None and control.state == TrialState.FAIL:
        reason = control.user_attrs.get("reason", "no reason stored")
        where = folder.trial(CONTROL)
        raise ControlFailedError(
            f"the dense control (trial 0) failed: {reason} (see {where}); to begin anew, remove the run's folder "
            "or give the run another --name."
        )
