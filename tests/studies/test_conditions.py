"""The grammar of conditions, and by how much a value breaks one."""

from __future__ import annotations

import math

import pytest

from forgefront.studies.conditions import Condition, parse_condition
from forgefront.studies.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy >= 0.85", Condition("accuracy", ">=", 0.85)),
        ("latency_ms<=2", Condition("latency_ms", "<=", 2.0)),
        ("  macs < 1e6 ", Condition("macs", "<", 1e6)),
        ("mce > -.5", Condition("mce", ">", -0.5)),
        ("accuracy >= control", Condition("accuracy", ">=", 0.0, "+")),
        ("accuracy >= control - 0.02", Condition("accuracy", ">=", -0.02, "+")),
        ("accuracy>=control-0.02", Condition("accuracy", ">=", -0.02, "+")),
        ("mce <= control + 5", Condition("mce", "<=", 5.0, "+")),
        ("macs <= control * 0.5", Condition("macs", "<=", 0.5, "*")),
        ("latency:onnxruntime-cpu <= 1", Condition("latency:onnxruntime-cpu", "<=", 1.0)),
    ],
)
def test_what_is_written_is_what_is_read(text: str, expected: Condition) -> None:
    condition = parse_condition(text)
    assert condition == expected
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("accuracy => 0.5", '"accuracy >= 0.5"'),
        ("accuracy =< 0.5", '"accuracy <= 0.5"'),
        ("accuracy ≥ 0.5", '"accuracy >= 0.5"'),
        ("accuracy = 0.5", '"accuracy >= 0.5"'),
        ("accuracy >= 50 %", '"accuracy >= 0.5"'),
        ("accuracy", None),
        ("", None),
        ("0.5 <= accuracy", None),
        ("accuracy >= control / 2", None),
        ("accuracy >= 0.5 and macs < 3", None),
        ("accuracy >= nan", None),
        ("accuracy >= control - ", None),
    ],
)
def test_anything_else_is_one_clear_line(text: str, match: str | None) -> None:
    with pytest.raises(InputError) as caught:
        parse_condition(text)
    message = str(caught.value)
    assert message.startswith("`condition` must be METRIC OP NUMBER")
    assert f'found "{text}".' in message
    assert message.endswith(f"Did you mean {match}?" if match else 'For example "accuracy >= control - 0.02".')


@pytest.mark.parametrize(
    ("text", "value", "control", "violation"),
    [
        ("accuracy >= 0.8", 0.7, None, 0.1),
        ("accuracy >= 0.8", 0.8, None, 0.0),
        ("accuracy >= 0.8", 0.9, None, -0.1),
        ("macs <= control * 0.5", 60.0, 100.0, 10.0),
        ("accuracy >= control - 0.02", 0.88, 0.9, 0.0),
        ("accuracy >= control - 0.02", 0.85, 0.9, 0.03),
        ("mce <= 100", math.inf, None, math.inf),
        ("mce <= 100", math.nan, None, math.inf),
    ],
)
def test_violation(text: str, value: float, control: float | None, violation: float) -> None:
    assert parse_condition(text).violation(value, control) == pytest.approx(violation, abs=1e-12)


@pytest.mark.parametrize("text", ["accuracy >= control - 0.02", "accuracy <= control", "accuracy < control * 2"])
def test_a_bound_that_is_not_a_number_is_never_met(text: str) -> None:
    condition = parse_condition(text)
    assert condition.violation(0.9, math.nan) == math.inf
    assert not condition.holds(0.9, math.nan)


@pytest.mark.parametrize(("operator", "holds"), [("<", False), (">", False), ("<=", True), (">=", True)])
def test_a_strict_bound_does_not_hold_when_met_exactly(operator: str, holds: bool) -> None:
    assert parse_condition(f"macs {operator} 5").holds(5.0) is holds


def test_a_bound_on_the_control_needs_its_value() -> None:
    with pytest.raises(ValueError, match="`control_value` must be a number"):
        parse_condition("accuracy >= control").violation(0.5)
