"""A coordinator whose study is on a real PostgreSQL server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import analytic
import optuna
import pytest
from optuna.trial import TrialState

from forgefront.search.engines.base import TrialRequest
from forgefront.search.holder import Holder
from forgefront.search.lock import coordinator_lock
from forgefront.search.run_folder import RunFolder
from forgefront.search.samplers.nsga2 import nsga2
from forgefront.search.server_lock import ServerSession, is_lost
from forgefront.search.server_record import PatientRecord
from forgefront.search.storage import open_storage, with_driver
from forgefront.studies.errors import LockHeldError

RUN = """
import sys, analytic
analytic.coordinator(sys.argv[1], trials=int(sys.argv[3]), url=sys.argv[2]).run(lambda event: print(event, flush=True))
"""


@pytest.fixture
def url(postgresql):
    return postgresql.database()


def content(trials):
    return [(t.number, t.state, t.params, t.values, t.constraints, t.user_attrs["role"]) for t in trials]


def study(url):
    return optuna.load_study(study_name="analytic", storage=with_driver(url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://host/name", "postgresql+psycopg://host/name"),
        ("postgres://host/name", "postgresql+psycopg://host/name"),
        ("postgresql+psycopg://host/name", "postgresql+psycopg://host/name"),
        ("postgresql+pg8000://host/name", "postgresql+pg8000://host/name"),
        ("mysql://host/name", "mysql://host/name"),
        ("sqlite:///postgresql", "sqlite:///postgresql"),
    ],
)
def test_psycopg_3_is_found_without_being_named(url, expected, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert with_driver(url) == expected


def test_a_killed_coordinator_is_followed_by_another_and_the_study_is_as_on_sqlite(url, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(analytic.__file__).parent), "ANALYTIC_SLEEP": "0.05"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "server"), url, "12"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("TrialFinished(number=5"):
            break
    process.kill()
    process.communicate()
    assert len(study(url).trials) < 12
    finished = analytic.coordinator(tmp_path / "server", trials=12, url=url).run()
    assert (finished.trials, finished.failed) == (12, 0)
    analytic.coordinator(tmp_path / "file", trials=12).run()
    alone = optuna.load_study(
        study_name="analytic", storage=f"sqlite:///{RunFolder(tmp_path / 'file').database}"
    ).trials
    assert content(study(url).trials) == content(alone)


def test_a_second_coordinator_on_another_machine_is_refused_by_name(url, tmp_path):
    """Another folder stands for another machine: only the server can know."""
    with coordinator_lock(tmp_path / "one", url, name="s") as held:
        named = f"forgefront coordinator {os.getpid()}@.* since 20"
        with pytest.raises(LockHeldError, match=named) as caught, coordinator_lock(tmp_path / "two", url, name="s"):
            pass
        assert "\n" not in str(caught.value)
        with coordinator_lock(tmp_path / "two", url, name="another study"):
            pass
        held.renew()


def test_what_was_written_when_the_server_went_is_written_once(url, postgresql, tmp_path):
    said = []
    with coordinator_lock(tmp_path / "lock", url, name="analytic") as held:
        record = PatientRecord(
            open_storage(url, create=True),
            analytic.problem(),
            nsga2(analytic.SPACE, analytic.SEED, population=6),
            renew=held.renew,
            say=said.append,
        )
        runner = analytic.Runner(RunFolder.create(tmp_path, "").path, 1)
        for number in range(8):
            if number in (3, 6):
                postgresql.stop()
                threading.Timer(0.5, postgresql.start).start()
            trial = record.ask()
            outcome = runner(TrialRequest(trial.number, trial.params), lambda progress: None)
            if number == 4:
                postgresql.stop()
                threading.Timer(0.5, postgresql.start).start()
            told = record.tell(number, outcome.result)
            assert told.state == TrialState.COMPLETE
        with pytest.raises(LockHeldError), coordinator_lock(tmp_path / "other", url, name="analytic"):
            pass
        front, hypervolume = record.front, record.hypervolume
    assert len(said) == 6
    analytic.coordinator(tmp_path / "file", trials=8).run()
    alone = optuna.load_study(study_name="analytic", storage=f"sqlite:///{RunFolder(tmp_path / 'file').database}")
    assert content(study(url).trials) == content(alone.trials)
    assert hypervolume == pytest.approx(alone.trials[-1].user_attrs["hypervolume"])
    assert front


def test_a_trial_that_was_asked_or_told_without_an_answer_is_not_asked_or_told_again(url, tmp_path):
    """The server commits, and the connection goes before it can say so."""
    make = lambda: PatientRecord(  # noqa: E731
        open_storage(url, create=True), analytic.problem(), nsga2(analytic.SPACE, analytic.SEED, population=6)
    )
    first, second = make(), make()
    asked = first.ask()
    # the second's view is the one of before the commit
    second._recover()
    assert [trial.number for trial in second.running] == [asked.number] == [0]
    runner = analytic.Runner(RunFolder.create(tmp_path, "").path, 1)
    result = runner(TrialRequest(0), lambda progress: None).result
    first.tell(0, result)
    second._recover()
    assert second.tell(0, result).state == TrialState.COMPLETE
    assert len(study(url).trials) == 1


def test_errors_of_a_lost_connection_are_told_from_others(url):
    session = ServerSession(url, "s", Holder.myself(), role="worker")
    with pytest.raises(Exception, match="nowhere") as wrong:
        session.execute("SELECT nowhere")
    assert not is_lost(wrong.value)
    with pytest.raises(Exception, match=r".") as ended:
        session.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert is_lost(ended.value)
    session.reconnect()
    assert session.execute("SELECT 1").scalar() == 1
    assert session.try_number(7)
    assert session.held_numbers() == {7}
    session.close()
