"""A run's cost table: measured once under the lock, then frozen, and a run with another one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import analytic
import pytest

from forgefront.search import cost_measurement
from forgefront.search.coordinator import coordinator_for
from forgefront.search.cost import COST_TABLE, cost_inputs, needs_cost_table, read_cost_table
from forgefront.search.cost_measurement import load_or_measure
from forgefront.search.events import Preparing, StudyStarted
from forgefront.search.lock import coordinator_lock
from forgefront.search.problem import Prepared
from forgefront.search.run import load_run
from forgefront.search.run_folder import RunFolder
from forgefront.search.trial import TrialContext
from forgefront.studies.errors import LockHeldError, RunError, StudyMismatchError, TargetError
from forgefront.studies.load import load_study, study_to_toml
from forgefront.studies.schema import Study

STUDY = """
[study]
name = "timed"

[task]
data = { name = "digits", train_images = 128, validation = { from = "train", count = 64 } }
model = { name = "digits-cnn" }

[training]
regime = "standard"
steps = 8
batch_size = 32
threads = 1

[space]
granularity = "network"
weight_bits = [8]
activation_bits = [8]

[space.sparsity]
structure = ["filter"]
mask = ["learned"]
cost = "latency"
target = { low = 0.5, high = 0.9 }
strength = { low = 1.0, high = 1.0 }

[[objectives]]
name = "accuracy"

[[objectives]]
name = "macs"

[search]
seeds = 0
trials = 1
"""


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(cost_measurement, "SECONDS", 0.0)


def study_in(folder: Path, *, without: str = "") -> Study:
    file = folder / "timed.toml"
    file.write_text(STUDY.replace(without, ""))
    return load_study(str(file))


def opened(folder: Path, study: Study) -> RunFolder:
    return RunFolder.create(folder / "run", study_to_toml(study))


# the file


def test_a_table_is_measured_once_and_then_read(tmp_path):
    study = study_in(tmp_path)
    context = TrialContext(opened(tmp_path, study).path, 1, study)
    assert cost_inputs(context.folder.path, context.study) == {}
    said: list[str] = []
    table = load_or_measure(context, said.append)
    assert len(said) == 1
    assert "onnxruntime-cpu" in said[0]
    assert list(table.layers) == [layer.name for layer in context.layers]
    assert table.integer
    assert table.target == "onnxruntime-cpu"
    written = (context.folder.path / COST_TABLE).read_bytes()
    assert load_or_measure(context, said.append) == read_cost_table(context.folder.path) == table
    assert (context.folder.path / COST_TABLE).read_bytes() == written
    assert len(said) == 1
    assert cost_inputs(context.folder.path, context.study) == {"cost_table": table.digest}


def test_a_missing_or_damaged_table_is_told_in_one_line(tmp_path):
    study = study_in(tmp_path)
    folder = opened(tmp_path, study)
    with pytest.raises(RunError, match=COST_TABLE):
        read_cost_table(folder.path)
    for text in ("{", "[]", '{"version": 1}', '{"version": 9}'):
        (folder.path / COST_TABLE).write_text(text)
        with pytest.raises(RunError, match=COST_TABLE) as caught:
            load_or_measure(TrialContext(folder.path, 1, study))
        assert "\n" not in str(caught.value)


def test_only_masks_that_are_trained_for_latency_need_one(tmp_path):
    assert needs_cost_table(study_in(tmp_path))
    assert not needs_cost_table(study_in(tmp_path, without='cost = "latency"\n'))
    assert not needs_cost_table(load_study("digits"))


def test_without_a_target_there_is_nothing_to_measure_on(tmp_path):
    study = study_in(tmp_path).model_copy(update={"target": []})
    with pytest.raises(TargetError, match="`target` must be given"):
        load_or_measure(TrialContext(opened(tmp_path, study).path, 1, study))


# the coordinator


def prepared(path: Path, prepare, **changes):
    return analytic.coordinator(path, trials=2, prepare=prepare, **changes)


def test_what_is_prepared_joins_the_inputs_and_another_one_is_refused(tmp_path):
    fingerprint = analytic.problem().fingerprint | {"inputs": {"data": "abc"}}
    for _ in range(2):
        prepared(tmp_path / "run", lambda announce: Prepared({"cost_table": "first"}), fingerprint=fingerprint).run()
    stored = load_run_fingerprint(tmp_path / "run")
    assert stored["inputs"] == {"data": "abc", "cost_table": "first"}
    with pytest.raises(StudyMismatchError, match=r'inputs.cost_table: "first" -> "second"'):
        prepared(tmp_path / "run", lambda announce: Prepared({"cost_table": "second"}), fingerprint=fingerprint).run()
    with pytest.raises(StudyMismatchError, match=r'inputs.cost_table: "first" -> nothing'):
        analytic.coordinator(tmp_path / "run", trials=2, fingerprint=fingerprint).run()


def test_what_takes_a_while_and_what_to_know_of_it_are_told(tmp_path):
    def prepare(announce):
        announce("measuring")
        return Prepared({}, ("it fits badly",))

    events: list = []
    prepared(tmp_path / "run", prepare).run(events.append)
    assert events[0] == Preparing("measuring")
    assert events[1].remarks == ("it fits badly",)
    assert events[1].warnings == ()


def test_it_is_prepared_under_the_lock_and_a_failure_frees_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    held: list[bool] = []

    def prepare(announce):
        with pytest.raises(LockHeldError), coordinator_lock(folder.lock, f"sqlite:///{folder.database}", name="x"):
            pass
        held.append(not folder.database.exists())
        raise TargetError("`target` must be measurable; found none.")

    for _ in range(2):
        with pytest.raises(TargetError):
            prepared(folder.path, prepare).run()
    assert held == [True, True]
    analytic.coordinator(folder.path, trials=2).run()


def load_run_fingerprint(path: Path) -> dict:
    import optuna

    study = optuna.load_study(study_name="analytic", storage=f"sqlite:///{path / 'study.db'}")
    return study.user_attrs["fingerprint"]


def test_a_run_keeps_its_table_and_goes_on_with_no_other(tmp_path):
    study = study_in(tmp_path)
    folder = RunFolder(tmp_path / "run")
    coordinator = coordinator_for(folder, study)
    opened(tmp_path, study)
    events: list = []
    coordinator.run(events.append)
    assert [type(event) for event in events[:2]] == [Preparing, StudyStarted]
    table = read_cost_table(folder.path)
    assert load_run(folder.path).fingerprint["inputs"]["cost_table"] == table.digest
    assert coordinator_for(folder, study).run(events.append).ran == 0
    again = [event for event in events if isinstance(event, StudyStarted)]
    assert [list(event.remarks) for event in again] == [table.remarks()] * 2
    assert sum(isinstance(event, Preparing) for event in events) == 1
    file = folder.path / COST_TABLE
    changed = json.loads(file.read_text()) | {"integer": False}
    file.write_text(json.dumps(changed))
    with pytest.raises(StudyMismatchError, match=r"inputs\.cost_table"):
        coordinator_for(folder, study).run()
    file.unlink()
    with pytest.raises(RunError, match=f"must hold {COST_TABLE}"):
        coordinator_for(folder, study).run()
