"""Constraints on numbers of a metric's details: how they are checked, evaluated, and said to be missing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import analytic
import optuna
import pytest

from forgefront.search.non_dominated import feasible
from forgefront.search.record import StudyRecord
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.studies.conditions import measured_by, parse_condition
from forgefront.studies.errors import StudyFileError
from forgefront.studies.load import read_study_text


@dataclass(frozen=True)
class Detailed:
    value: float
    standard_error: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def derive(raw: dict, control: dict) -> dict[str, Detailed]:
    details = dict(raw["details"])
    return {"accuracy": Detailed(raw["accuracy"], 0.01, details), "macs": Detailed(raw["macs"] / control["macs"])}


def told(tmp_path, conditions: list[str], *trials: dict[str, Any]) -> list[optuna.trial.FrozenTrial]:
    """The control and further trials, each with these details, told in order."""
    problem = analytic.problem(derive=derive, conditions=[parse_condition(text) for text in conditions])
    database = open_storage(sqlite_url(RunFolder.create(tmp_path / "run", "").database), create=True)
    record = StudyRecord(database, problem, optuna.samplers.RandomSampler(seed=0))
    for details in trials:
        number = record.ask().number
        record.tell(number, {"state": "complete", "raw": {"accuracy": 0.9, "macs": 5.0, "details": details}})
    database.engine.dispose()
    return record.study.get_trials()


def test_a_bound_on_a_detail_decides_what_is_feasible(tmp_path) -> None:
    trials = told(
        tmp_path,
        ["accuracy_masking_gap <= 0.02", "accuracy_failed_checks <= 0"],
        *({"masking_gap": gap, "failed_checks": failed} for gap, failed in ((0.0, 0), (0.01, 0), (0.05, 0), (0.0, 2))),
    )
    assert [feasible(trial) for trial in trials] == [True, True, False, False]
    assert trials[2].constraints["accuracy_masking_gap <= 0.02"] == pytest.approx(0.03)
    assert trials[3].constraints["accuracy_failed_checks <= 0"] == 2.0


def test_a_bound_on_a_detail_may_be_relative_to_the_controls(tmp_path) -> None:
    errors = (0.30, 0.31, 0.33)
    trials = told(tmp_path, ["accuracy_mean_error <= control + 0.02"], *({"mean_error": error} for error in errors))
    assert [feasible(trial) for trial in trials] == [True, True, False]
    trials = told(
        tmp_path / "times", ["accuracy_milliseconds <= control * 0.5"], *({"milliseconds": ms} for ms in (8, 4, 5))
    )
    assert [trial.constraints["accuracy_milliseconds <= control * 0.5"] for trial in trials] == [4.0, 0.0, 1.0]


def test_a_detail_that_names_its_metric_already_is_found_by_that_name(tmp_path) -> None:
    (control,) = told(tmp_path, ["accuracy_ms <= 2"], {"accuracy_ms": 3.0})
    assert control.constraints == {"accuracy_ms <= 2": 1.0}


def test_standard_errors_are_numbers_too(tmp_path) -> None:
    (control,) = told(tmp_path, ["accuracy_se <= 0.005"], {})
    assert control.constraints["accuracy_se <= 0.005"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"masking_gap": 0.0}, "accuracy_masked_gap is missing, did you mean accuracy_masking_gap?"),
        ({"images": 5, "zzz": 1}, "accuracy_masked_gap is missing (accuracy has accuracy_images, accuracy_zzz)"),
        ({}, "accuracy_masked_gap is missing (accuracy has no details)"),
        ({"masked_gap": True}, "accuracy_masked_gap is missing (accuracy has no details)"),
        ({"masked_gap": None}, "accuracy_masked_gap is missing (accuracy has no details)"),
        ({"masked_gap": "large"}, "accuracy_masked_gap is missing (accuracy has no details)"),
        ({"masked_gap": math.nan}, "accuracy_masked_gap is nan"),
        ({"masked_gap": math.inf}, "accuracy_masked_gap is inf"),
    ],
)
def test_what_is_not_a_finite_number_is_one_clear_reason(tmp_path, details, reason) -> None:
    (control,) = told(tmp_path, ["accuracy_masked_gap <= 0.1"], details)
    assert control.state == optuna.trial.TrialState.FAIL
    assert control.user_attrs["reason"] == f"a score must be a finite number: {reason}"


def test_a_detail_of_the_control_that_is_missing_is_said_too(tmp_path) -> None:
    told(tmp_path, [], {}, {"mean_error": 0.3})
    problem = analytic.problem(derive=derive, conditions=[parse_condition("accuracy_mean_error <= control")])
    database = open_storage(sqlite_url(RunFolder.open(tmp_path / "run").database), create=False)
    record = StudyRecord(database, problem, optuna.samplers.RandomSampler(seed=0))
    raw = {"accuracy": 0.9, "macs": 5.0, "details": {"mean_error": 0.3}}
    trial = record.tell(record.ask().number, {"state": "complete", "raw": raw})
    database.engine.dispose()
    expected = "a score must be a finite number: the control's accuracy_mean_error is missing"
    assert trial.user_attrs["reason"] == expected


@pytest.mark.parametrize(
    ("name", "owner"),
    [("mce", "mce"), ("mce_mean_error", "mce"), ("relative_mce_blur", "relative_mce"), ("latency_ms", "latency"),
     ("mcex", None), ("relative", None), ("pgd_accuracy", None)],
)  # fmt: skip
def test_which_metric_states_a_number(name: str, owner: str | None) -> None:
    assert measured_by(name, ["mce", "relative_mce", "latency", "accuracy"]) == owner


STUDY = """
constraints = [{constraint}]
[study]
name = "s"
[task]
data = {{ name = "digits", validation = {{ from = "train", count = 100 }} }}
model = {{ name = "digits-cnn" }}
[training]
regime = "standard"
epochs = 1
[space]
sparsity = {{ high = 0.8 }}
[[objectives]]
name = "accuracy"
[[objectives]]
name = "latency"
[[metrics]]
name = "pgd_accuracy"
[search]
"""


def read(constraint: str) -> None:
    text = STUDY.format(constraint=json.dumps(constraint))
    read_study_text(text, file="study.toml", check_parts=False)


@pytest.mark.parametrize(
    "constraint",
    ["accuracy >= control - 0.02", "pgd_accuracy_masking_gap <= 0.02", "pgd_accuracy_failed_checks <= 0",
     "latency_ms <= control * 0.5", "accuracy_se < 0.01"],
)  # fmt: skip
def test_a_study_may_bound_any_detail(constraint: str) -> None:
    read(constraint)


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        ("mce_mean_error <= 0.3", None),
        ("acuracy >= 0.5", "accuracy >= 0.5"),
        ("pgd_acuracy_masking_gap <= 0.02", "pgd_accuracy_masking_gap <= 0.02"),
        ("pgdaccuracy <= 0.02", "pgd_accuracy <= 0.02"),
        ("latncy_ms <= 2", "latency_ms <= 2"),
    ],
)
def test_a_metric_that_is_not_measured_has_its_nearest_match(constraint: str, match: str | None) -> None:
    with pytest.raises(StudyFileError) as caught:
        read(constraint)
    (line,) = caught.value.lines
    measured = "accuracy, latency, pgd_accuracy"
    assert f"`constraints[0]` must be on an objective or metric of this study ({measured})" in line
    assert f'found "{constraint}".' in line
    if match:
        assert line.endswith(f'Did you mean "{match}"?')
