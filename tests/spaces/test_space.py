"""Search spaces: what is sampled, and the one plan that it means."""

from __future__ import annotations

import json

import optuna
import pytest

from forgefront.spaces.known import ladder
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import LayerPlan, Recipe, TrialPlan
from forgefront.spaces.space import SearchSpace
from forgefront.studies.errors import InputError
from forgefront.studies.schema_space import SpaceSection
from forgefront.studies.schema_training import TrainingSection
from forgefront.trainers.models.base import with_normalization
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

FULL = {
    "sparsity": {"low": 0.0, "high": 0.9, "step": 0.1, "structure": ["weight", "filter"], "residual": "share"},
    "clusters": [16, "none", 64],
    "weight_bits": [4, 8, 32, 2],
    "activation_bits": [32, 8, 4],
    "augmentation": ["naturalistic", "augmix"],
    "augmentation_strength": {"low": 0.0, "high": 2.0},
    "class_weighting": ["none", "inverse"],
    "class_weight_scale": {"low": 0.0, "high": 1.5},
}


@pytest.fixture(scope="module")
def digits_layers() -> tuple[LayerInfo, ...]:
    return inspect_layers(digits_cnn(10), (3, 32, 32))


@pytest.fixture(scope="module")
def resnet_layers() -> tuple[LayerInfo, ...]:
    return inspect_layers(with_normalization(resnet20(10), None, None), (3, 32, 32))


def make(layers: tuple[LayerInfo, ...], training: dict | None = None, **space) -> SearchSpace:
    return SearchSpace(SpaceSection(**space), TrainingSection(epochs=1, **(training or {})), layers)


def sampled(space: SearchSpace, count: int) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(space.distributions).params for _ in range(count)]


@pytest.mark.parametrize("granularity", ["layer", "block", "stage", "network"])
def test_decoding_is_deterministic_and_survives_json(digits_layers, granularity) -> None:
    space = make(digits_layers, granularity=granularity, **FULL)
    for params in sampled(space, 20):
        plan = space.decode(params)
        assert plan == space.decode(dict(reversed(params.items())))
        assert plan == space.decode(json.loads(json.dumps(params)))
        assert TrialPlan.from_json(plan.to_json()) == plan


def test_float_noise_is_rounded_to_the_step(digits_layers) -> None:
    space = make(digits_layers, granularity="network", sparsity={"high": 0.9, "step": 0.05})
    for noise in (-1e-9, 0.0, 1e-9, 4e-17):
        assert space.decode({"sparsity/network": 0.15000000000000002 + noise}).layer("stem.conv").sparsity == 0.15


def test_a_step_that_does_not_divide_the_range_stays_inside(digits_layers) -> None:
    space = make(digits_layers, granularity="network", sparsity={"low": 0.1, "high": 0.5, "step": 0.15})
    assert space.distributions["sparsity/network"].high == 0.4
    assert space.encode(1.0) == {"sparsity/network": 0.4}


def test_ordinals_run_from_weak_to_strong(digits_layers) -> None:
    space = make(digits_layers, granularity="network", **FULL)
    weak, strong = space.decode(space.encode(0.0)), space.decode(space.encode(1.0))
    name = "stage2.dense.conv"
    assert weak.layer(name) == LayerPlan()
    assert strong.layer(name).sparsity == 0.9
    assert strong.layer(name).clustering.clusters == 16
    assert (strong.layer(name).weight_bits, strong.layer(name).activation_bits) == (2, 4)
    assert space.distributions["weight_bits/network"] == optuna.distributions.IntDistribution(0, 3)


def test_encode_is_a_point_of_the_space(digits_layers) -> None:
    space = make(digits_layers, granularity="layer", **FULL)
    for level in (0.0, 0.31, 0.5, 1.0):
        params = space.encode(level)
        assert params.keys() == space.distributions.keys()
        for name, value in params.items():
            distribution = space.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value)), name
        space.decode(params)
    with pytest.raises(ValueError, match=r"`level` must be in \[0, 1\]"):
        space.encode(1.2)


def test_the_edges_keep_eight_bits_and_the_rest_obeys(digits_layers) -> None:
    space = make(digits_layers, granularity="network", weight_bits=[2, 8], activation_bits=[3, 8])
    plan = space.decode({"weight_bits/network": 1, "activation_bits/network": 1})
    for layer in digits_layers:
        # the network's own output stays float
        bits = (8, 32) if layer.last else (8, 8) if layer.first else (2, 3)
        assert (plan.layer(layer.name).weight_bits, plan.layer(layer.name).activation_bits) == bits


def test_a_choice_that_an_edge_cannot_take_is_not_offered(digits_layers) -> None:
    space = make(digits_layers, granularity="stage", weight_bits=[2, 4, 8])
    assert sorted(space.distributions) == ["weight_bits/stage1", "weight_bits/stage2"]
    assert space.decode(space.encode(1.0)).layer("linear").weight_bits == 8


