"""Fronts of several runs as one, and the table that compares techniques."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from forgefront import load_run
from forgefront.search.cli import main
from forgefront.search.merged_front import MergedRuns
from forgefront.search.record import FINGERPRINT
from forgefront.search.run_folder import RunFolder
from forgefront.search.storage import open_storage, sqlite_url
from forgefront.search.tables import LABELS, render, trials_frame
from forgefront.search.told_apart import named
from forgefront.spaces.techniques import TECHNIQUES
from forgefront.studies.errors import RunError
from forgefront.studies.load import read_study_text, study_to_toml

STUDY = """
[study]
name = "{name}"
[task.data]
name = "digits"
validation = {{ from = "train", count = 100 }}
[task.model]
name = "digits-cnn"
[training]
steps = 1
[space]
{space}
{objectives}
[search]
seeds = 0
trials = {trials}
"""
SPACE = "weight_bits = [8, 4]"
OBJECTIVES = '[[objectives]]\nname = "accuracy"\n[[objectives]]\nname = "mce"\n'
PLAIN = OBJECTIVES.replace('"mce"\n', '"mce"\nseverities = [3]\n')
SEVERE = OBJECTIVES.replace('"mce"\n', '"mce"\nseverities = [5]\n')


def frozen(values: tuple[float, float], *, role: str = "search", feasible: bool = True, **params) -> FrozenTrial:
    scores = {
        "accuracy": {"value": values[0], "standard_error": 0.0123, "details": {}},
        "mce": {"value": values[1], "standard_error": 4.5, "details": {"images": 100}},
        "macs": {"value": 1.5e6, "standard_error": None, "details": {}},
    }
    return create_trial(
        values=list(values),
        params=params,
        distributions={key: optuna.distributions.CategoricalDistribution(list(TECHNIQUES)) for key in params},
        user_attrs={"role": role, "seconds": 3.0, "scores": scores},
        constraints={"accuracy >= 0": -1.0 if feasible else 1.0},
    )


def stored(
    folder: Path,
    trials: list[FrozenTrial],
    *,
    objectives: str = OBJECTIVES,
    directions=("maximize", "minimize"),
    inputs: dict[str, str] | None = None,
) -> Path:
    """A run on disk whose database holds `trials`."""
    text = STUDY.format(name=folder.name, space=SPACE, objectives=objectives, trials=8)
    study = read_study_text(text, file="study.toml", check_parts=False)
    run = RunFolder.create(folder, study_to_toml(study))
    record = optuna.create_study(
        study_name=folder.name, storage=open_storage(sqlite_url(run.database), create=True), directions=list(directions)
    )
    with pytest.warns(ExperimentalWarning):
        record.set_metric_names([part.name for part in study.objectives])
    record.add_trials(trials)
    if inputs is not None:
        record.set_user_attr(FINGERPRINT, {"inputs": inputs})
    return folder


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    first = [frozen((0.9, 100.0), role="control"), frozen((0.8, 90.0)), frozen((0.5, 70.0), feasible=False)]
    second = [frozen((0.7, 100.0), role="control"), frozen((0.85, 80.0)), frozen((0.6, 60.0))]
    failed = create_trial(state=TrialState.FAIL, user_attrs={"role": "search", "reason": "the loss became nan"})
    return [stored(tmp_path / "one", first), stored(tmp_path / "two", [*second, failed])]


def merged(*folders: Path) -> MergedRuns:
    return MergedRuns([(folder, load_run(folder)) for folder in folders])


def forgefront(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["forgefront", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_common_front_is_what_no_run_dominates(two_runs: list[Path]) -> None:
    front = merged(*two_runs).front()
    # (0.8, 90) of the first run is on its own front, and dominated by (0.85, 80) of the second
    assert list(zip(front["run"], front["number"], strict=True)) == [("one", 0), ("two", 1), ("two", 2)]
    assert load_run(two_runs[0]).front()["number"].tolist() == [0, 1]
    everything = merged(*two_runs).trials()
    assert everything["run"].tolist() == ["one"] * 3 + ["two"] * 4
    assert everything["on_front"].sum() == 3
    assert everything.loc[6, "state"] == "fail"


def test_merging_is_the_front_of_all_points(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((30, 2)).round(2)
    folders = [stored(tmp_path / str(part), [frozen(tuple(point)) for point in points[part::3]]) for part in range(3)]
    front = merged(*folders).front()
    expected = {
        tuple(a)
        for a in points
        if not any((b[0] >= a[0] and b[1] <= a[1]) and (b[0] > a[0] or b[1] < a[1]) for b in points)
    }
    assert set(zip(front["accuracy"], front["mce"], strict=True)) == expected


def test_the_command_prints_one_table_and_says_what_is_relative(two_runs, capsys, monkeypatch, tmp_path) -> None:
    plot = tmp_path / "front.svg"
    code, out, err = forgefront(capsys, monkeypatch, "front", *two_runs, "--plot", plot)
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[:2] == ["run", "number"]
    assert [row.split()[0] for row in rows] == ["one", "two", "two"]
    assert "mce: relative to each run's own dense control" in err
    assert plot.stat().st_size > 5000
    code, out, _ = forgefront(capsys, monkeypatch, "front", *two_runs, "--all", "--format", "json")
    assert code == 0
    assert len(json.loads(out)) == 7
    code, out, _ = forgefront(capsys, monkeypatch, "front", *two_runs, "--format", "csv")
    assert pd.read_csv(io.StringIO(out))["run"].tolist() == ["one", "two", "two"]


def test_members_of_a_run_whose_folder_has_a_space_are_named_whole(two_runs, tmp_path, capsys, monkeypatch) -> None:
    spaced = two_runs[0].rename(tmp_path / "run one")
    near = stored(tmp_path / "near", [frozen((0.7, 100.0), role="control"), frozen((0.905, 101.0))])
    code, out, _ = forgefront(capsys, monkeypatch, "front", spaced, near)
    assert code == 0
    assert out.splitlines()[0].split()[-1] == "like"
    assert [row.split()[-2:] for row in out.splitlines()[1:3]] == [["run", "one/0"], ["3", "near/1"]]
    code, out, _ = forgefront(capsys, monkeypatch, "front", spaced, near, "--format", "json")
    assert [named(row["alike"]) for row in json.loads(out)] == [["run one/0"], ["near/1"], []]


def test_merged_plots_mark_what_breaks_a_constraint(two_runs, tmp_path) -> None:
    found = []
    for folders in (two_runs, [*two_runs[1:], stored(tmp_path / "three", [frozen((0.7, 90.0), role="control")])]):
        merged(*folders).plot_front(tmp_path / "front.svg")
        found.append("<!-- breaks a constraint -->" in (tmp_path / "front.svg").read_text(encoding="utf-8"))
    assert found == [True, False]


def test_a_wrong_trial_of_a_long_run_is_told_without_all_numbers(tmp_path) -> None:
    run = load_run(stored(tmp_path / "long", [frozen((0.9, 100.0))] * 40))
    with pytest.raises(RunError) as caught:
        run.complete(300)
    known = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 40 in all"
    assert str(caught.value) == f"`--trial` must be a complete trial ({known}); found 300 (state none)."


def test_one_run_is_printed_as_before(two_runs, capsys, monkeypatch) -> None:
    code, out, err = forgefront(capsys, monkeypatch, "front", two_runs[0])
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:2] == ["number", "role"]


def test_folders_of_one_name_are_told_apart_by_their_paths(two_runs, tmp_path) -> None:
    shutil.copytree(two_runs[0], tmp_path / "elsewhere" / "one")
    runs = merged(two_runs[0], tmp_path / "elsewhere" / "one").trials()["run"]
    assert set(runs) == {str(two_runs[0]), str(tmp_path / "elsewhere" / "one")}


def test_objectives_measured_otherwise_are_remarked(two_runs, tmp_path) -> None:
    plain, severe = (
        stored(tmp_path / name, [frozen((0.9, 50.0))], objectives=objectives)
        for name, objectives in (("plain", PLAIN), ("severe", SEVERE))
    )
    assert merged(plain, severe).remarks[1:] == [
        "mce is measured otherwise in severe than in plain: severities [5] instead of [3]"
    ]
    # what an older run does not state may well be the same
    assert len(merged(two_runs[0], severe).remarks) == 1


def test_a_published_baseline_is_relative_to_no_control(tmp_path) -> None:
    objectives = OBJECTIVES + 'baseline = "alexnet"\n'
    folders = [stored(tmp_path / name, [frozen((0.9, 50.0))], objectives=objectives) for name in ("one", "two")]
    assert merged(*folders).remarks == []
    others = [stored(tmp_path / name, [frozen((0.9, 50.0))]) for name in ("three", "four")]
    assert merged(*others).remarks == ["mce: relative to each run's own dense control"]


def test_other_images_and_other_targets_are_remarked(two_runs, tmp_path) -> None:
    trials = [frozen((0.9, 50.0))]
    first = stored(tmp_path / "first", trials, inputs={"data": "a", "splits": "b", "checkpoint": "c"})
    same = stored(tmp_path / "same", trials, inputs={"data": "a", "splits": "b", "checkpoint": "d"})
    apart = stored(tmp_path / "apart", trials, inputs={"data": "a", "splits": "c"})
    assert len(merged(first, same, two_runs[0]).remarks) == 1
    assert merged(first, apart).remarks[1:] == ["apart was scored on other images than first"]
    on_gpu = '[[target]]\nname = "torch-cuda"\n' + OBJECTIVES
    two, four = (f'[[target]]\nname = "onnxruntime-cpu"\nthreads = {count}\n{OBJECTIVES}' for count in (2, 4))
    gpu, two, four = (
        stored(tmp_path / name, trials, objectives=text)
        for name, text in (("gpu", on_gpu), ("dual", two), ("quad", four))
    )
    assert merged(first, gpu).remarks[1:] == ["gpu has other targets than first: torch-cuda instead of onnxruntime-cpu"]
    assert merged(two, four).remarks[1:] == [
        "onnxruntime-cpu is set otherwise in quad than in dual: threads 4 instead of 2"
    ]


@pytest.mark.parametrize(
    ("objectives", "directions", "found"),
    [
        (OBJECTIVES.replace('"mce"', '"macs"'), ("maximize", "minimize"), "no mce, macs as well in other"),
        (OBJECTIVES, ("maximize", "maximize"), "mce to maximize in other"),
        ('[[objectives]]\nname = "accuracy"\n', ("maximize",), "no mce in other"),
    ],
)
def test_runs_of_other_objectives_are_refused(
    two_runs, tmp_path, capsys, monkeypatch, objectives: str, directions: tuple[str, ...], found: str
) -> None:
    other = stored(tmp_path / "other", [], objectives=objectives, directions=directions)
    code, out, err = forgefront(capsys, monkeypatch, "front", two_runs[0], other)
    assert (code, out) == (2, "")
    wanted = "accuracy to maximize, mce to minimize"
    assert err == f"forgefront: `RUN` must have the objectives of one ({wanted}); found {found}.\n"


def test_a_run_named_twice_a_missing_one_and_none_finished(two_runs, tmp_path, capsys, monkeypatch) -> None:
    for second, expected in [(two_runs[0], "once"), (tmp_path / "none", "does not exist")]:
        code, out, err = forgefront(capsys, monkeypatch, "front", two_runs[0], second)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert expected in err
    empty = [stored(tmp_path / name, []) for name in ("a", "b")]
    code, out, err = forgefront(capsys, monkeypatch, "front", *empty)
    assert (code, out.strip()) == (0, "no trial to show")
    code, _, err = forgefront(capsys, monkeypatch, "front", *empty, "--plot", tmp_path / "front.png")
    assert code == 2
    assert "needs a complete trial" in err


def test_techniques_are_named_with_standard_errors() -> None:
    trials = [
        frozen((0.9, 100.0), role="control"),
        frozen((0.91, 80.0), role="seed", technique="technique-7"),
        frozen((0.92, 70.0), role="seed", technique="technique-16"),
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    frame = trials_frame(trials, [1])
    table = render(frame, ["accuracy", "mce", "macs"], "table")
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert lines == [
        "number technique accuracy ± mCE ±",
        "0 control 90.00% 1.23% 100 4.5",
        "1 7 Sparsity preserving Clustering 91.00% 1.23% 80 4.5",
        "2 16 PCQAT with Int8 92.00% 1.23% 70 4.5",
    ]
    rows = json.loads(render(frame, ["accuracy"], "json"))
    assert [row["technique"] for row in rows] == [None, "technique-7", "technique-16"]
    assert {row["macs"] for row in rows} == {1.5e6}
    plain = render(frame.drop(columns="technique"), ["accuracy", "mce"], "table")
    assert "±" not in plain
    assert plain.splitlines()[0].split()[:2] == ["number", "role"]


@pytest.mark.parametrize(
    ("name", "value", "head", "cell"),
    [
        ("relative_mce", 87.25, "relative mCE", "87.25"),
        ("mean_corruption_error", 0.25, "mean error", "0.25"),
        ("worst_class_corrupted_accuracy", 0.25, "corrupted worst", "25.00%"),
    ],
)
def test_a_table_of_techniques_shows_every_score_on_corrupted_images(
    name: str, value: float, head: str, cell: str
) -> None:
    row = {"number": 1, "role": "seed", "state": "complete", "reason": "", "seconds": 1.0, "technique": "technique-7"}
    frame = pd.DataFrame([row | {name: value, f"{name}_se": 0.0125}])
    first, second = render(frame, [name], "table").splitlines()
    assert first.split() == ["number", "technique", *head.split(), "±"]
    assert second.split()[-2:] == [cell, "1.25%" if cell.endswith("%") else "0.0125"]
    assert LABELS[name] in render(frame.drop(columns="technique"), [name], "table")


@pytest.mark.parametrize("run", ["castro-techniques", "r" * 80, None])
def test_a_table_of_techniques_is_at_most_120_wide(run: str | None) -> None:
    metrics = ["accuracy", "mce", "compression_ratio", "latency", "macs"]
    rows = [
        {
            "number": 100 + code,
            "role": "seed",
            "state": "complete",
            "reason": "",
            "technique": name,
            **dict.fromkeys(metrics, 1234.5) | {"accuracy": 1.0, "latency": 0.1234},
            **dict.fromkeys(["latency_ms", "macs_fraction_of_control", "seconds", "mce_se"], 123.456),
            "accuracy_se": 0.1234,
        }
        for code, name in enumerate(TECHNIQUES)
    ]
    rows[3] |= {"state": "fail", "reason": "the loss became infinite " * 9}
    frame = pd.DataFrame(rows)
    if run is not None:
        frame.insert(0, "run", run)
    head, *lines, failed = render(frame, metrics, "table").splitlines()
    expected = ["number", "technique", "accuracy", "±", "mCE", "±", "×", "smaller", "latency", "×"]
    assert head.split() == expected if run is None else ["run", *expected]
    assert len(lines) == 16
    assert max(map(len, [head, *lines, failed])) <= 120
    assert failed.startswith("trial 103: fail the loss became infinite")
    # each can be told by its code, and by its name as far as that goes
    assert "8 Sparsity preserving Clustering" in lines[7]
