"""Kills a study at random, coordinators and workers, until it is whole: ``python random_kills.py DIR [--kills 200]``.

Afterwards nothing may be lost: every number finished once, no trial whose result was stored run again, nothing left
running; with one worker the study must equal one that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import analytic
import optuna
from optuna.trial import TrialState

from forgefront.search.engines.base import TrialOutcome
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import sqlite_url


class LoggingRunner(analytic.Runner):
    """Notes in `executions.log` of the run's folder when a trial begins and when its result is stored."""

    def __call__(self, request, report) -> TrialOutcome:
        self.note(f"begun {request.number}")
        outcome = super().__call__(request, report)
        self.note(f"stored {request.number}")
        return outcome

    def note(self, line: str) -> None:
        # one short write to a file opened for appending is whole or not there
        handle = os.open(self.folder.path / "executions.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)


def content(run: Path) -> list[tuple]:
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))
    return [(t.number, t.state, t.params, t.values, t.constraints, t.user_attrs.get("scores")) for t in study.trials]


def start(run: Path, trials: int, workers: int) -> subprocess.Popen:
    code = (
        "import sys, analytic, optuna; optuna.logging.set_verbosity(30);"
        f"analytic.coordinator({str(run)!r}, trials={trials}, workers={workers}, processes=True,"
        "runner='random_kills:LoggingRunner').run(lambda event: print(type(event).__name__, flush=True))"
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ANALYTIC_SLEEP": "0.05",
        "PYTHONPATH": os.path.dirname(__file__),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stored_numbers(run: Path) -> list[str]:
    log = run / "executions.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith("stored")]


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def kill_at_random(run: Path, *, kills: int, trials: int, workers: int, seed: int) -> Counter:
    """Run the study through `kills` kills, of coordinators and of workers, and then to its end.

    A worker is only killed where a result was stored since the last one was: a trial whose process dies again and again
    has failed, and rightly so.
    """
    draw = random.Random(seed)
    done: Counter = Counter()
    spared = -1
    while sum(done.values()) < kills:
        # the budget grows with the kills, so that there is always something left to disturb
        process = start(run, min(trials, 4 + trials * sum(done.values()) // kills), workers)
        assert "StudyStarted" in process.stdout.readline(), process.stderr.read()
        while process.poll() is None and sum(done.values()) < kills:
            time.sleep(draw.uniform(0.0, 1.0))
            stored = len(stored_numbers(run))
            victims = []
            if stored > spared and draw.random() < 0.8:
                with contextlib.suppress(OSError):
                    victims = children(process.pid)
            victim, kind = (draw.choice(victims), "workers") if victims else (process.pid, "coordinators")
            spared = stored if victims else spared
            with contextlib.suppress(ProcessLookupError):
                if process.poll() is None:
                    os.kill(victim, signal.SIGKILL)
                    done[kind] += 1
            if kind == "coordinators":
                break
        process.stdout.close()
        process.stderr.close()
        process.wait()
    process = start(run, trials, workers)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return done


def check(run: Path, *, trials: int, workers: int) -> None:
    """Every promise of the first paragraph; raises AssertionError where one is broken."""
    rows = content(run)
    assert [row[0] for row in rows] == list(range(trials))
    assert not [row[0] for row in rows if row[1] == TrialState.RUNNING]
    stored: set[str] = set()
    for line in (run / "executions.log").read_text().splitlines():
        what, number = line.split()
        assert what != "begun" or number not in stored, f"trial {number} ran again after its result was stored"
        if what == "stored":
            stored.add(number)
    # a trial's process is killed twice where its coordinator is too; with one worker that has not happened
    study = optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))
    failed = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert all("its process died 2 times" in study.trials[number].user_attrs["reason"] for number in failed)
    assert not {str(number) for number in failed} & stored
    assert workers > 1 or not failed
    params = [tuple(row[2].values()) for row in rows]
    assert len(set(params)) == trials
    whole = run.with_name(f"{run.name}-undisturbed")
    if workers == 1:
        analytic.coordinator(whole, trials=trials).run()
        assert content(whole) == rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for workers in (1, 3):
        run = given.folder / f"{workers}-workers"
        done = kill_at_random(run, kills=given.kills // 2, trials=given.trials, workers=workers, seed=given.seed)
        check(run, trials=given.trials, workers=workers)
        failed = sum(row[1] == TrialState.FAIL for row in content(run))
        print(
            f"{workers} workers: {dict(done)} killed, {given.trials} trials whole, {failed} failed by being killed twice"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