def test_depthwise_is_quantized_but_neither_pruned_nor_clustered(digits_layers) -> None:
    for structure in (["weight"], ["filter"]):
        sparsity = {"high": 0.9, "structure": structure, "residual": "share"}
        space = make(digits_layers, granularity="network", **(FULL | {"sparsity": sparsity}))
        depthwise = space.decode(space.encode(1.0)).layer("stage2.depthwise.conv")
        assert depthwise.pruning is None
        assert depthwise.clustering is None
        assert depthwise.weight_bits == 2


def test_filters_of_summed_layers_are_kept_or_shared(resnet_layers) -> None:
    plans = {}
    for residual in ("keep", "share"):
        sparsity = {"high": 0.5, "structure": ["filter"], "residual": residual}
        space = make(resnet_layers, granularity="layer", sparsity=sparsity)
        params = {name: 0.1 if name.endswith("conv1") else 0.3 for name in space.distributions}
        params["sparsity/network.conv1"] = 0.4 if "sparsity/network.conv1" in params else 0.0
        plans[residual] = space.decode({name: params[name] for name in space.distributions})
    for layer in resnet_layers:
        kept, shared = plans["keep"].layer(layer.name), plans["share"].layer(layer.name)
        if layer.last:
            assert kept.pruning is None
            assert shared.pruning is None
        elif layer.coupled is None:
            assert kept.sparsity == shared.sparsity == 0.1
        else:
            assert kept.pruning is None
            assert shared.sparsity == (0.4 if layer.coupled == "network.conv1" else 0.3)
            assert shared.pruning.structure == "filter"


def test_shared_filters_have_one_variable_a_group(resnet_layers) -> None:
    sparsity = {"high": 0.5, "structure": ["filter"], "residual": "share"}
    names = make(resnet_layers, granularity="layer", sparsity=sparsity).distributions.keys()
    assert "sparsity/network.layer2.0.conv2" in names
    assert "sparsity/network.layer2.1.conv2" not in names
    assert "sparsity/network.linear" not in names


def test_excluding_one_summed_layer_spares_its_whole_group(resnet_layers) -> None:
    sparsity = {"high": 0.5, "structure": ["filter"], "residual": "share"}
    space = make(resnet_layers, granularity="network", sparsity=sparsity, exclude=["layer2.1.conv2"])
    plan = space.decode(space.encode(1.0))
    for layer in resnet_layers:
        spared = layer.last or layer.coupled == "network.layer2.0.conv2"
        assert (plan.layer(layer.name).pruning is None) == spared


def test_excluded_layers_are_left_alone(digits_layers) -> None:
    space = make(digits_layers, granularity="stage", exclude=["stage1.*", "linear"], **FULL)
    assert not any("stage1" in name or "linear" in name for name in space.distributions)
    plan = space.decode(space.encode(1.0))
    assert set(plan.layers) == {"stem.conv", "stage2.depthwise.conv", "stage2.pointwise.conv", "stage2.dense.conv"}


def test_a_pattern_that_excludes_nothing_is_refused(digits_layers) -> None:
    with pytest.raises(InputError, match=r"`space.exclude\[1\]` .*found 'steam.conv'. Did you mean 'stem.conv'\?"):
        make(digits_layers, exclude=["linear", "steam.conv"], weight_bits=[8])


def test_what_has_one_value_is_used_and_not_searched(digits_layers) -> None:
    fixed = {"weight_bits": [8], "activation_bits": [8], "class_weighting": ["inverse"]}
    space = make(digits_layers, sparsity={"low": 0.5, "high": 0.5}, **fixed)
    assert space.distributions == {}
    plan = space.decode({})
    assert plan.layer("stage2.dense.conv").sparsity == 0.5
    assert plan.layer("stage2.dense.conv").weight_bits == 8
    assert plan.recipe.class_weighting == "inverse"
    assert {row["kind"] for row in space.describe()} == {"fixed"}


def test_quantization_mode_reaches_the_plan(digits_layers) -> None:
    space = make(digits_layers, granularity="network", weight_bits=[8, 32], quantization="post")
    layer = space.decode({"weight_bits/network": 1}).layer("stem.conv")
    assert (layer.quantization.mode, layer.weight_bits, layer.activation_bits) == ("post", 8, 32)


def test_the_control_is_dense_at_the_default_recipe(digits_layers) -> None:
    training = {"regime": "adversarial", "epsilon": 4 / 255, "augmentation_strength": 0.5}
    space = make(digits_layers, training, **FULL)
    assert space.control() == TrialPlan({}, Recipe("adversarial", 0.5, "none", 0.0, method="n-fgsm", epsilon=4 / 255))
    mixed = make(digits_layers, {"augmentation": "augmix"}, **FULL)
    assert mixed.control() == TrialPlan({}, Recipe(augmentation="augmix", augmentation_strength=1.0))


