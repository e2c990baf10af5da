"""A run that began before a key existed goes on; what would change its results is still refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from forgefront.objectives import MEASUREMENTS
from forgefront.search.fingerprint import compare, fingerprint
from forgefront.studies.errors import StudyMismatchError
from forgefront.studies.load import load_study

LEARNED = [
    'space.sparsity.mask=["learned"]',
    "space.sparsity.target={low = 0.5, high = 0.5}",
    "space.sparsity.strength={low = 1, high = 1}",
]
SINCE = ("clusters_per", "clusters_gradient", "lloyd_iterations", "scales", "techniques")
SINCE_SPARSITY = ("cost", "mask", "scope", "strength", "structure_per", "target")


def of(*overrides: str) -> dict[str, Any]:
    return fingerprint(load_study("digits", overrides=overrides), {}, threads=1)


def began_before(stored: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint as it was before there were these keys."""
    old = copy.deepcopy(stored)
    del old["study"]["training"]["masks"]
    for key in SINCE:
        del old["study"]["space"][key]
    for key in SINCE_SPARSITY:
        del old["study"]["space"]["sparsity"][key]
    for key in ("device_hours", "stagnation", "engine_options", "trial_timeout", "early_stopping", "repeats"):
        del old["study"]["search"][key]
    for objective in old["study"]["objectives"]:
        objective.pop("of", None)
    return old


def test_a_run_that_began_before_these_keys_goes_on() -> None:
    assert compare(began_before(of()), of()) == []
    as_metric = 'metrics=[{name = "latency"}, {name = "compression_ratio"}]'
    rest = 'objectives=[{name = "accuracy"}]'
    now = of(rest, as_metric)
    before = began_before(now)
    del before["study"]["metrics"][1]["of"]
    assert compare(before, now) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('space.sparsity.scope="global"', 'space.sparsity.scope: "layer" -> "global"'),
        ('space.clusters_gradient="sum"', 'space.clusters_gradient: "mean" -> "sum"'),
        ("space.lloyd_iterations=0", "space.lloyd_iterations: 10 -> 0"),
        ("search.repeats=2", "search.repeats: 1 -> 2"),
        ("search.early_stopping.keep=0.3", "search.early_stopping.keep: nothing -> 0.3"),
        ('space.scales="learned"', 'space.scales: "range" -> "learned"'),
        ('objectives[2].of="packed"', 'objectives[2].of: "zipped" -> "packed"'),
    ],
)
def test_a_later_key_that_changes_results_is_refused(override: str, told: str) -> None:
    with pytest.raises(StudyMismatchError) as caught:
        compare(began_before(of()), of(override))
    assert told in str(caught.value)


SINCE_TRAINING = ("attack_step_size", "augmentation", "consistency", "trades_beta", "weight_averaging")
SINCE_MEASURED = ("archive", "audit", "audit_images", "baseline", "frost", "losses", "norm")
ROBUSTNESS = [
    'objectives=[{name = "mce"}, {name = "pgd_accuracy", epsilon = "4/255"}]',
    'metrics=[{name = "relative_mce"}, {name = "latency"}]',
]


def before_robustness(stored: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint as it was before audits, baselines and archives."""
    old = copy.deepcopy(stored)
    for key in SINCE_TRAINING:
        del old["study"]["training"][key]
    del old["study"]["space"]["augmentation"]
    for part in old["study"]["objectives"] + old["study"]["metrics"]:
        for key in SINCE_MEASURED:
            part.pop(key, None)
    del old["environment"]["measurements"]
    return old


def test_a_run_that_began_before_audits_goes_on_and_is_told_that_its_scores_are_of_two_kinds() -> None:
    (line,) = compare(before_robustness(of(*ROBUSTNESS)), of(*ROBUSTNESS))
    assert line.startswith(f"environment.measurements: 1 -> {MEASUREMENTS} (")
    assert "scores of new trials are not comparable with the earlier ones" in line
    changed = ROBUSTNESS[0].replace('"4/255"', '"4/255", norm = "l2"')
    with pytest.raises(StudyMismatchError, match=r'objectives\[1\]\.norm: "linf" -> "l2"'):
        compare(before_robustness(of(*ROBUSTNESS)), of(changed, ROBUSTNESS[1]))


def test_what_objectives_read_counts_by_its_content(tmp_path: Path) -> None:
    def reading(folder: str, digest: str) -> dict[str, Any]:
        objectives = f'objectives=[{{name = "mce", archive = "{tmp_path / folder}"}}]'
        study = load_study("digits", overrides=[objectives])
        return fingerprint(study, {"objectives": {"mce": {"archive": digest}}}, threads=1)

    assert compare(reading("here", "abc"), reading("there", "abc")) == []
    with pytest.raises(StudyMismatchError, match=r'inputs\.objectives\.mce\.archive: "abc" -> "def"'):
        compare(reading("here", "abc"), reading("here", "def"))


def test_how_masks_learn_matters_where_masks_are_learned() -> None:
    changed = "training.masks.learning_rate=0.5"
    assert compare(of(), of(changed)) == []
    with pytest.raises(StudyMismatchError, match=r"training\.masks\.learning_rate: 0\.\d+ -> 0\.5"):
        compare(of(*LEARNED), of(*LEARNED, changed))


def test_the_same_study_on_other_versions_warns() -> None:
    now = of()
    before = copy.deepcopy(now)
    before["environment"]["versions"]["numpy"] = "1.0"
    (line,) = compare(before, now)
    assert line.startswith('environment.versions.numpy: "1.0" -> ')


@pytest.mark.parametrize(
    "budget",
    [
        "trials=90",
        "timeout=60.0",
        "device_hours=3.0",
        "stagnation.trials=5",
        "trial_timeout=9.0",
        "workers=2",
        'engine="ray"',
        'engine="ray"|search.engine_options.gpus=0.5',
    ],
)
def test_what_only_changes_the_budget_is_accepted(budget: str) -> None:
    now = of(*f"search.{budget}".split("|"))
    assert compare(of(), now) == []
    assert compare(began_before(of()), now) == []
