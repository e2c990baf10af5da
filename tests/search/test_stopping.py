import math
from pathlib import Path
from types import SimpleNamespace

import analytic
import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from forgefront.search.front import Front
from forgefront.search.hypervolume import front_hypervolume, hypervolume_history
from forgefront.search.non_dominated import front_numbers
from forgefront.search.repeats import combined
from forgefront.search.run_folder import RunFolder
from forgefront.search.stopping import StopRules, stagnant
from forgefront.search.storage import sqlite_url

WAYS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]


def study_of(run: Path) -> optuna.Study:
    return optuna.load_study(study_name="analytic", storage=sqlite_url(RunFolder(run).database))


@pytest.mark.parametrize(
    ("rules", "spent", "words"),
    [
        (StopRules(9), {"elapsed": 1e9, "device_seconds": 1e9}, None),
        (StopRules(9, timeout=10), {"elapsed": 9.9}, None),
        (StopRules(9, timeout=10), {"elapsed": 10.0}, "time was up (10 s)"),
        (StopRules(9, device_hours=2), {"device_seconds": 7199}, None),
        (StopRules(9, device_hours=2), {"device_seconds": 7200}, "2 device hours"),
        (StopRules(9, stagnation=(3, 0.1)), {"hypervolumes": [1, 1, 1]}, None),
        (
            StopRules(9, stagnation=(3, 0.1)),
            {"hypervolumes": [1, 1, 1, 1.05]},
            "3 complete trials brought no more than 0.1",
        ),
        (StopRules(9, stagnation=(3, 0.1)), {"hypervolumes": [1, 1, 1, 1.2]}, None),
    ],
)
def test_rules(rules, spent, words):
    study = SimpleNamespace(device_seconds=spent.get("device_seconds", 0.0), hypervolumes=spent.get("hypervolumes", []))
    reason = rules.reason(study, elapsed=spent.get("elapsed", 0.0))
    assert reason is None if words is None else words in reason


def test_nothing_found_yet_is_not_stagnation():
    assert not stagnant([0.0] * 50, 10, 0.01)
    assert stagnant([0.0] * 50 + [1.0] * 11, 10, 0.0)
    assert not stagnant([0.0] * 50 + [1.0] * 10, 10, 0.0)


def test_a_search_that_finds_nothing_more_ends_and_goes_on_when_told_to(tmp_path):
    finished = analytic.coordinator(tmp_path, trials=60, stagnation=(6, 0.9)).run()
    assert finished.trials < finished.asked == 60
    assert "search.stagnation" in finished.stopped
    again = analytic.coordinator(tmp_path, trials=60, stagnation=(6, 0.9)).run()
    assert again.ran == 0
    assert analytic.coordinator(tmp_path, trials=finished.trials + 2).run().ran == 2


def test_device_hours_count_all_lives(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYTIC_SLEEP", "0.05")
    hours = 0.22 / 3600
    first = analytic.coordinator(tmp_path, trials=40, device_hours=hours).run()
    assert 5 <= first.trials < 12
    assert analytic.coordinator(tmp_path, trials=40, device_hours=hours).run().ran == 0


def test_the_hypervolume_is_stored_with_every_trial(tmp_path):
    analytic.coordinator(tmp_path, trials=16).run()
    study = study_of(tmp_path)
    reference = study.user_attrs["reference_point"]
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    expected = [front_hypervolume(complete[: index + 1], study.directions, reference) for index in range(len(complete))]
    assert [trial.user_attrs["hypervolume"] for trial in complete] == pytest.approx(expected, rel=1e-12)
    assert hypervolume_history(study.trials) == pytest.approx(expected, rel=1e-12)


def test_a_front_trial_by_trial_is_the_front_of_all():
    draw = np.random.default_rng(0)
    # few distinct values, so that ties and equal points come up
    points = draw.integers(0, 6, size=(200, 3)).astype(float)
    trials = []
    front = Front(WAYS, ["a", "b", "c"])
    for number, values in enumerate(points):
        trial = create_trial(state=TrialState.COMPLETE, values=list(values))
        trial.number = number
        trials.append(trial)
        front.add(number, values)
        assert list(front.numbers) == front_numbers(trials, WAYS)
        assert front.hypervolume([-1.0, 7.0, 7.0]) == pytest.approx(front_hypervolume(trials, WAYS, [-1.0, 7.0, 7.0]))
    read = Front(WAYS, ["a", "b", "c"], trials)
    assert read.numbers == front.numbers
    assert [dict(row) for row in read.values] == [dict(zip("abc", points[n], strict=True)) for n in front.numbers]


def test_scores_of_repeats():
    scores = [
        {"value": value, "standard_error": 0.3, "details": {"rate": value, "verdict": "sound", "by_class": [1]}}
        for value in (1.0, 2.0, 6.0)
    ]
    one = combined(scores)
    assert one["value"] == 3.0
    assert one["standard_error"] == pytest.approx(math.sqrt(0.09 + 7.0 / 3))
    assert one["details"] == {"rate": 3.0, "verdict": "sound", "by_class": [1]}
    assert combined(scores[:1]) == scores[0]


class RepeatingRunner(analytic.Runner):
    """Odd trials are trained three times; every third one is stopped at the first of two rungs."""

    def break_it(self, request, result):
        right = result["raw"]["accuracy"]["right"]
        values = {"accuracy": right / 1000, "macs": 1.0}
        result["rungs"] = [{"fraction": 0.25, "step": 1, "values": values}]
        if request.number and request.number % 3 == 0:
            del result["raw"]
            result |= {"state": "pruned", "reason": "behind at a quarter of its training"}
            return
        result["rungs"].append({"fraction": 0.5, "step": 2, "values": values})
        result["standing"] = [len(rung) for rung in request.standing.rungs]
        if request.number % 2:
            result["repeats"] = [{"accuracy": {"right": right - 30}, "macs": result["raw"]["macs"]}] * 2


def test_repeats_and_stopped_trials_are_told_as_such(tmp_path):
    def run(path, *counts):
        for trials in counts:
            analytic.coordinator(path, trials=trials, runner="test_stopping:RepeatingRunner", rungs=(0.25, 0.5)).run()
        return study_of(path)

    study = run(tmp_path / "whole", 14)
    states = [trial.state for trial in study.trials]
    assert [n for n, state in enumerate(states) if state == TrialState.PRUNED] == [3, 6, 9, 12]
    assert study.trials[3].values is None
    assert study.trials[3].user_attrs["rungs"][0]["values"].keys() == {"accuracy", "macs"}
    repeated = study.trials[5]
    first, *others = (values["accuracy"] for values in repeated.user_attrs["repeats"])
    assert others == pytest.approx([first - 0.03] * 2)
    assert repeated.values[0] == pytest.approx(first - 0.02)
    error = repeated.user_attrs["scores"]["accuracy"]["standard_error"]
    assert error == pytest.approx(math.sqrt(0.01**2 + 0.03**2 / 3 / 3))
    # the thirteenth trial was told what the twelve before it had reached, those before a resume included
    folder = RunFolder(tmp_path / "whole")
    assert folder.result(13)["standing"] == [13, 9]
    again = run(tmp_path / "again", 5, 9, 14)
    assert RunFolder(tmp_path / "again").result(13)["standing"] == [13, 9]
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
