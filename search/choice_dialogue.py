"""`forgefront pick --interactive`: narrow the front down on a terminal until one member is accepted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..studies.errors import InputError
from .pick import Choice, Shortlist, shortlist
from .tables import LABELS
from .told_apart import named

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from .run import Run

__all__ = ["choose", "converse"]

ROWS = 15
HELP = (
    "a number chooses that trial; a condition such as accuracy>=control-0.02 narrows the list, drop takes the last one "
    "back; knee, balanced, hypervolume, accuracy=2,mce=1 or pseudo-weights=accuracy:0.5,mce:0.5 orders it; Enter "
    "accepts the marked one; q leaves"
)


def choose(run: Run, *, where: Sequence[str] = (), prefer: str = "knee") -> Choice:
    """Talk on the terminal about the front of `run`; the table goes to stderr.

    Raises:
        InputError: There is no terminal, or a first condition or preference is wrong.
        KeyboardInterrupt: The person left without a choice.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError("`--interactive` must have a terminal on stdin and stderr; found none. Did you mean --prefer?")
    from rich.console import Console

    front, control = run.front(), run.control()

    def ordered(conditions: Sequence[str], preference: str) -> Shortlist:
        return shortlist(front, run.objectives, where=conditions, prefer=preference, control=control)

    return converse(ordered, sys.stdin.readline, Console(stderr=True), where=where, prefer=prefer)


def converse(
    ordered: Callable[[Sequence[str], str], Shortlist],
    read: Callable[[], str],
    console: Console,
    *,
    where: Sequence[str] = (),
    prefer: str = "knee",
) -> Choice:
    """The dialogue itself.

    Args:
        ordered: Conditions and a preference to the shortlist; raises InputError where they are wrong.
        read: Gives a line that the person wrote, with its line end; without one the input has ended.
        console: What is written to.
        where: Conditions to begin with.
        prefer: Preference to begin with.

    Raises:
        InputError: What it is to begin with is wrong.
        KeyboardInterrupt: The person left without a choice.
    """
    conditions, preference, named = list(where), prefer, None
    short = ordered(conditions, preference)
    choice = short.choose()
    _show(console, short, choice)
    while True:
        line = _ask(console, read, choice.number)
        while line in ("?", "help", "h"):
            console.print(HELP, style="dim", highlight=False)
            line = _ask(console, read, choice.number)
        if line == "":
            return choice
        try:
            if line.isdecimal():
                choice = short.choose(int(line))
                named = choice.number
                _show(console, short, choice)
                continue
            tried, wished = list(conditions), preference
            if line == "drop":
                tried = tried[:-1]
            elif "<" in line or ">" in line:
                tried.append(line)
            else:
                wished = line
            short = ordered(tried, wished)
            conditions, preference = tried, wished
            # a person's own choice stays, as long as it meets the conditions and no preference is stated after it
            stays = line != wished and named is not None and named in {int(value) for value in short.members["number"]}
            named = named if stays else None
            choice = short.choose(named)
            _show(console, short, choice)
        except InputError as error:
            text = str(error).replace("`--where` ", "").replace("`--prefer`", "a wish")
            console.print(text, style="red", markup=False, highlight=False)


def _ask(console: Console, read: Callable[[], str], number: int) -> str:
    console.print("a number, condition or preference; ? explains, q leaves", style="dim", highlight=False)
    console.print(f"Enter takes trial {number} > ", end="", highlight=False)
    line = read()
    if not line.endswith("\n") or line.strip() in ("q", "quit", "exit"):
        raise KeyboardInterrupt("nothing was chosen.")
    return line.strip()


def _show(console: Console, short: Shortlist, choice: Choice) -> None:
    console.print()
    console.print(_table(short, choice.number))
    hidden = len(short.members) - ROWS
    if hidden > 0:
        console.print(f"and {hidden} more, less preferred", style="dim")
    for line in choice.reasons:
        console.print(line, highlight=False, markup=False)
    for line in choice.alternatives:
        console.print(f"  or {line}", highlight=False, markup=False)


def _table(short: Shortlist, number: int) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    rows = short.members.iloc[:ROWS]
    marked = short.members[short.members["number"] == number]
    if number not in set(rows["number"]):
        rows = pd.concat([rows.iloc[:-1], marked])
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for name in ("trial", *(LABELS.get(name, name) for name in short.objectives), "like"):
        table.add_column(name, justify="left" if name == "like" else "right")
    for _, row in rows.iterrows():
        cells = [_cell(row, name) for name in short.objectives]
        chosen = int(row["number"]) == number
        alike = named(row.get("alike", ""))
        like = ", ".join(alike[:4]) + (" …" if len(alike) > 4 else "")
        table.add_row("▸" if chosen else "", str(row["number"]), *cells, like, style="bold" if chosen else None)
    return table


def _cell(row: pd.Series, name: str) -> str:
    error = row.get(f"{name}_se")
    return f"{row[name]:.4g}" + ("" if error is None or pd.isna(error) or not error else f" ± {error:.2g}")
