"""What a power cut leaves: a write-ahead log cut anywhere, a database older than the results beside it."""

import random
import shutil
import time

import analytic
import pytest
import random_kills
from random_kills import content

TRIALS = 18


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    analytic.coordinator(run, trials=TRIALS).run()
    return content(run)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 0.999])
def test_a_log_that_is_cut_off_costs_nothing_that_was_stored(tmp_path, whole, share):
    run = tmp_path / "run"
    # folded into the database; what follows is in the log
    analytic.coordinator(run, trials=4, runner="random_kills:LoggingRunner").run()
    process = random_kills.start(run, TRIALS, workers=1)
    told = 0
    while told < 7:
        told += "TrialFinished" in process.stdout.readline()
    time.sleep(random.Random(share).uniform(0.0, 0.1))
    process.kill()
    process.communicate()
    log = run / "study.db-wal"
    assert log.stat().st_size > 0
    with log.open("r+b") as file:
        file.truncate(int(log.stat().st_size * share))
    # what the log no longer has must not be read from an index of it
    (run / "study.db-shm").unlink()
    stored = random_kills.stored_numbers(run)
    assert len(stored) >= 11
    analytic.coordinator(run, trials=TRIALS, runner="random_kills:LoggingRunner").run()
    assert content(run) == whole
    begun = [line.split()[1] for line in (run / "executions.log").read_text().splitlines() if line.startswith("begun")]
    assert not [number for number in stored if begun.count(number) > 1]


def test_results_that_an_older_database_does_not_know_are_told_again(tmp_path, whole):
    run = tmp_path / "run"
    analytic.coordinator(run, trials=6).run()
    shutil.copy(run / "study.db", tmp_path / "older.db")
    analytic.coordinator(run, trials=TRIALS).run()
    shutil.copy(tmp_path / "older.db", run / "study.db")
    finished = analytic.coordinator(run, trials=TRIALS, runner="random_kills:LoggingRunner").run()
    assert finished.ran == TRIALS - 6
    assert not (run / "executions.log").exists()
    assert content(run) == whole
