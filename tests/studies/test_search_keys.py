"""Keys of `[search]` that end, stop, repeat and limit trials: defaults, examples, and one line for each mistake."""

from pathlib import Path

import pytest

from forgefront.studies import load_study
from forgefront.studies.errors import StudyFileError
from forgefront.studies.load import read_study_text, shipped_descriptions
from forgefront.studies.template import template


def load(*settings: str):
    return load_study("digits", overrides=[f"search.{setting}" for setting in settings])


def test_nothing_is_stopped_repeated_or_limited_by_default():
    search = load().search
    assert search.early_stopping is search.stagnation is search.device_hours is search.trial_timeout is None
    assert search.repeats == 1
    assert search.engine_options == {}


def test_examples():
    search = load(
        "early_stopping={rungs = [0.1, 0.3]}", "stagnation.trials=12", "device_hours=1.5", "trial_timeout=60.0"
    ).search
    assert (search.early_stopping.rungs, search.early_stopping.keep, search.early_stopping.warm_up) == (
        [0.1, 0.3],
        0.5,
        8,
    )
    assert (search.stagnation.trials, search.stagnation.tolerance) == (12, 0.01)
    assert (search.device_hours, search.trial_timeout) == (1.5, 60.0)


@pytest.mark.parametrize(
    ("setting", "where", "way_out"),
    [
        ("early_stopping={rungs = [0.5, 0.25]}", "search.early_stopping.rungs", "[0.25, 0.5]"),
        ("early_stopping={rungs = []}", "search.early_stopping.rungs", "1 or more"),
        ("early_stopping={rungs = [0.5, 0.5]}", "search.early_stopping.rungs", "without duplicates"),
        ("early_stopping={rungs = [0.0]}", "search.early_stopping.rungs[0]", "greater than 0"),
        ("early_stopping={rungs = [1.0]}", "search.early_stopping.rungs[0]", "less than 1"),
        ("early_stopping={keep = 1.0}", "search.early_stopping.keep", "less than 1"),
        ("early_stopping={warmup = 3}", "search.early_stopping.warmup", "warm_up"),
        ("stagnation={trials = 0}", "search.stagnation.trials", "1"),
        ("stagnation={tolerance = 1.5}", "search.stagnation.tolerance", "less than 1"),
        ("device_hours=0.0", "search.device_hours", "greater than 0"),
        ("trial_timeout=-1.0", "search.trial_timeout", "greater than 0"),
        ("repeats=0", "search.repeats", "1"),
        ("engine_options=3", "search.engine_options", "table"),
        ("engine_options={gpus = 1}", "search.engine_options", "search.engine"),
    ],
)
def test_a_mistake_is_one_line(setting, where, way_out):
    with pytest.raises(StudyFileError) as raised:
        load(setting)
    line = str(raised.value)
    assert "\n" not in line
    assert f"`{where}`" in line
    assert way_out in line


def test_a_trial_in_the_coordinators_own_process_cannot_be_ended():
    with pytest.raises(StudyFileError, match=r"`search.engine` must be left out or \"processes\" with"):
        load("trial_timeout=60.0", 'engine="serial"')


def test_the_default_sampler_is_the_one_that_is_shown_everywhere():
    bare = read_study_text(
        """
        study = { name = "short" }
        task = { data = { name = "digits", validation = { from = "train", count = 9 } }, model = { name = "digits-cnn" } }
        training = { epochs = 1 }
        space = { sparsity = { high = 0.9 } }
        objectives = [{ name = "accuracy" }]
        """,
        file="short.toml",
    )
    default = bare.search.sampler
    assert bare.search.options, "the default sampler's options are checked and stated like those of a named one"
    assert read_study_text(template("x"), file="x.toml").search.sampler == default
    shipped = [load_study(name, check_parts=False) for name in shipped_descriptions()]
    assert {study.search.sampler for study in shipped if study.space.techniques is None} == {default}
    assert f"`{default}` (default)" in (Path(__file__).parents[2] / "README.md").read_text()
