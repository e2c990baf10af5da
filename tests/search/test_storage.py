import os
import pickle
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from forgefront.search.single_writer import SingleWriterStorage
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.studies.errors import RunError

SPACE = {
    **{f"sparsity/{layer}": FloatDistribution(0.0, 0.9, step=0.05) for layer in range(20)},
    "bits": IntDistribution(0, 3),
    "weighting": CategoricalDistribution(["none", "inverse", None]),
}


@pytest.fixture
def url(tmp_path):
    folder = tmp_path / "run {1}"
    folder.mkdir()
    return sqlite_url(folder / "study.db")


@pytest.fixture
def commits():
    """A list that grows by one for every transaction that is committed, on any engine."""
    seen = []

    def note(connection):
        seen.append(connection)

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", note)
    yield seen
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "commit", note)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "study.db"
    optuna.storages.RDBStorage(sqlite_url(path)).engine.dispose()
    return path


class TestConformance(StorageTestCase):
    """Optuna's own cases, but for pickling (a copy would be a second writer) and what is passed straight through."""

    test_get_all_studies = None

    @pytest.fixture
    def storage(self, empty_database, tmp_path):
        # a copy, because making the tables takes longer than any of these tests
        copied = shutil.copy(empty_database, tmp_path / "study.db")
        return SingleWriterStorage(optuna.storages.RDBStorage(sqlite_url(Path(copied)), skip_compatibility_check=True))

    def test_pickle_storage(self, storage):
        with pytest.raises(TypeError):
            pickle.dumps(storage)


def ask_and_tell(study, storage):
    trial = study.ask(SPACE)
    trial.set_user_attr("role", "search")
    storage.flush(trial._trial_id)
    trial.set_user_attr("scores", {"accuracy": {"value": 0.1 + 0.2}})
    trial.set_user_attr("seconds", 1.5)
    trial.set_constraint("accuracy >= 0.5", -0.1)
    study.tell(trial.number, [0.1 + 0.2, 1 / 3])
    return trial


def test_a_trial_is_asked_in_one_transaction_and_told_in_one(url, commits):
    storage = SingleWriterStorage(open_storage(url, create=True))
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"], study_name="s")
    storage.get_all_trials(study._study_id)
    ask_and_tell(study, storage)
    written = len(commits)
    trial = study.ask(SPACE)
    trial.set_user_attr("role", "search")
    assert len(commits) == written
    storage.flush(trial._trial_id)
    assert len(commits) == written + 1
    trial.set_user_attr("seconds", 1.5)
    trial.set_constraint("c", 0.0)
    study.tell(trial.number, [1.0, 2.0])
    assert len(commits) == written + 2


def test_optuna_reads_what_the_writer_holds_bit_for_bit(url):
    storage = SingleWriterStorage(open_storage(url, create=True))
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"], study_name="s")
    for _ in range(5):
        ask_and_tell(study, storage)
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    running = study.ask(SPACE)
    storage.flush(running._trial_id)
    read = optuna.load_study(study_name="s", storage=url)

    def content(trial):
        known = (trial.number, trial.state, trial.values, trial._trial_id, trial.datetime_start)
        return (*known, trial.params, list(trial.params), trial.distributions, trial.user_attrs, trial.system_attrs)

    assert [content(trial) for trial in read.trials] == [content(trial) for trial in study.trials]
    assert [trial.number for trial in read.trials] == list(range(7))
    assert len(read.trials_dataframe()) == 7
    assert {trial.number for trial in read.best_trials} == {trial.number for trial in study.best_trials}


def test_what_was_not_flushed_was_never_there(url):
    storage = SingleWriterStorage(open_storage(url, create=True))
    study = optuna.create_study(storage=storage, study_name="s")
    study.ask(SPACE)
    assert optuna.load_study(study_name="s", storage=url).trials == []


def test_a_second_writer_is_noticed(url):
    storage = SingleWriterStorage(open_storage(url, create=True))
    study = optuna.create_study(storage=storage, study_name="s")
    trial = study.ask(SPACE)
    optuna.load_study(study_name="s", storage=url).ask()
    with pytest.raises(RunError, match="one writer"):
        storage.flush(trial._trial_id)


def test_changed_choices_are_refused_as_by_optuna(url):
    storage = SingleWriterStorage(open_storage(url, create=True))
    study = optuna.create_study(storage=storage, study_name="s")
    study.tell(study.ask({"x": CategoricalDistribution(["a", "b"])}), 1.0)
    again = optuna.load_study(study_name="s", storage=SingleWriterStorage(open_storage(url)))
    with pytest.raises(ValueError, match="dynamic value space"):
        again.ask({"x": CategoricalDistribution(["a", "c"])})


def test_write_ahead_log_and_timeout_are_on(url):
    with open_storage(url, create=True).engine.connect() as connection:
        read = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        # every commit is on disk before it counts
        assert read == ["wal", 2]
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def damaged(path):
    storage = open_storage(sqlite_url(path), create=True)
    study = optuna.create_study(storage=storage)
    for _ in range(4):
        study.tell(study.ask(SPACE), 1.0)
    storage.engine.dispose()
    size = os.path.getsize(path)
    with path.open("r+b") as file:
        file.seek(size // 3)
        file.write(b"\xff" * (size // 3))


def foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "found no file"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.write_text("hello, this is text\n"), "another kind of file"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\x07" * 4000), "damaged"),
        (lambda path: path.mkdir(), "not"),
        (foreign, "another program"),
        (damaged, "damaged"),
    ],
)
def test_a_bad_database_gives_one_line(tmp_path, make, words):
    path = tmp_path / "study.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(RunError, match=words) as caught:
        open_storage(sqlite_url(path))
    assert "\n" not in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize("url", ["study.db", "nosuch://host/name", "sqlite:////nosuch/folder/study.db", ""])
def test_a_bad_url_gives_one_line(url):
    with pytest.raises(RunError) as caught:
        open_storage(url, create=True)
    assert "\n" not in str(caught.value)
