"""What people see of a run: plain lines, the live panel, status, TensorBoard, tables, the plot."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from forgefront import load_run
from forgefront.search.display import Watcher, duration, open_display
from forgefront.search.events import Preparing, StudyFinished, StudyStarted, TrialFinished, TrialProgress, TrialStarted
from forgefront.search.plot import draw_trials
from forgefront.search.run_folder import RunFolder
from forgefront.search.status import describe
from forgefront.search.tables import render
from forgefront.studies.load import load_study


def finished(
    number: int,
    *,
    state: str = "complete",
    front: tuple[int, ...] = (0,),
    seconds: float = 10.0,
    audit: str | None = None,
) -> TrialFinished:
    return TrialFinished(
        number=number,
        role="search",
        state=state,
        params={},
        values={"accuracy": 0.9} if state == "complete" else {},
        feasible=state == "complete",
        reason=None if state == "complete" else "the loss became nan",
        seconds=seconds,
        finished=number + 1,
        trials=4,
        front=front,
        hypervolume=0.5,
        audit=audit,
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (95, "1 min 35 s"), (3600, "1 h 0 min"), (7322, "2 h 2 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_watcher_knows_what_is_left() -> None:
    watcher = Watcher(workers=2)
    watcher.take(StudyStarted("s", trials=4, finished=0))
    assert watcher.time_left is None
    watcher.take(TrialStarted(0, "control", {}))
    watcher.take(TrialProgress(0, 1, 2, 10, 20, 0.7))
    assert watcher.running == {0: ("control", TrialProgress(0, 1, 2, 10, 20, 0.7))}
    watcher.take(finished(0))
    assert watcher.running == {}
    assert watcher.time_left == pytest.approx(10.0 * 3 / 2)
    watcher.take(finished(1, state="failed"))
    assert watcher.summary() == "2 of 4 trials, 1 failed, front 1, hypervolume 0.5000, about 10 s left"


def test_piped_output_is_plain_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = load_study("digits", check_parts=False)
    with open_display(study, RunFolder(tmp_path / "runs" / "digits")) as show:
        show(Preparing("measuring how long each layer takes"))
        show(StudyStarted("digits", 4, 1, adopted=(1,), warnings=("torch: 2.14 -> 2.15",), remarks=("it fits badly",)))
        show(TrialProgress(1, 1, 2, 10, 20, 0.7))
        show(finished(1, front=(0, 1)))
        show(finished(2, state="failed"))
        show(StudyFinished(4, 4, 1, 3, (0, 1), 0.5))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0] == "measuring how long each layer takes"
    assert lines[2] == "taking over trial 1, which was left running"
    assert "torch: 2.14 -> 2.15" in lines[3]
    assert lines[4] == "note: it fits badly"
    assert lines[5].startswith("trial 1 (search) *: accuracy 0.9 in 10 s")
    assert lines[6].startswith("trial 2 (search) failed: the loss became nan [")
    assert lines[7].startswith("done: 4 of 4 trials, 1 failed, 2 on the front")
    assert len(lines) == 8


def test_a_trial_of_masked_gradients_is_marked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = load_study("digits", check_parts=False)
    with open_display(study, RunFolder(tmp_path / "runs" / "digits")) as show:
        show(StudyStarted("digits", 4, 0))
        show(finished(0, audit="sound"))
        show(finished(1, audit="masked: 2 of 8 checks"))
    _, sound, masked = capsys.readouterr().err.splitlines()
    assert sound.startswith("trial 0 (search) *: accuracy 0.9 in 10 s [1 of 4 trials, front 1")
    assert masked.startswith(
        "trial 1 (search): accuracy 0.9 (masked: 2 of 8 checks) in 10 s [2 of 4 trials, 1 masked, front 1"
    )


def test_a_terminal_shows_progress_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    study = load_study("digits", check_parts=False)
    with open_display(study, RunFolder(tmp_path / "runs" / "digits")) as show:
        show(StudyStarted("digits", 4, 0))
        show(TrialStarted(0, "control", {}))
        show(finished(0))
        show(TrialStarted(1, "seed", {}))
        time.sleep(0.3)
        show(TrialProgress(1, 1, 2, 10, 20, 0.7))
        time.sleep(0.3)
    assert "epoch 1 of 2, step 10 of 20, loss 0.700" in screen.getvalue()
    assert "trial 0 (search) *: accuracy 0.9" in screen.getvalue()


def test_status_of_a_finished_run(finished_run: Path) -> None:
    lines = describe(load_run(finished_run))
    assert lines[0] == "small: 4 trials asked for; 4 complete"
    assert lines[1] == "nobody is working on it"
    assert "hypervolume" in lines[2]


def test_tensorboard_has_scalars_and_hparams_of_every_trial(finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted((finished_run / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == [f"trial-{number:04d}" for number in range(4)]
    events = EventAccumulator(str(folders[1])).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/train_accuracy", "score/accuracy", "score/latency"} <= scalars
    assert events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    stored = load_run(finished_run).trials().set_index("number").loc[1, "accuracy"]
    assert events.Scalars("score/accuracy")[0].value == pytest.approx(stored)


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_tables_hold_every_row(finished_run: Path, form: str) -> None:
    run = load_run(finished_run)
    text = render(run.trials(), run.metrics, form)
    if form == "csv":
        assert len(pd.read_csv(io.StringIO(text))) == 4
    elif form == "json":
        assert [row["number"] for row in json.loads(text)] == [0, 1, 2, 3]
    else:
        assert len(text.splitlines()) == 5


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_front_is_drawn(finished_run: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"front.{ending}"
    load_run(finished_run).plot_front(file)
    assert file.stat().st_size > 5000


@pytest.mark.parametrize("feasible", [True, False])
def test_what_breaks_a_constraint_is_not_drawn_as_dominated(feasible: bool) -> None:
    trials = pd.DataFrame(
        [
            (0, "control", True, False, 0.9, 9.0),
            (1, "search", True, True, 0.8, 1.0),
            (2, "search", True, False, 0.7, 2.0),
            (3, "search", feasible, False, 0.95, 3.0),
        ],
        columns=["number", "role", "feasible", "on_front", "accuracy", "size"],
    )
    axes = Figure().add_subplot()
    draw_trials(axes, trials, "accuracy", "size")
    drawn = {group.get_label(): group.get_offsets().tolist() for group in axes.collections}
    expected = {"front": [[0.8, 1.0]], "dense control": [[0.9, 9.0]]}
    expected |= {"dominated": [[0.7, 2.0], [0.95, 3.0]]} if feasible else {"dominated": [[0.7, 2.0]]}
    assert drawn == expected | ({} if feasible else {"breaks a constraint": [[0.95, 3.0]]})
