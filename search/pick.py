"""Choose one member of the front: conditions, then a preference, then the reasons and what its neighbours give up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..studies.conditions import Condition, measured_by, parse_condition
from ..studies.errors import InputError
from ..studies.faults import nearest
from .preference import Preference, normalize_losses, parse_preference, rank
from .score_columns import MASKED
from .tables import BASE_COLUMNS

__all__ = ["Choice", "pick"]

NEIGHBOURS = 3
VERDICT = "_verdict"


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


def pick(
    front: pd.DataFrame,
    objectives: dict[str, str],
    *,
    where: Sequence[str] = (),
    prefer: str = "knee",
    control: pd.Series | None = None,
) -> Choice:
    """Choose one row of `front`.

    Args:
        front: Feasible, non-dominated trials with a column ``number`` and one for each metric, perhaps with those of
            audits (`tables.trials_frame`); may hold the control, which is never chosen.
        objectives: Name to ``"minimize"`` or ``"maximize"``.
        where: Conditions such as ``"latency_ms <= 2"`` or ``"accuracy >= control - 0.02"``.
        prefer: ``knee``, ``balanced`` or ``accuracy=2,mce=1``.
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
            found = f"{values.min():.6g} to {values.max():.6g}"
            raise InputError(f"`--where` {text!r} leaves no member of the front: {column} is {found} there.")
        kept = kept[holds]
    losses = _losses(kept, objectives)
    order = rank(losses, preference, list(objectives))
    chosen = kept.iloc[order[0]]
    return Choice(
        number=int(chosen["number"]),
        reasons=_reasons(chosen, kept, candidates, objectives, preference, where),
        alternatives=_alternatives(chosen, kept, losses, int(order[0]), objectives),
    )


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


def _losses(frame: pd.DataFrame, objectives: dict[str, str]) -> np.ndarray:
    columns = [frame[name] * (1.0 if direction == "minimize" else -1.0) for name, direction in objectives.items()]
    return np.stack([column.to_numpy(dtype=float) for column in columns], axis=1)


def _reasons(
    chosen: pd.Series,
    kept: pd.DataFrame,
    candidates: pd.DataFrame,
    objectives: dict[str, str],
    preference: Preference,
    where: Sequence[str],
) -> tuple[str, ...]:
    rules = {
        "knee": "the knee: leaving it costs most in one objective for the least gain in another",
        "balanced": "balanced: its worst objective is nearest to the best of the front",
        "weighted": "weighted: its worst weighted objective is nearest to the best of the front",
    }
    values = ", ".join(f"{name} {_number(chosen[name])}" for name in objectives)
    lines = [f"trial {int(chosen['number'])} of {len(candidates)} on the front ({rules[preference.kind]})"]
    if where:
        lines.append(f"{len(kept)} of {len(candidates)} satisfy {' and '.join(where)}")
    lines.append(values)
    best = [
        name
        for name, way in objectives.items()
        if chosen[name] == (kept[name].max() if way == "maximize" else kept[name].min())
    ]
    if best:
        lines.append(f"best of those considered in {', '.join(best)}")
    return (*lines, *_audit_reasons(chosen, kept))


def _audit(row: pd.Series) -> str | None:
    text = row.get("audit")
    return None if text is None or pd.isna(text) else str(text)


def _audit_reasons(chosen: pd.Series, kept: pd.DataFrame) -> list[str]:
    """What the robustness audit found; of masked gradients a warning, and the way to a trial without them."""
    found = _audit(chosen)
    if found is None:
        return []
    if not found.startswith(MASKED):
        return [f"robustness audit: {found}"]
    verdicts = [str(name) for name, value in chosen.items() if str(name).endswith(VERDICT) and value == MASKED]
    metric = verdicts[0].removesuffix(VERDICT)
    failed = chosen.get(f"{metric}_failed")
    lines = [
        f"warning: the audit found {found}{f' ({failed})' if failed else ''}; "
        f"its {metric} {_number(chosen[metric])} is no evidence of robustness"
    ]
    sound = [row for _, row in kept.iterrows() if not (_audit(row) or MASKED).startswith(MASKED)]
    if not sound:
        return [*lines, "no trial considered has a sound audit"]
    if f"{metric}_failed_checks" in kept:
        lines.append(f"{len(sound)} of those considered are sound: add --where '{metric}_failed_checks <= 0'")
    return lines


def _alternatives(
    chosen: pd.Series, kept: pd.DataFrame, losses: np.ndarray, index: int, objectives: dict[str, str]
) -> tuple[str, ...]:
    normalized = normalize_losses(losses)
    distance = np.linalg.norm(normalized - normalized[index], axis=1)
    nearest = [row for row in np.argsort(distance, kind="stable") if row != index][:NEIGHBOURS]
    return tuple(_compare(kept.iloc[row], chosen, objectives) for row in nearest)


def _compare(other: pd.Series, chosen: pd.Series, objectives: dict[str, str]) -> str:
    gains: list[str] = []
    losses: list[str] = []
    even: list[str] = []
    for name, direction in objectives.items():
        difference = float(other[name]) - float(chosen[name])
        text = f"{name} {_number(other[name])} ({difference:+.4g})"
        if difference == 0:
            continue
        error = np.hypot(_error(other, name), _error(chosen, name))
        better = (difference > 0) == (direction == "maximize")
        # a difference within one standard error is not something that a person should choose by
        (even if abs(difference) <= error else gains if better else losses).append(text)
    parts = [f"gains {', '.join(gains)}"] if gains else []
    parts += [f"gives up {', '.join(losses)}"] if losses else []
    parts += [f"within noise: {', '.join(even)}"] if even else []
    audit = [f"audit: {found}"] if (found := _audit(other)) else []
    return f"trial {int(other['number'])}: {'; '.join([*(parts or ['equal in every objective']), *audit])}"


def _error(row: pd.Series, name: str) -> float:
    value = row.get(f"{name}_se")
    return float(value) if value is not None and np.isfinite(float(value)) else 0.0


def _number(value: float) -> str:
    return f"{float(value):.4g}"