def test_augmentations_are_a_choice_without_an_order(digits_layers) -> None:
    space = make(digits_layers, {"augmentation": "augmix"}, granularity="network", **FULL)
    assert space.distributions["augmentation"].choices == ("naturalistic", "augmix")
    found = {space.decode(params).recipe.augmentation for params in sampled(space, 20)}
    assert found == {"naturalistic", "augmix"}
    off = [space.decode(params | {"augmentation_strength": 0.0}).recipe for params in sampled(space, 20)]
    assert {(recipe.augmentation, recipe.augmentation_strength) for recipe in off} == {("naturalistic", 0.0)}
    # known compressions do not vary it
    assert {space.decode(params).recipe.augmentation for params in ladder(space, 5)} == {"augmix"}
    fixed = make(digits_layers, {"regime": "naturalistic"}, augmentation=["augmix"], weight_bits=[8, 4])
    assert "augmentation" not in fixed.distributions
    assert fixed.decode(fixed.encode(0.0)).recipe.augmentation == "augmix"
    assert fixed.control().recipe.augmentation == "naturalistic"


def test_the_scale_of_no_weighting_is_zero(digits_layers) -> None:
    space = make(digits_layers, granularity="network", **FULL)
    params = space.encode(0.0) | {"class_weight_scale": 0.7}
    assert space.decode(params | {"class_weighting": "none"}).recipe.class_weight_scale == 0.0
    assert space.decode(params | {"class_weighting": "inverse"}).recipe.class_weight_scale == 0.7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sparsity/network": None}, "lacks sparsity/network"),
        ({"sparsity/stage9": 0.1}, "unknown sparsity/stage9"),
        ({"sparsity/network": 0.95}, r"'sparsity/network'.*in \[0, 0.9\]; found 0.95"),
        ({"sparsity/network": "high"}, "found 'high'"),
        ({"weight_bits/network": 4}, r"index in 0–3.*found 4"),
        ({"weight_bits/network": 0.5}, "found 0.5"),
        ({"clusters/network": True}, "found True"),
        ({"structure": "channel"}, "found 'channel'"),
        ({"augmentation": "augmxi"}, "found 'augmxi'"),
        ({"augmentation": None}, "lacks augmentation"),
        ({"augmentation_strength": 2.5}, "found 2.5"),
        ({"augmentation_strength": float("nan")}, "found nan"),
    ],
)
def test_wrong_params_are_named(digits_layers, change: dict, reason: str) -> None:
    space = make(digits_layers, granularity="network", **FULL)
    params = {name: value for name, value in (space.encode(0.5) | change).items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        space.decode(params)


def test_description_counts_the_layers_of_each_variable(digits_layers) -> None:
    rows = {row["variable"]: row for row in make(digits_layers, granularity="stage", **FULL).describe()}
    assert rows["sparsity/stage2"]["layers"] == 2
    assert rows["weight_bits/stage2"]["layers"] == 3
    assert rows["clusters/stage1"]["values"] == "none, 64, 16"
    assert rows["class_weighting"]["kind"] == "categorical"


@pytest.mark.parametrize("granularity", ["layer", "stage", "network"])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_ladder_is_distinct_and_decodes(digits_layers, granularity, count: int) -> None:
    space = make(digits_layers, granularity=granularity, **FULL)
    rungs = ladder(space, count)
    assert len(rungs) == count
    plans = [space.decode(params) for params in rungs]
    assert len({plan.to_json() for plan in plans}) == count
    assert ladder(space, count) == rungs


def test_ladder_begins_with_eight_bits_alone_and_climbs(digits_layers) -> None:
    space = make(digits_layers, granularity="stage", **FULL)
    plans = [space.decode(params) for params in ladder(space, 7)]
    for name, layer in plans[0].layers.items():
        assert (layer.weight_bits, layer.activation_bits) == (8, 32 if name == "linear" else 8)
        assert layer.pruning is None
        assert layer.clustering is None
    dense = [plan.layer("stage2.dense.conv") for plan in plans[1:]]
    assert [layer.pruning.structure for layer in dense] == ["weight", "filter"] * 3
    for structure in ("weight", "filter"):
        rising = [layer.sparsity for layer in dense if layer.pruning.structure == structure]
        assert rising == sorted(set(rising))
    assert dense[-1].weight_bits < 8
    assert {plan.recipe.augmentation_strength for plan in plans} == {0.0}


def test_ladder_takes_the_middle_where_the_default_is_outside(digits_layers) -> None:
    space = make(
        digits_layers, granularity="network", augmentation_strength={"low": 1.0, "high": 2.0}, weight_bits=[8, 4]
    )
    assert [params["augmentation_strength"] for params in ladder(space, 2)] == [1.5, 1.5]


def test_ladder_ends_where_the_space_does(digits_layers) -> None:
    space = make(digits_layers, granularity="network", weight_bits=[32, 8])
    assert len(ladder(space, 9)) == 1
    assert ladder(make(digits_layers, weight_bits=[8]), 9) == [{}]
    with pytest.raises(ValueError, match="`count` must be 0 or more"):
        ladder(space, -1)
