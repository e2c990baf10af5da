"""Choose one member of the front: conditions, then a preference, then the reasons and what its neighbours give up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..studies.conditions import Condition, measured_by, parse_condition
from ..studies.errors import InputError
from ..studies.faults import nearest
from .choice_reasons import alternatives_to, losses_of, reasons_for
from .preference import RULES, parse_preference, rank
from .tables import BASE_COLUMNS, enumerated

__all__ = ["Choice", "Shortlist", "pick", "shortlist"]

OWN = "your own choice"


@dataclass(frozen=True)
class Choice:
    """The chosen trial and why.

    Args:
        number: The trial.
        reasons: Sentences for a person: what was considered, the rule, the values, what the robustness audit found.
        alternatives: One sentence for each of the nearest members: what it gains, what it gives up, what its audit
            found.
    """

    number: int
    reasons: tuple[str, ...]
    alternatives: tuple[str, ...]


@dataclass(frozen=True)
class Shortlist:
    """The members of a front that meet the conditions, the most preferred first.

    Args:
        members: Rows of the front.
        candidates: How many the front holds, the control not counted.
        objectives: Name to ``"minimize"`` or ``"maximize"``.
        where: The conditions.
        rule: The preference in a sentence.
    """

    members: pd.DataFrame
    candidates: int
    objectives: dict[str, str]
    where: tuple[str, ...]
    rule: str

    def choose(self, number: int | None = None) -> Choice:
        """The most preferred member, or the one that is named, and why.

        Raises:
            InputError: The named trial is no member.
        """
        numbers = [int(value) for value in self.members["number"]]
        if number is not None and number not in numbers:
            rule = f"a member of the front that meets the conditions ({enumerated(sorted(numbers))})"
            raise InputError(f"a choice must be {rule}; found {number}.")
        index = 0 if number is None else numbers.index(number)
        rule = self.rule if number is None or index == 0 else OWN
        return Choice(
            number=numbers[index],
            reasons=reasons_for(self.members, index, self.objectives, rule, self.candidates, self.where),
            alternatives=alternatives_to(self.members, index, self.objectives),
        )


def pick(
    front: pd.DataFrame,
    objectives: dict[str, str],
    *,
    where: Sequence[str] = (),
    prefer: str = "knee",
    control: pd.Series | None = None,
) -> Choice:
    """Choose one row of `front`: the first of its `shortlist`, whose arguments these are."""
    return shortlist(front, objectives, where=where, prefer=prefer, control=control).choose()


def shortlist(
    front: pd.DataFrame,
    objectives: dict[str, str],
    *,
    where: Sequence[str] = (),
    prefer: str = "knee",
    control: pd.Series | None = None,
) -> Shortlist:
    """Order the rows of `front` that meet conditions by a preference.

    Args:
        front: Feasible, non-dominated trials with a column ``number`` and one for each metric, perhaps with those of
            audits (`tables.trials_frame`); may hold the control, which is never chosen.
        objectives: Name to ``"minimize"`` or ``"maximize"``.
        where: Conditions such as ``"latency_ms <= 2"`` or ``"accuracy >= control - 0.02"``.
        prefer: ``knee``, ``balanced``, ``hypervolume``, ``accuracy=2,mce=1`` or
            ``pseudo-weights=accuracy:0.5,mce:0.5``.
        control: The control's row, for conditions relative to it.

    Raises:
        InputError: A condition or preference is malformed, or no member satisfies the conditions.
    """
    conditions = [parse_condition(text) for text in where]
    preference = parse_preference(prefer, list(objectives))
    candidates = front[front["role"] != "control"]
    if candidates.empty:
        raise InputError("the front holds no compressed trial yet; let the study run on, or loosen its constraints.")
    kept = candidates
    for text, condition in zip(where, conditions, strict=True):
        column = _column(kept, condition)
        reference = _reference(text, column, control) if condition.relative_to_control else None
        holds = np.array([condition.holds(float(value), reference) for value in kept[column]])
        if not holds.any():
            values = pd.to_numeric(kept[column])
            found = f"{column} is {values.min():.6g} to {values.max():.6g} there"
            if values.isna().all():
                found = f"no member has {column} there"
            raise InputError(f"`--where` {text!r} leaves no member of the front: {found}.")
        kept = kept[holds]
    order = rank(losses_of(kept, objectives), preference, list(objectives))
    return Shortlist(kept.iloc[order], len(candidates), objectives, tuple(where), RULES[preference.kind])


def _column(frame: pd.DataFrame, condition: Condition) -> str:
    apart = set(BASE_COLUMNS) - {"seconds"}
    known = [name for name in frame.columns if name not in apart and pd.api.types.is_numeric_dtype(frame[name])]
    if condition.metric in known:
        return condition.metric
    close = nearest(condition.metric, [name for name in known if not name.endswith("_se")])
    hint = f" Did you mean {close}?" if close else ""
    rule = f"an objective or metric of the run ({', '.join(_metrics(frame, known))}) or one of their details"
    raise InputError(f"`--where` must name {rule}; found {condition.metric!r}.{hint}")


def _metrics(frame: pd.DataFrame, known: Sequence[str]) -> list[str]:
    """Those of the names that are no details: they have standard errors, and begin with no other such name."""
    scores = [name for name in known if f"{name}_se" in frame]
    return [name for name in scores if measured_by(name, [other for other in scores if other != name]) is None]


def _reference(text: str, column: str, control: pd.Series | None) -> float:
    if control is None:
        raise InputError(f"`--where` {text!r} needs a finished control; this run has none yet.")
    value = control.get(column)
    if value is None or pd.isna(value):
        raise InputError(f"`--where` {text!r} must be on what the control has as well; the control has no {column}.")
    return float(value)
