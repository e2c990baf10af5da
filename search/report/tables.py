"""The report's sections of text: summary, front as a table, failures, all trials, what the results depend on."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..record import FINGERPRINT
from ..status import summary
from ..tables import LABELS, few
from ..told_apart import named
from .content import Content, Section

__all__ = ["all_section", "failures_section", "fingerprint_section", "members_section", "summary_section"]

MOST = 3000
"""Rows of the table of all trials; of more, the front and the latest."""
MOST_NAMED = 6
"""Members that a cell names."""


def summary_section(content: Content) -> Section:
    """What `forgefront status` says but for failures, and the choice that `forgefront pick` would make."""
    study = content.run.study.study
    about = f"<p>{html.escape(study.description)}</p>" if study.description else ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in summary(content.run))
    return Section("summary", "Summary", f"{about}<ul>{items}</ul>{_choice(content)}")


def _choice(content: Content) -> str:
    if not content.members:
        return ""
    choice = content.run.pick()
    reasons = "<br>".join(html.escape(line) for line in choice.reasons)
    others = "".join(f"<li>{html.escape(line)}</li>" for line in choice.alternatives)
    return f'<h3>What <code>forgefront pick</code> takes</h3><p>{reasons}</p><ul class="note">{others}</ul>'


def members_section(content: Content) -> Section:
    """The front, with standard errors and who cannot be told apart."""
    if content.front.empty:
        return Section("members", "Members of the front", "<p>None yet.</p>")
    shown = content.front.head(MOST)
    metrics = [name for name in content.run.metrics if name in shown]
    head = ["trial", "role", *(LABELS.get(name, name) for name in metrics)]
    alike = bool(shown["alike"].any())
    rows = [
        [str(row["number"]), str(row["role"]), *(_measured(row, name) for name in metrics)]
        + ([few(named(row["alike"]), MOST_NAMED)] if alike else [])
        for _, row in shown.iterrows()
    ]
    note = (
        '<p class="note">± standard error. Like: members within two standard errors in every objective, between which '
        "the measurements do not decide.</p>"
        if alike
        else '<p class="note">± standard error. Any two members differ by more than two of them in some objective.</p>'
    )
    return Section("members", "Members of the front", _table([*head, *(["like"] if alike else [])], rows) + note)


def failures_section(content: Content) -> Section:
    """Trials that failed or were stopped early, with reasons."""
    rows = content.frame[content.frame["state"].isin(["fail", "pruned"])]
    if rows.empty:
        return Section("failures", "Failed trials", "<p>None failed, none was stopped early.</p>")
    body = _table(
        ["trial", "state", "reason"],
        [[str(row["number"]), _state(row["state"]), str(row["reason"] or "–")] for _, row in rows.iterrows()],
    )
    return Section("failures", "Failed and stopped trials", body)


def all_section(content: Content) -> Section:
    """Every trial; a click on a heading sorts."""
    frame = content.frame
    if frame.empty:
        return Section("trials", "All trials", "<p>None yet.</p>")
    note = ""
    if len(frame) > MOST:
        latest = frame["number"] >= frame["number"].max() - (MOST - min(MOST, int(frame["on_front"].sum())))
        kept = frame[frame["on_front"] | latest]
        note = f'<p class="note">{len(kept)} of {len(frame)}: the front and the latest.</p>'
        frame = kept
    metrics = [name for name in content.run.metrics if name in frame]
    head = ["trial", "role", "state", "front", *(LABELS.get(name, name) for name in metrics), "seconds"]
    rows = [
        [
            str(row["number"]),
            str(row["role"]),
            _state(row["state"]),
            "●" if row["on_front"] else "" if row["feasible"] else "infeasible" if row["state"] == "complete" else "",
            *(_number(row[name]) for name in metrics),
            _number(row["seconds"]),
        ]
        for row in frame.to_dict("records")
    ]
    return Section("trials", "All trials", _table(head, rows) + note)


def fingerprint_section(content: Content) -> Section:
    """What the results depend on."""
    stored = content.run.record.user_attrs.get(FINGERPRINT)
    if stored is None:
        return Section("fingerprint", "Fingerprint", "<p>The database stores none.</p>")
    text = html.escape(json.dumps(stored, indent=1, ensure_ascii=False))
    return Section(
        "fingerprint", "Fingerprint", f"<details><summary>What results depend on</summary><pre>{text}</pre></details>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col"><button type="button">{html.escape(name)}</button></th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _state(state: str) -> str:
    return {"fail": "failed", "pruned": "stopped early"}.get(state, state)


def _measured(row: pd.Series, name: str) -> str:
    error = row.get(f"{name}_se")
    known = 0.0 if error is None or pd.isna(error) else float(error)
    return _number(row[name]) + (f" ± {known:.2g}" if known > 0.0 else "")


def _number(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{float(value):.4g}"
