"""A score's numbers by column, as tables show them and conditions name them; and what the robustness audit found."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

__all__ = ["MASKED", "audit_columns", "audit_text", "score_columns"]

MASKED = "masked"
"""The verdict on a model that looks robust only because its gradients mislead an attack."""


def score_columns(name: str, score: Mapping[str, Any]) -> dict[str, float | None]:
    """A score's columns: ``<name>``, ``<name>_se``, and each number of its details as ``<name>_<key>``.

    Args:
        name: The metric.
        score: ``value``, ``standard_error`` and ``details``, as stored with a trial.
    """
    columns = {name: score["value"], f"{name}_se": score.get("standard_error")}
    for key, value in (score.get("details") or {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            columns[key if key.startswith(f"{name}_") else f"{name}_{key}"] = value
    return columns


def audit_columns(name: str, score: Mapping[str, Any]) -> dict[str, str]:
    """``<name>_verdict`` and ``<name>_failed``, the names of the checks that failed; none where there was no audit."""
    details = score.get("details") or {}
    if not isinstance(details.get("verdict"), str):
        return {}
    return {f"{name}_verdict": details["verdict"], f"{name}_failed": ", ".join(map(str, details.get("failed") or ()))}


def audit_text(scores: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What audits found, for a person: ``sound``, ``masked: 2 of 8 checks``; None where there was none.

    Args:
        scores: Of one trial, by metric. Where several were audited, a masked one is reported.
    """
    audited = [details for score in scores.values() if isinstance((details := _details(score)).get("verdict"), str)]
    if not audited:
        return None
    details = next((one for one in audited if one["verdict"] == MASKED), audited[0])
    failed, checks = details.get("failed_checks") or len(details.get("failed") or ()), details.get("checks")
    checks = len(checks) if isinstance(checks, Sized) else checks
    if details["verdict"] != MASKED or not failed:
        return str(details["verdict"])
    total = f" of {checks}" if checks else ""
    return f"{MASKED}: {failed}{total} check{'s' if total or failed > 1 else ''}"


def _details(score: Mapping[str, Any]) -> Mapping[str, Any]:
    return score.get("details") or {}
