"""Choosing on a terminal: a real one, a pseudo-terminal, on which the command line runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")

SECONDS = 60.0


def talk(run: Path, *answers: str, options: tuple[str, ...] = ()) -> tuple[str, int]:
    """What appears on the terminal, stdout included, and the exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "120", "TERM": "dumb"}
        os.execv(sys.executable, [sys.executable, "-m", "forgefront", "pick", str(run), "--interactive", *options])
    shown, asked, left, end = b"", 0, list(answers), time.monotonic() + SECONDS
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
        if left and shown.count(b"Enter takes trial") > asked and shown.rstrip(b" ").endswith(b">"):
            asked += 1
            os.write(terminal, left.pop(0).encode())
    else:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(status)


def test_enter_takes_what_pick_would_take(finished_run: Path) -> None:
    plain = subprocess.run(
        [sys.executable, "-m", "forgefront", "pick", str(finished_run)], capture_output=True, text=True, check=True
    )
    shown, code = talk(finished_run, "\n")
    assert code == 0
    assert shown.split()[-1] == plain.stdout.strip()


def test_conditions_wishes_and_numbers_until_one_is_accepted(finished_run: Path) -> None:
    from forgefront import load_run

    run = load_run(finished_run)
    smallest = run.pick(prefer="compression_ratio=1").number
    members = [int(number) for number in run.front()["number"] if number != 0]
    other = next(number for number in members if number != smallest)
    shown, code = talk(
        finished_run,
        "acuracy=2\n",
        "sise<=1\n",
        "accuracy>=2\n",
        "999\n",
        "?\n",
        f"{other}\n",
        "compression_ratio=1\n",
        "\n",
    )
    assert code == 0
    assert "Did you mean accuracy?" in shown
    assert "must name an objective or metric" in shown
    assert "leaves no member of the front" in shown
    assert "found 999." in shown
    assert "drop takes the last one" in " ".join(shown.split())
    assert "your own choice" in shown or other == run.pick().number
    assert shown.split()[-1] == str(smallest)


def test_a_condition_can_be_dropped_again(finished_run: Path) -> None:
    shown, code = talk(finished_run, "compression_ratio>=1\n", "drop\n", "\n")
    assert code == 0
    assert shown.count("satisfy compression_ratio>=1") == 1


@pytest.mark.parametrize("leave", ["q\n", "\x04"])
def test_leaving_chooses_nothing(finished_run: Path, leave: str) -> None:
    shown, code = talk(finished_run, leave)
    assert code == 130
    assert "interrupted; nothing was chosen." in shown


def test_without_a_terminal_it_is_refused_in_one_line(finished_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forgefront", "pick", str(finished_run), "--interactive"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (
        "forgefront: `--interactive` must have a terminal on stdin and stderr; found none. Did you mean --prefer?"
    )
