"""What commands share: arguments and options, how a line is said, how an interrupt ends one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["RunArgument", "SetOption", "TableFormat", "interruptible", "say"]


class TableFormat(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, for example runs/digits.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the study file.")
]


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the command with 130 and what the interrupt has to say."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # typer would turn it into the same exit code without a word
        say(f"forgefront: interrupted; {interrupt}" if str(interrupt) else "forgefront: interrupted.")
        raise typer.Exit(130) from None


def say(line: str) -> None:
    """A line for the person, on stderr."""
    typer.echo(line, err=True)
