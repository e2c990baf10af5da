"""Why a member of a front was chosen, what its audit found, and what its neighbours gain and give up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .preference import normalize_losses
from .score_columns import MASKED
from .told_apart import DISTANCE, named

__all__ = ["alternatives_to", "compare", "losses_of", "reasons_for"]

NEIGHBOURS = 3
VERDICT = "_verdict"


def losses_of(frame: pd.DataFrame, objectives: dict[str, str]) -> np.ndarray:
    """Objectives of the rows, (n, m) floats, signed so that every column is to be minimised."""
    columns = [frame[name] * (1.0 if direction == "minimize" else -1.0) for name, direction in objectives.items()]
    return np.stack([column.to_numpy(dtype=float) for column in columns], axis=1)


def reasons_for(
    members: pd.DataFrame, index: int, objectives: dict[str, str], rule: str, candidates: int, where: Sequence[str]
) -> tuple[str, ...]:
    """Sentences on the row at `index` of `members`: the rule, what was considered, its values, its audit.

    Args:
        members: Those considered.
        index: Position of the chosen row.
        objectives: Name to ``"minimize"`` or ``"maximize"``.
        rule: Why it was chosen.
        candidates: Size of the front.
        where: The conditions that the members meet.
    """
    chosen = members.iloc[index]
    lines = [f"trial {int(chosen['number'])}, one of {candidates} on the front ({rule})"]
    if where:
        lines.append(f"{len(members)} of {candidates} satisfy {' and '.join(where)}")
    lines.append(", ".join(_value(chosen, name) for name in objectives))
    best = [
        name
        for name, way in objectives.items()
        if chosen[name] == (members[name].max() if way == "maximize" else members[name].min())
    ]
    if best:
        lines.append(f"best of those considered in {', '.join(best)}")
    if chosen.get("alike"):
        others = _listed(named(chosen["alike"]))
        lines.append(f"not to be told apart, within {DISTANCE:g} standard errors, from {others}")
    return (*lines, *_audit_reasons(chosen, members))


def alternatives_to(members: pd.DataFrame, index: int, objectives: dict[str, str]) -> tuple[str, ...]:
    """A sentence for each of the rows that are nearest to the one at `index`, each objective scaled by its span."""
    normalized = normalize_losses(losses_of(members, objectives))
    distance = np.linalg.norm(normalized - normalized[index], axis=1)
    nearest = [row for row in np.argsort(distance, kind="stable") if row != index][:NEIGHBOURS]
    return tuple(compare(members.iloc[row], members.iloc[index], objectives) for row in nearest)


def compare(other: pd.Series, chosen: pd.Series, objectives: dict[str, str]) -> str:
    """What `other` gains and gives up against `chosen`, each difference with its standard error where it has one."""
    gains: list[str] = []
    losses: list[str] = []
    even: list[str] = []
    for name, direction in objectives.items():
        difference = float(other[name]) - float(chosen[name])
        if difference == 0:
            continue
        error = float(np.hypot(_error(other, name), _error(chosen, name)))
        text = f"{name} {_number(other[name])} ({difference:+.4g}{f' ± {error:.2g}' if error else ''})"
        better = (difference > 0) == (direction == "maximize")
        # nothing that a person should choose by
        (even if abs(difference) <= DISTANCE * error else gains if better else losses).append(text)
    parts = [f"gains {', '.join(gains)}"] if gains else []
    parts += [f"gives up {', '.join(losses)}"] if losses else []
    parts += [f"within noise: {', '.join(even)}"] if even else []
    audit = [f"audit: {found}"] if (found := _audit(other)) else []
    return f"trial {int(other['number'])}: {'; '.join([*(parts or ['equal in every objective']), *audit])}"


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


def _error(row: pd.Series, name: str) -> float:
    value = row.get(f"{name}_se")
    return float(value) if value is not None and np.isfinite(float(value)) else 0.0


def _value(row: pd.Series, name: str) -> str:
    error = _error(row, name)
    return f"{name} {_number(row[name])}{f' ± {error:.2g}' if error else ''}"


def _listed(names: Sequence[str]) -> str:
    """Numbers of trials as words, cut after a handful."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"trial{'s' if len(names) > 1 else ''} {', '.join(names[:6])}{more}"


def _number(value: float) -> str:
    return f"{float(value):.4g}"
