"""mCE and its kin: identities of what is derived, on raw numbers written by hand and on a really trained network."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forgefront.objectives.base import Judged, Subject
from forgefront.objectives.baselines import ALEXNET, Baseline, load_baseline
from forgefront.objectives.corruption import (
    FLOOR,
    SEEN,
    MeanCorruptionError,
    MeanError,
    RelativeMeanCorruptionError,
    WorstClassCorruptedAccuracy,
    corruption_error,
    corruption_names,
    corruption_scores,
)
from forgefront.objectives.corruption_metrics import NUMBERS, group_of, raw_numbers
from forgefront.studies.errors import DataError, InputError, StudyFileError
from forgefront.studies.load import load_study, study_to_toml
from forgefront.studies.registry import names, validate_options
from forgefront.studies.schema import Study

PUBLISHED = corruption_names("published")


def raw_of(errors: dict[str, list[float]], clean: float = 0.1, **changes: Any) -> dict[str, Any]:
    """Raw numbers with independent corruptions, each of variance 0.04 over 100 images; so the clean error."""
    table = {name: {str(s): e for s, e in enumerate(values, 1)} for name, values in errors.items()}
    rows = [[0.04 if i == j else 0.0 for j in range(i + 1)] for i in range(len(table) + 1)]
    return {"errors": table, "clean_error": clean, "images": 100, "tally": {}, "covariance": rows, **changes}


def judged(right: np.ndarray) -> Judged:
    correct = torch.from_numpy(right.astype(bool))
    return Judged(correct, {"correct": [int(correct.sum())], "total": [len(correct)]})


CONTROL = raw_of({"fog": [0.2, 0.4], "snow": [0.1, 0.3]})
TRIAL = raw_of({"fog": [0.3, 0.6], "snow": [0.1, 0.1]}, clean=0.05)


def test_mce_is_the_published_ratio_of_sums() -> None:
    scores = corruption_scores(TRIAL, CONTROL)
    assert scores["ce"] == pytest.approx({"fog": 150.0, "snow": 50.0})
    assert scores["errors"] == pytest.approx({"fog": 0.45, "snow": 0.1})
    assert scores["mce"] == pytest.approx(100.0)
    assert scores["mean_error"] == scores["mean_error_weather"] == pytest.approx(0.275)
    assert scores["mce_weather"] == pytest.approx(100.0)
    assert scores["relative_mce"] == pytest.approx(50.0 * ((0.45 - 0.05) / 0.2 + (0.1 - 0.05) / 0.1))
    assert scores["mean_error_change"] == pytest.approx(0.025)
    assert scores["baseline"] == "control"


def test_standard_errors_are_those_of_weighted_sums() -> None:
    scores = corruption_scores(TRIAL, CONTROL)
    one = math.sqrt(0.04 / 100)
    assert scores["errors_se"] == pytest.approx({"fog": one, "snow": one})
    assert scores["mean_error_se"] == pytest.approx(one / math.sqrt(2))
    assert scores["mean_error_change_se"] == pytest.approx(one)
    assert scores["ce_se"] == pytest.approx({"fog": 100 * one / 0.3, "snow": 100 * one / 0.2})
    assert scores["mce_se"] == pytest.approx(50 * one * math.hypot(1 / 0.3, 1 / 0.2))
    weights = [50 / 0.2, 50 / 0.1, -50 / 0.2 - 50 / 0.1]
    assert scores["relative_mce_se"] == pytest.approx(one * math.hypot(*weights))
    assert scores["clean_error_se"] == pytest.approx(one)


def test_the_control_has_100_of_itself() -> None:
    scores = corruption_scores(CONTROL, CONTROL)
    assert scores["mce"] == scores["relative_mce"] == 100.0
    assert set(scores["ce"].values()) == {100.0}
    assert scores["mean_error_change"] == 0.0


def test_a_control_without_errors_stays_finite_and_has_100_for_itself() -> None:
    perfect, trial = raw_of({"fog": [0.0, 0.0]}, clean=0.0), raw_of({"fog": [0.02, 0.0]}, clean=0.0)
    objective = MeanCorruptionError(severities=(1, 2), corruptions=["fog"])
    assert objective.derive(perfect, perfect).value == 100.0
    score = objective.derive(trial, perfect)
    assert score.value == pytest.approx(100.0 * (1.0 + 0.01 / FLOOR))
    assert score.details["floored"] == score.details["relative_floored"] == ["fog"]


@pytest.mark.parametrize("control", [0.0, FLOOR / 2, FLOOR, 0.3])
def test_corruption_error_rises_with_the_error_and_is_100_at_the_control(control: float) -> None:
    values = [corruption_error(error, control) for error in (0.0, control, 0.5, 1.0)]
    assert corruption_error(control, control) == 100.0
    assert values == sorted(values)
    if control >= FLOOR:
        assert corruption_error(0.5, control) == pytest.approx(100.0 * 0.5 / control)


def test_alexnet_has_100_by_its_published_numbers() -> None:
    raw = raw_of({name: [error] * 5 for name, error in ALEXNET.errors.items()}, clean=0.435)
    scores = corruption_scores(raw, CONTROL | raw_of({name: [0.5] for name in PUBLISHED}), ALEXNET)
    assert list(ALEXNET.errors) == PUBLISHED
    assert scores["mce"] == pytest.approx(100.0)
    assert scores["relative_mce"] == pytest.approx(100.0)
    half = corruption_scores(raw_of({name: [error / 2] for name, error in ALEXNET.errors.items()}), raw, ALEXNET)
    assert half["mce"] == pytest.approx(50.0)
    assert half["baseline"] == "alexnet"


def test_a_baseline_without_clean_error_has_no_relative_mce() -> None:
    scores = corruption_scores(TRIAL, CONTROL, Baseline("own", {"fog": 0.5, "snow": 0.5}))
    assert scores["mce"] == pytest.approx(55.0)
    assert "relative_mce" not in scores
    with pytest.raises(InputError, match="`baseline` must have the error of fog; found none in own"):
        corruption_scores(TRIAL, CONTROL, Baseline("own", {"snow": 0.5}))


def test_numbers_stored_before_there_was_a_covariance_have_no_standard_errors() -> None:
    old = {key: value for key, value in TRIAL.items() if key not in ("covariance", "tally")}
    scores = corruption_scores(old, CONTROL)
    assert scores["mce"] == pytest.approx(100.0)
    assert scores["mce_se"] is None
    assert scores["mean_error_change_se"] is None


def test_groups_are_the_published_ones() -> None:
    assert [group_of(name) for name in ("shot_noise", "glass_blur", "fog", "contrast")] == [
        "noise",
        "blur",
        "weather",
        "digital",
    ]
    assert {group_of(name) for name in corruption_names("extra")} == {"extra"}
    assert group_of("mine:rain") == "own"
    raw = raw_of({name: [0.1 * place] for place, name in enumerate(("fog", "snow", "contrast", "saturate"), 1)})
    scores = corruption_scores(raw, raw)
    assert scores["mean_error_weather"] == pytest.approx(0.15)
    assert scores["mean_error_digital"] == pytest.approx(0.3)
    assert scores["mean_error_extra"] == pytest.approx(0.4)
    assert "mean_error_noise" not in scores


@pytest.mark.parametrize(
    ("augmentation", "seen", "unseen"),
    [("naturalistic", 0.5, 0.2), ("augmix", None, 0.3), (None, None, 0.3), ("mine:augment", None, None)],
)
def test_errors_are_told_apart_by_what_the_augmentation_shows(
    augmentation: str | None, seen: float | None, unseen: float | None
) -> None:
    raw = raw_of({"gaussian_noise": [0.5], "fog": [0.1], "impulse_noise": [0.3]}, augmentation=augmentation)
    control = raw_of({"gaussian_noise": [0.9], "fog": [0.2], "impulse_noise": [0.4]})
    scores = corruption_scores(raw, control)
    assert scores.get("mean_error_seen") == (None if seen is None else pytest.approx(seen))
    assert scores.get("mean_error_unseen") == (None if unseen is None else pytest.approx(unseen))
    if seen is not None:
        assert scores["mean_error_seen_change"] == pytest.approx(-0.4)
        assert scores["mean_error_unseen_change"] == pytest.approx(-0.1)


def test_a_run_that_noted_no_augmentation_tells_nothing_apart() -> None:
    raw = raw_of({"gaussian_noise": [0.5], "fog": [0.1]})
    raw.pop("augmentation", None)
    assert not [key for key in corruption_scores(raw, raw) if "seen" in key]


def test_what_an_augmentation_shows_are_corruptions() -> None:
    assert set(SEEN) == set(names("augmentation"))
    assert all(set(seen) <= set(names("corruption")) for seen in SEEN.values())


def test_raw_numbers_hold_the_covariance_of_images_errors() -> None:
    generator = np.random.default_rng(0)
    right = generator.random((2, 3, 50)) < 0.7
    clean = generator.random(50) < 0.9
    found = {name: {s: judged(right[i, s - 1]) for s in (1, 2, 3)} for i, name in enumerate(("fog", "snow"))}
    raw = raw_numbers(judged(clean), found, augmentation="augmix")
    assert raw == json.loads(json.dumps(raw, allow_nan=False))
    assert raw["images"] == 50
    assert raw["augmentation"] == "augmix"
    assert raw["errors"]["snow"]["2"] == pytest.approx(1 - right[1, 1].mean())
    assert raw["tally"]["fog"] == {"correct": [int(right[0].sum())], "total": [150]}
    wrong = np.stack([1 - right[0].mean(0), 1 - right[1].mean(0), 1 - clean])
    expected = np.cov(wrong, bias=True)
    for i, row in enumerate(raw["covariance"]):
        assert row == pytest.approx(expected[i, : i + 1], rel=1e-5, abs=1e-12)
    # the mean over all corruptions and severities, as one mean over images
    scores = corruption_scores(raw, raw)
    mean = wrong[:2].mean(0)
    assert scores["mean_error"] == pytest.approx(mean.mean())
    assert scores["mean_error_se"] == pytest.approx(mean.std() / math.sqrt(50), rel=1e-5)
    relative = (wrong[0] - wrong[2]) / (wrong[0] - wrong[2]).mean() + (wrong[1] - wrong[2]) / (
        wrong[1] - wrong[2]
    ).mean()
    assert scores["relative_mce_se"] == pytest.approx(50 * relative.std() / math.sqrt(50), rel=1e-4)


def test_the_standard_error_is_the_spread_over_samples_of_images() -> None:
    """1,500 samples of 80 images: the stated error agrees with what is observed, to a tenth."""
    generator = np.random.default_rng(1)
    control = raw_of({"fog": [0.4, 0.4], "snow": [0.2, 0.2]}, clean=0.1)
    values, stated = [], []
    for _ in range(1500):
        difficulty = generator.random(80)
        found = {
            name: {s: judged(difficulty + 0.2 * generator.random(80) > level) for s in (1, 2)}
            for name, level in (("fog", 0.5), ("snow", 0.3))
        }
        scores = corruption_scores(raw_numbers(judged(difficulty > 0.1), found), control)
        values.append((scores["mce"], scores["relative_mce"], scores["mean_error"]))
        stated.append((scores["mce_se"], scores["relative_mce_se"], scores["mean_error_se"]))
    assert np.mean(stated, axis=0) == pytest.approx(np.std(values, axis=0), rel=0.1)


# objectives on a trained network


def test_all_variants_are_measured_once(subject: Subject) -> None:
    options: dict[str, Any] = {"severities": (2, 5), "images": 60, "corruptions": ["gaussian_noise", "fog", "pixelate"]}
    objectives = [
        kind(**options)
        for kind in (MeanCorruptionError, RelativeMeanCorruptionError, MeanError, WorstClassCorruptedAccuracy)
    ]
    raws = [objective.measure(subject) for objective in objectives]
    assert all(raw is raws[0] for raw in raws)
    scores = [objective.derive(raws[0], raws[0]) for objective in objectives]
    assert [score.value for score in scores[:2]] == [100.0, 100.0]
    assert scores[2].value == pytest.approx(scores[0].details["mean_error"])
    assert scores[2].standard_error == scores[0].details["mean_error_se"]
    assert scores[3].value <= 1.0 - scores[2].value
    assert all(score.standard_error is not None for score in scores)
    json.dumps([score.to_dict() for score in scores], allow_nan=False)
    # the images of the candidate's own accuracy are not run again
    assert raws[0]["clean_error"] == pytest.approx(1 - float(subject.clean(60).correct.double().mean()))


def test_corrupted_counts_of_classes_add_up(subject: Subject) -> None:
    objective = WorstClassCorruptedAccuracy(severities=(1, 5), images=100, corruptions=["impulse_noise", "contrast"])
    raw = objective.measure(subject)
    for name, by_severity in raw["errors"].items():
        counts = raw["tally"][name]
        assert sum(counts["total"]) == 200
        assert 1 - sum(counts["correct"]) / 200 == pytest.approx(sum(by_severity.values()) / 2)
    score = objective.derive(raw, raw)
    shares = [
        sum(raw["tally"][name]["correct"][label] for name in raw["tally"])
        / sum(raw["tally"][name]["total"][label] for name in raw["tally"])
        for label in range(10)
    ]
    assert score.value == pytest.approx(min(shares))
    assert score.details["class"] == shares.index(min(shares))
    assert score.details["images"] * 4 == sum(
        raw["tally"][name]["total"][score.details["class"]] for name in raw["tally"]
    )
    assert score.details["changes"] == [0.0] * 10
    assert score.details["largest_drop"] == 0.0


def test_corruptions_hurt_and_images_are_made_once(subject: Subject) -> None:
    objective = MeanCorruptionError(severities=(5,), images=80)
    raw = objective.measure(subject)
    assert list(raw["errors"]) == PUBLISHED
    assert len(PUBLISHED) == 15
    mean_error = sum(by_severity["5"] for by_severity in raw["errors"].values()) / 15
    assert mean_error > raw["clean_error"]
    assert objective._sets is not None
    made = {key: images.data_ptr() for key, images in objective._sets._memory.items()}
    assert len(made) == 15
    again = dataclasses.replace(subject, cache={})
    assert objective.measure(again) == raw
    assert {key: images.data_ptr() for key, images in objective._sets._memory.items()} == made


def test_errors_on_fewer_images_are_those_of_the_same_images(subject: Subject) -> None:
    raws = [
        MeanCorruptionError(severities=(3,), images=count, corruptions=["snow"]).measure(subject) for count in (1, 2, 3)
    ]
    wrong = [round(raw["errors"]["snow"]["3"] * raw["images"]) for raw in raws]
    assert wrong == sorted(wrong)
    assert wrong[2] - wrong[0] <= 2


def test_batch_size_does_not_change_what_is_measured(subject: Subject) -> None:
    options: dict[str, Any] = {"severities": (2,), "images": 50, "corruptions": ["glass_blur", "elastic_transform"]}
    other = dataclasses.replace(subject, batch_size=7, cache={})
    assert MeanCorruptionError(**options).measure(subject) == MeanCorruptionError(**options).measure(other)


def test_the_augmentation_of_the_candidate_is_noted(subject: Subject) -> None:
    objective = MeanError(severities=(1,), images=20, corruptions=["fog"])
    assert objective.measure(subject)["augmentation"] is None
    plan = subject.candidate.plan
    augmented = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, augmentation_strength=0.5))
    candidate = dataclasses.replace(subject.candidate, plan=augmented)
    other = dataclasses.replace(subject, candidate=candidate, cache={})
    assert objective.measure(other)["augmentation"] == "naturalistic"


# options


def test_words_stand_for_corruptions() -> None:
    assert len(PUBLISHED) == 15
    assert corruption_names("extra") == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert corruption_names("all") == names("corruption")
    assert MeanCorruptionError().corruptions == MeanCorruptionError(corruptions="published").corruptions == PUBLISHED
    assert corruption_names(["fog", "fog"]) == ["fog"]


def test_an_unknown_corruption_is_named_with_its_nearest_match() -> None:
    with pytest.raises(InputError, match="gaussian_noise"):
        MeanCorruptionError(corruptions=["gausian_noise"])


def test_paths_of_a_study_file_are_frozen_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = validate_options("objective", "mce", {"archive": "c", "frost": "f"})
    assert (options["archive"], options["frost"]) == (tmp_path / "c", tmp_path / "f")


def test_the_numbers_of_a_baseline_file_are_frozen(tmp_path: Path) -> None:
    errors = {"fog": 0.5, "snow": 0.25, "clean": 0.125}
    file = tmp_path / "b.json"
    file.write_text(json.dumps(errors))
    given = f'{{ name = "mce", corruptions = ["fog", "snow"], baseline = "{file}" }}'
    frozen = study_to_toml(load_study("digits", overrides=[f"objectives=[{given}]"]))
    file.unlink()
    (tmp_path / "study.toml").write_text(frozen)
    again = load_study(tmp_path / "study.toml")
    assert again.objectives[0].options["baseline"] == errors
    assert study_to_toml(again) == frozen
    assert MeanCorruptionError(**bind_options(again)).baseline == Baseline("stated", {"fog": 0.5, "snow": 0.25}, 0.125)
    for name in ("control", "alexnet"):
        assert validate_options("objective", "mce", {"baseline": name})["baseline"] == name


def bind_options(study: Study) -> dict:
    return validate_options("objective", "mce", study.objectives[0].options)


@pytest.mark.parametrize("baseline", ["alexnet", {"fog": 0.5}])
def test_means_over_five_severities_are_no_baseline_for_others(baseline: str | dict[str, float]) -> None:
    MeanCorruptionError(corruptions=["fog"], severities=(5, 4, 3, 2, 1), baseline=baseline)
    with pytest.raises(InputError) as caught:
        MeanCorruptionError(corruptions=["fog"], severities=(3, 1), baseline=baseline)
    assert "`severities` must be all of 1–5 with the baseline" in str(caught.value)
    assert str(caught.value).endswith('found [1, 3]. Did you mean baseline = "control"?')


BAD_BASELINES = [
    (
        "alex",
        None,
        'must be "control", "alexnet", a table of errors or a file.json; found "alex". Did you mean alexnet?',
    ),
    ("none.json", None, "must be a file that exists"),
    ("b.json", "not json", "must be a JSON file"),
    ("b.json", "[0.5]", "must be a table {corruption: error}; found list"),
    ("b.json", "{}", "must be a table"),
    ("b.json", '{"fog": 45.0, "snow": 0.1}', "must hold errors in [0, 1]; found fog: 45.0"),
    ("b.json", '{"fog": 45.0}', "Did you mean 0.45?"),
    ("b.json", '{"fog": true}', "must hold errors in [0, 1]"),
    ("b.json", '{"fog": -0.1}', "must hold errors in [0, 1]"),
    ("b.json", '{"fog": 0.5}', "must have the error of snow; found none in b"),
    ("b.json", '{"fog": 0.5, "snows": 0.5}', "Did you mean snows?"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_BASELINES)
def test_a_wrong_baseline_is_refused_in_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    given = str(tmp_path / name) if name.endswith(".json") else name
    with pytest.raises(InputError) as caught:
        MeanCorruptionError(corruptions=["fog", "snow"], baseline=given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_file_gives_the_denominators(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"fog": 0.5, "snow": 0.25, "clean": 0.05}')
    baseline = load_baseline(str(file))
    assert baseline == Baseline("mine", {"fog": 0.5, "snow": 0.25}, 0.05)
    score = MeanCorruptionError(corruptions=["fog", "snow"], baseline=str(file)).derive(TRIAL, CONTROL)
    assert score.value == pytest.approx((100 * 0.45 / 0.5 + 100 * 0.1 / 0.25) / 2)
    assert score.details["baseline"] == "mine"
    file.write_text('{"fog": 0.5, "snow": 0.25}')
    with pytest.raises(InputError, match='must have the error of plain images, "clean"'):
        RelativeMeanCorruptionError(corruptions=["fog", "snow"], baseline=str(file))
    with pytest.raises(InputError, match="must have the error of speckle_noise; found none in alexnet"):
        MeanCorruptionError(corruptions="all", baseline="alexnet")


def test_a_missing_archive_or_folder_of_textures_matters_where_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`archive` must be a folder"):
        MeanError(archive=tmp_path / "none").inputs("validation")
    with pytest.raises(InputError):
        MeanError(frost=tmp_path / "none").inputs("validation")
    assert MeanError(frost=tmp_path / "none", corruptions=["fog"]).inputs("validation") == {}
    raw = raw_of({"fog": [0.1]})
    assert MeanError(archive=tmp_path / "none").derive(raw, raw).value == pytest.approx(0.1)


def test_every_number_of_a_score_may_be_bounded() -> None:
    errors = {name: [0.5] for name in corruption_names("all")} | {"own:rain": [0.5]}
    for augmentation in ("naturalistic", "augmix"):
        scores = corruption_scores(raw_of(errors, augmentation=augmentation), raw_of(errors))
        assert {key for key, value in scores.items() if isinstance(value, int | float)} <= set(NUMBERS)
    assert set(NUMBERS) <= set(corruption_scores(raw_of(errors, augmentation="naturalistic"), raw_of(errors)))


@pytest.mark.parametrize("metric", ["mce", "mce_se", "mce_mean_error", "mce_mce_noise", "mce_noise", "mce_eror_fog"])
def test_a_misspelt_detail_in_a_constraint_is_told_with_the_nearest(metric: str) -> None:
    overrides = ['objectives=[{name = "mce"}]', "metrics=[]", f'constraints=["{metric} <= 0.3"]']
    if metric in ("mce", "mce_se", "mce_mean_error", "mce_noise"):
        load_study("digits", overrides=overrides)
        return
    with pytest.raises(StudyFileError) as caught:
        load_study("digits", overrides=overrides)
    (line,) = caught.value.lines
    assert f'`constraints[0]` must be on mce or a number that it states; found "{metric} <= 0.3"' in line
    assert "Did you mean" in line
