"""The sixteen techniques of Castro et al.: what each does to which layers, when, and as a space of its own."""

from __future__ import annotations

import pytest

from forgefront.spaces.known import ladder
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import LayerPlan, Recipe, TrialPlan
from forgefront.spaces.space import SearchSpace
from forgefront.spaces.techniques import TECHNIQUES, technique
from forgefront.studies.schema_space import SpaceSection
from forgefront.studies.schema_training import TrainingSection
from forgefront.trainers.models.digits_cnn import digits_cnn

NAMES = list(TECHNIQUES)

# sparsity, clusters, mode, export; as Table II lists them
EXPECTED = {
    1: (0.0, None, None, None),
    2: (0.0, None, "post", "integer"),
    3: (0.5, None, None, None),
    4: (0.5, None, "post", "integer"),
    5: (0.0, 16, None, None),
    6: (0.0, 16, "post", "integer"),
    7: (0.5, 16, None, None),
    8: (0.5, 16, "post", "integer"),
    9: (0.0, None, "aware", "float"),
    10: (0.0, None, "aware", "integer"),
    11: (0.0, 16, "aware", "float"),
    12: (0.0, 16, "aware", "integer"),
    13: (0.5, None, "aware", "float"),
    14: (0.5, None, "aware", "integer"),
    15: (0.5, 16, "aware", "float"),
    16: (0.5, 16, "aware", "integer"),
}


@pytest.fixture(scope="module")
def layers() -> tuple[LayerInfo, ...]:
    return inspect_layers(digits_cnn(10), (3, 32, 32))


def parts(plan: LayerPlan) -> tuple[float, int | None, str | None, str | None]:
    clustering, quantization = plan.clustering, plan.quantization
    return (
        plan.sparsity,
        clustering.clusters if clustering else None,
        quantization.mode if quantization else None,
        quantization.export if quantization else None,
    )


def test_the_codes_and_titles_are_those_of_the_table() -> None:
    assert [f"technique-{code}" for code in range(1, 17)] == NAMES
    assert TECHNIQUES["technique-1"] == "Original"
    assert TECHNIQUES["technique-7"] == "Sparsity preserving Clustering"
    assert TECHNIQUES["technique-16"] == "PCQAT with Quantization Int8"


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("code", EXPECTED)
def test_what_each_technique_does_to_which_layers(layers, code: int, pretrained: bool) -> None:
    plan = technique(f"technique-{code}", layers, pretrained=pretrained)
    sparsity, clusters, mode, export = EXPECTED[code]
    for layer in layers:
        found = plan.layer(layer.name)
        depthwise = layer.kind == "depthwise"
        assert parts(found) == (0.0 if depthwise else sparsity, None if depthwise else clusters, mode, export)
        assert found.weight_bits == (32 if mode is None else 8)
        assert found.activation_bits == (32 if mode is None or layer.last else 8)
        if found.clustering:
            assert (found.clustering.gradient, found.clustering.lloyd_iterations) == ("mean", 0)
        if found.pruning:
            assert (found.pruning.structure, found.pruning.mask, found.pruning.scope) == (
                "weight",
                "magnitude",
                "layer",
            )
    assert TrialPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_stages_are_equally_long_and_follow_each_other(layers, name: str, pretrained: bool) -> None:
    plan = technique(name, layers, pretrained=pretrained)
    sparsity, clusters, mode, _ = EXPECTED[int(name.rpartition("-")[2])]
    used = [bool(sparsity), clusters is not None, mode == "aware"]
    if not any(used):
        assert plan.stages is None
        return
    stages = plan.stages
    count = sum(used) + (not pretrained)
    starts = [
        start for start, use in zip((stages.prune_start, stages.cluster, stages.quantize), used, strict=True) if use
    ]
    assert starts == pytest.approx([index / count for index in range(count - sum(used), count)])
    if sparsity:
        assert stages.prune_end == pytest.approx(stages.prune_start + 0.5 / count)


@pytest.mark.parametrize(("pretrained", "budget"), [(True, 0.0), (False, 1.0)])
def test_a_checkpoint_is_left_as_it_is_and_everything_else_is_trained_alike(layers, pretrained, budget) -> None:
    recipe = Recipe("naturalistic", 0.3)
    plans = [technique(name, layers, pretrained=pretrained, recipe=recipe) for name in NAMES]
    assert [plan.recipe.budget for plan in plans] == [budget] * 2 + [1.0] * 14
    assert {(plan.recipe.regime, plan.recipe.augmentation_strength) for plan in plans} == {("naturalistic", 0.3)}


def test_all_plans_are_different(layers) -> None:
    assert len({technique(name, layers, pretrained=True).to_json() for name in NAMES}) == 16


@pytest.mark.parametrize("name", ["technique-17", "PCQAT", ""])
def test_an_unknown_technique_is_named(layers, name: str) -> None:
    with pytest.raises(ValueError, match=f"^`name` must be technique-1 to technique-16; found '{name}'\\.$"):
        technique(name, layers, pretrained=True)


def space(layers, *, pretrained: bool = False, **section) -> SearchSpace:
    training = TrainingSection(epochs=1, regime="naturalistic", augmentation_strength=0.5)
    return SearchSpace(SpaceSection(**section), training, layers, pretrained=pretrained)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_space_of_techniques_has_one_parameter_and_gives_each_once(layers, pretrained: bool) -> None:
    found = space(layers, pretrained=pretrained, techniques="all")
    assert list(found.distributions) == ["technique"]
    rungs = ladder(found, 16)
    assert rungs == [{"technique": name} for name in NAMES]
    assert ladder(found, 40) == rungs
    assert ladder(found, 2) == rungs[:2]
    recipe = found.control().recipe
    for rung in rungs:
        expected = technique(rung["technique"], layers, pretrained=pretrained, recipe=recipe)
        assert found.decode(rung) == expected
    (row,) = found.describe()
    assert (row["variable"], row["kind"], row["layers"]) == ("technique", "categorical", len(layers))


def test_a_choice_of_techniques_keeps_its_order_and_one_alone_needs_no_parameter(layers) -> None:
    chosen = space(layers, techniques=["technique-16", "technique-2"])
    assert ladder(chosen, 9) == [{"technique": "technique-16"}, {"technique": "technique-2"}]
    with pytest.raises(ValueError, match="'technique'"):
        chosen.decode({"technique": "technique-3"})
    alone = space(layers, techniques=["technique-7"])
    assert alone.distributions == {}
    assert ladder(alone, 9) == [{}]
    assert alone.decode({}).layer("linear").sparsity == 0.5


def test_excluded_layers_stay_dense(layers) -> None:
    found = space(layers, techniques="all", exclude=["linear"])
    assert "linear" not in found.decode({"technique": "technique-16"}).layers
