"""What an audit for masked gradients found, where people see it: tables, data, pick, fronts of several runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import analytic
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from forgefront.search.events import TrialFinished
from forgefront.search.pick import pick
from forgefront.search.score_columns import audit_columns, audit_text, score_columns
from forgefront.search.tables import render, trials_frame
from forgefront.spaces.techniques import TECHNIQUES

SOUND = {"masking_gap": 0.0, "failed_checks": 0, "checks": 8, "verdict": "sound", "failed": []}
MASKED = {"masking_gap": 0.3, "failed_checks": 2, "checks": 8, "verdict": "masked", "failed": ["transfer", "square"]}
OBJECTIVES = {"pgd_accuracy": "maximize", "macs": "minimize"}


def trial(value: float, macs: float, details: dict[str, Any] | None, *, role: str = "search", **params) -> FrozenTrial:
    score = {"value": value, "standard_error": 0.01, "details": details or {}}
    scores = {"pgd_accuracy": score, "macs": {"value": macs}}
    attributes = {"role": role, "seconds": 3.0, "scores": scores}
    spaces = {name: CategoricalDistribution(list(TECHNIQUES)) for name in params}
    return create_trial(values=[value, macs], user_attrs=attributes, params=params, distributions=spaces)


def frame_of(*trials: FrozenTrial) -> pd.DataFrame:
    for number, one in enumerate(trials):
        one.number = number
    return trials_frame(trials, range(len(trials)))


def front_of(*details: dict[str, Any] | None) -> pd.DataFrame:
    """The control, then trials that trade accuracy under attack for operations."""
    trials = [trial(0.4, 100.0, SOUND, role="control")]
    trials += [trial(0.5 - 0.05 * place, 50.0 - 10.0 * place, one) for place, one in enumerate(details)]
    return frame_of(*trials)


@pytest.mark.parametrize(
    ("details", "text"),
    [
        (SOUND, "sound"),
        (MASKED, "masked: 2 of 8 checks"),
        ({**MASKED, "checks": [{"name": str(number)} for number in range(9)]}, "masked: 2 of 9 checks"),
        ({**MASKED, "failed_checks": 1}, "masked: 1 of 8 checks"),
        ({"verdict": "masked", "failed_checks": 1}, "masked: 1 check"),
        ({"verdict": "masked", "failed_checks": 3}, "masked: 3 checks"),
        ({"verdict": "masked"}, "masked"),
        ({"verdict": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_verdict_in_a_few_words(details: dict[str, Any] | None, text: str | None) -> None:
    assert audit_text({"accuracy": {"value": 1.0}, "pgd_accuracy": {"value": 0.1, "details": details}}) == text


def test_of_several_audits_a_masked_one_is_reported() -> None:
    scores = {"linf": {"value": 0.1, "details": SOUND}, "l2": {"value": 0.1, "details": MASKED}}
    assert audit_text(scores) == "masked: 2 of 8 checks"


def test_numbers_and_words_of_a_score_have_their_columns() -> None:
    score = {"value": 0.5, "standard_error": 0.01, "details": MASKED}
    assert score_columns("pgd_accuracy", score) == {
        "pgd_accuracy": 0.5,
        "pgd_accuracy_se": 0.01,
        "pgd_accuracy_masking_gap": 0.3,
        "pgd_accuracy_failed_checks": 2,
        "pgd_accuracy_checks": 8,
    }
    assert audit_columns("pgd_accuracy", score) == {
        "pgd_accuracy_verdict": "masked",
        "pgd_accuracy_failed": "transfer, square",
    }


def test_the_table_has_a_column_and_data_have_the_verdict_and_what_failed() -> None:
    failed = create_trial(state=TrialState.FAIL, user_attrs={"role": "search", "reason": "the loss became nan"})
    frame = frame_of(trial(0.4, 9.0, SOUND, role="control"), trial(0.5, 5.0, MASKED), trial(0.3, 4.0, None), failed)
    head, *rows = render(frame, list(OBJECTIVES), "table").splitlines()
    assert "audit" in head.split()
    assert ["sound" in row for row in rows] == [True, False, False, False]
    assert ["masked: 2 of 8 checks" in row for row in rows] == [False, True, False, False]
    records = json.loads(render(frame, list(OBJECTIVES), "json"))
    assert [row["pgd_accuracy_verdict"] for row in records] == ["sound", "masked", None, None]
    assert [row["audit"] for row in records] == ["sound", "masked: 2 of 8 checks", None, None]
    assert records[1]["pgd_accuracy_failed"] == "transfer, square"
    assert "pgd_accuracy_verdict" in render(frame, list(OBJECTIVES), "csv").splitlines()[0].split(",")


def test_without_an_audit_nothing_is_shown() -> None:
    frame = frame_of(trial(0.5, 5.0, None), trial(0.4, 4.0, {"masking_gap": 0.1}))
    assert "audit" not in render(frame, list(OBJECTIVES), "table")
    assert not [name for name in frame if name == "audit" or name.endswith("_verdict")]


def test_a_table_of_techniques_has_the_verdict_and_keeps_its_width() -> None:
    names = list(TECHNIQUES)[:6]
    pairs = zip(names, [SOUND, MASKED] * 3, strict=True)
    frame = frame_of(*(trial(0.5, 5.0, details, technique=name) for name, details in pairs))
    text = render(frame, list(OBJECTIVES), "table")
    assert max(map(len, text.splitlines())) <= 120
    assert [line.split()[-1] for line in text.splitlines()] == ["audit", *(["sound", "masked"] * 3)]


def test_pick_says_that_its_choice_is_sound() -> None:
    choice = pick(front_of(SOUND, SOUND), OBJECTIVES, prefer="pgd_accuracy=1")
    assert choice.reasons[-1] == "robustness audit: sound"
    assert choice.alternatives[0].endswith("; audit: sound")


def test_pick_warns_of_a_masked_choice_and_shows_the_way_out() -> None:
    front = front_of(MASKED, SOUND, {**MASKED, "failed": []})
    choice = pick(front, OBJECTIVES, prefer="pgd_accuracy=1")
    assert choice.number == 1
    warning, way_out = choice.reasons[-2:]
    assert warning == (
        "warning: the audit found masked: 2 of 8 checks (transfer, square); its pgd_accuracy 0.5 is no evidence of "
        "robustness"
    )
    assert way_out == "1 of those considered are sound: add --where 'pgd_accuracy_failed_checks <= 0'"
    assert [line.partition("audit: ")[2] for line in choice.alternatives] == ["sound", "masked: 2 of 8 checks"]
    sound = pick(front, OBJECTIVES, prefer="pgd_accuracy=1", where=["pgd_accuracy_failed_checks <= 0"])
    assert sound.number == 2
    assert sound.reasons[-1] == "robustness audit: sound"


def test_pick_says_when_nothing_is_sound_and_nothing_when_nothing_was_audited() -> None:
    choice = pick(front_of(MASKED, MASKED), OBJECTIVES, prefer="pgd_accuracy=1")
    assert choice.reasons[-1] == "no trial considered has a sound audit"
    assert "audit" not in " ".join(pick(frame_of(trial(0.5, 5.0, None), trial(0.4, 4.0, None)), OBJECTIVES).reasons)
    mixed = pick(frame_of(trial(0.5, 5.0, None), trial(0.4, 4.0, MASKED)), OBJECTIVES, prefer="pgd_accuracy=1")
    assert "audit" not in " ".join(mixed.reasons)
    assert mixed.alternatives[0].endswith("; audit: masked: 2 of 8 checks")


@dataclass(frozen=True)
class Audited:
    value: float
    details: dict[str, Any]


def test_whoever_watches_is_told(tmp_path) -> None:
    def derive(raw: dict, control: dict) -> dict[str, object]:
        scores = analytic.derive(raw, control)
        return {**scores, "accuracy": Audited(scores["accuracy"].value, SOUND if raw == control else MASKED)}

    events: list[object] = []
    analytic.coordinator(tmp_path / "run", trials=2, derive=derive).run(events.append)
    told = [event.audit for event in events if isinstance(event, TrialFinished)]
    assert told == ["sound", "masked: 2 of 8 checks"]
