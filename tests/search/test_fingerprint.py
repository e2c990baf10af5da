"""A run that began before a key existed goes on; what would change its results is still refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

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
        ('space.scales="learned"', 'space.scales: "range" -> "learned"'),
        ('objectives[2].of="packed"', 'objectives[2].of: "zipped" -> "packed"'),
    ],
)
def test_a_later_key_that_changes_results_is_refused(override: str, told: str) -> None:
    with pytest.raises(StudyMismatchError) as caught:
        compare(began_before(of()), of(override))
    assert told in str(caught.value)


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
