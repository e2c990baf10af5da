"""Conditions on metrics and on their details: ``accuracy >= control - 0.02``, ``pgd_accuracy_masking_gap <= 0.02``."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import InputError

__all__ = ["Condition", "measured_by", "parse_condition"]

GRAMMAR = "METRIC OP NUMBER or METRIC OP control [+|-|* NUMBER], where OP is <=, >=, < or >"
EXAMPLE = "accuracy >= control - 0.02"

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONDITION = re.compile(
    rf"\s*(?P<metric>[A-Za-z_][\w.:-]*)\s*(?P<operator><=|>=|<|>)\s*"
    rf"(?:(?P<number>{_NUMBER})|(?P<control>control)(?:\s*(?P<sign>[-+*])\s*(?P<offset>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Condition:
    """A bound on one number.

    Args:
        metric: Name of an objective or metric, or ``<metric>_<detail>``.
        operator: ``<=``, ``>=``, ``<`` or ``>``.
        number: The bound; or what is added to, or multiplied with, the control's value.
        relative_to_control: ``"+"`` or ``"*"`` when the bound derives from the control's value, None otherwise.
    """

    metric: str
    operator: Literal["<=", ">=", "<", ">"]
    number: float
    relative_to_control: Literal["+", "*"] | None = None

    def bound(self, control_value: float | None = None) -> float:
        """The bound as a number.

        Raises:
            ValueError: The bound derives from the control, and `control_value` is None.
        """
        if self.relative_to_control is None:
            return self.number
        if control_value is None:
            raise ValueError(f"`control_value` must be a number for `{self}`; found None.")
        if self.relative_to_control == "*":
            return control_value * self.number
        return control_value + self.number

    def violation(self, value: float, control_value: float | None = None) -> float:
        """By how much `value` breaks the bound; at most 0 when the condition holds, infinite when either is NaN."""
        if math.isnan(value):
            return math.inf
        bound = self.bound(control_value)
        if math.isnan(bound):
            return math.inf
        excess = value - bound if self.operator in ("<=", "<") else bound - value
        if excess == 0.0 and self.operator in ("<", ">"):
            return sys.float_info.min
        return excess

    def holds(self, value: float, control_value: float | None = None) -> bool:
        """Whether `value` meets the condition."""
        return self.violation(value, control_value) <= 0.0

    def __str__(self) -> str:
        if self.relative_to_control is None:
            return f"{self.metric} {self.operator} {self.number:g}"
        if self.relative_to_control == "*":
            return f"{self.metric} {self.operator} control * {self.number:g}"
        if self.number == 0.0:
            return f"{self.metric} {self.operator} control"
        sign = "-" if self.number < 0 else "+"
        return f"{self.metric} {self.operator} control {sign} {abs(self.number):g}"


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        InputError: `text` is not of the form METRIC OP BOUND.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        suggestion = _repaired(text)
        hint = f' Did you mean "{suggestion}"?' if suggestion else f' For example "{EXAMPLE}".'
        raise InputError(f'`condition` must be {GRAMMAR}; found "{text}".{hint}')
    metric, operator = match["metric"], match["operator"]
    if match["control"] is None:
        return Condition(metric, operator, float(match["number"]))  # type: ignore[arg-type]
    if match["sign"] is None:
        return Condition(metric, operator, 0.0, "+")  # type: ignore[arg-type]
    number = float(match["offset"])
    if match["sign"] == "*":
        return Condition(metric, operator, number, "*")  # type: ignore[arg-type]
    return Condition(metric, operator, -number if match["sign"] == "-" else number, "+")  # type: ignore[arg-type]


def measured_by(name: str, metrics: Iterable[str]) -> str | None:
    """Which of `metrics` states the number called `name`: the one of that name, or else the longest that begins it."""
    owners = [metric for metric in metrics if name == metric or name.startswith(f"{metric}_")]
    return max(owners, key=len, default=None)


def _repaired(text: str) -> str | None:
    changed = text.replace("=>", ">=").replace("=<", "<=").replace("≥", ">=").replace("≤", "<=").replace("==", "=")
    changed = re.sub(r"(?<![<>])=", ">=", changed)
    percent = re.fullmatch(rf"(.*?)({_NUMBER})\s*%\s*", changed)
    if percent:
        changed = f"{percent[1]}{float(percent[2]) / 100:g}"
    return changed if _CONDITION.fullmatch(changed) else None
