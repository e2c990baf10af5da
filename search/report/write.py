"""Put the sections of a report together and write the file whole."""

from __future__ import annotations

from pathlib import Path

from ...studies.errors import InputError
from ...version import __version__
from ..run import Run
from ..run_folder import write_text
from .content import Content
from .front import front_section, history_section, importance_section, timeline_section
from .members import classes_section, corruptions_section, layers_section
from .page import page
from .tables import all_section, failures_section, fingerprint_section, members_section, summary_section

__all__ = ["report_text", "write_report"]

SECTIONS = (
    summary_section,
    front_section,
    members_section,
    history_section,
    importance_section,
    layers_section,
    corruptions_section,
    classes_section,
    timeline_section,
    failures_section,
    all_section,
    fingerprint_section,
)


def report_text(run: Run) -> str:
    """The report as HTML."""
    content = Content(run)
    sections = [section(content) for section in SECTIONS]
    complete = len(content.complete)
    subtitle = f"{complete} complete trials in {run.folder.path.name}, written by Forgefront {__version__}"
    return page(f"{content.name}: report", subtitle, sections)


def write_report(run: Run, file: Path) -> list[str]:
    """Write the report to `file`.

    Returns:
        What to tell the person, a line each.

    Raises:
        InputError: The ending is not .html, or the file cannot be written.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"`--out` must end in .html; found {file}.")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise InputError(f"`--out` must be a file in an existing folder; found {file}.")
    text = report_text(run)
    try:
        write_text(file, text)
    except OSError as error:
        raise InputError(f"`--out` must be a file that can be written; found {file} ({error.strerror}).") from None
    return [f"one file of {len(text.encode()) / 2**20:.1f} MiB; open it in any browser, it needs no network"]
