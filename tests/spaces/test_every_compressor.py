"""Spaces over all compressors: structures, masks, modes and scales that the search chooses, for each group or at once."""

from __future__ import annotations

import json

import optuna
import pytest

from forgefront.spaces.known import ladder
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import TrialPlan
from forgefront.spaces.space import SearchSpace
from forgefront.studies.schema_space import SpaceSection
from forgefront.studies.schema_training import TrainingSection
from forgefront.trainers.models.base import with_normalization
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

LEARNED = {"mask": ["magnitude", "learned"], "target": {"low": 0.3, "high": 0.9}, "strength": {"low": 1.0, "high": 9.0}}
SPARSITY = {"high": 0.9, "structure": ["weight", "filter", "2:4"], "structure_per": "group", **LEARNED}
EVERYTHING = {
    "sparsity": SPARSITY,
    "clusters": ["none", 16],
    "clusters_per": "channel",
    "weight_bits": [8, 4],
    "activation_bits": [8],
    "quantization": ["aware", "post"],
    "scales": ["range", "learned"],
}
DENSE = "stage2.dense.conv"


@pytest.fixture(scope="module")
def digits_layers() -> tuple[LayerInfo, ...]:
    return inspect_layers(digits_cnn(10), (3, 32, 32))


@pytest.fixture(scope="module")
def resnet_layers() -> tuple[LayerInfo, ...]:
    return inspect_layers(with_normalization(resnet20(10), None, None), (3, 32, 32))


def make(layers: tuple[LayerInfo, ...], **space) -> SearchSpace:
    return SearchSpace(SpaceSection(**space), TrainingSection(epochs=1), layers)


def sampled(space: SearchSpace, count: int) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(space.distributions).params for _ in range(count)]


@pytest.mark.parametrize("granularity", ["layer", "block", "stage", "network"])
@pytest.mark.parametrize("residual", ["keep", "share"])
def test_every_sample_is_one_valid_plan(digits_layers, resnet_layers, granularity, residual) -> None:
    for layers in (digits_layers, resnet_layers):
        space = make(layers, **EVERYTHING | {"granularity": granularity, "sparsity": SPARSITY | {"residual": residual}})
        for params in sampled(space, 40):
            plan = space.decode(params)
            assert plan == space.decode(json.loads(json.dumps(params)))
            assert TrialPlan.from_json(plan.to_json()) == plan
            groups: dict[str, set] = {}
            for layer in layers:
                pruning = plan.layer(layer.name).pruning
                filters = pruning is not None and pruning.structure == "filter"
                assert not filters or layer.prunable_filters
                if layer.coupled is not None and layer.kind != "depthwise":
                    groups.setdefault(layer.coupled, set()).add(pruning if filters else None)
            # summed layers lose the same filters, by the same masks, or none at all
            assert all(len(found) == 1 for found in groups.values())
            learned = {
                (p.pruning.target, p.pruning.strength, p.pruning.cost) for p in plan.layers.values() if p.learned
            }
            assert len(learned) <= 1


def test_each_group_chooses_for_itself(digits_layers) -> None:
    space = make(digits_layers, granularity="layer", **EVERYTHING)
    base = space.encode(0.5)
    name = f"structure/{DENSE}"
    assert space.distributions[name].choices == ("weight", "filter", "2:4")
    # a stem with three input channels takes no pattern of four, nor does a linear layer lose filters
    assert space.distributions["structure/stem.conv"].choices == ("weight", "filter")
    assert space.distributions["structure/linear"].choices == ("weight", "2:4")
    assert "structure/stage2.depthwise.conv" not in space.distributions
    by_filter = space.decode(base | {name: "filter", f"sparsity/{DENSE}": 0.3})
    pattern = space.decode(base | {name: "2:4", f"sparsity/{DENSE}": 0.3})
    assert (by_filter.layer(DENSE).pruning.structure, by_filter.layer(DENSE).sparsity) == ("filter", 0.3)
    assert (pattern.layer(DENSE).pruning.structure, pattern.layer(DENSE).sparsity) == ("2:4", 0.5)
    assert {k: v for k, v in by_filter.layers.items() if k != DENSE} == {
        k: v for k, v in pattern.layers.items() if k != DENSE
    }
    assert space.decode(base | {name: "2:4", f"sparsity/{DENSE}": 0.0}).layer(DENSE).pruning is None


def test_learned_masks_take_the_networks_target_and_no_sparsity(digits_layers) -> None:
    space = make(digits_layers, granularity="layer", **EVERYTHING)
    params = space.encode(0.5) | {"mask_target": 0.4, "mask_strength": 3.0, f"mask/{DENSE}": "learned"}
    for structure in ("weight", "filter"):
        found = space.decode(params | {f"structure/{DENSE}": structure}).layer(DENSE).pruning
        assert (found.mask, found.structure, found.sparsity) == ("learned", structure, 0.0)
        assert (found.target, found.strength, found.cost) == (0.4, 3.0, "operations")
    pattern = space.decode(params | {f"structure/{DENSE}": "2:4"}).layer(DENSE).pruning
    assert (pattern.mask, pattern.structure) == ("magnitude", "2:4")
    assert not space.decode(params).layer("linear").learned


def test_summed_layers_follow_the_first_of_them(resnet_layers) -> None:
    sparsity = SPARSITY | {"residual": "share"}
    space = make(resnet_layers, granularity="layer", sparsity=sparsity)
    leader, member = "network.layer2.0.conv2", "network.layer2.1.conv2"
    assert "filter" not in space.distributions[f"structure/{member}"].choices
    base = space.encode(0.0) | {f"sparsity/{leader}": 0.2, f"sparsity/{member}": 0.6}
    followed = space.decode(base | {f"structure/{leader}": "filter", f"structure/{member}": "2:4"})
    assert followed.layer(member).pruning == followed.layer(leader).pruning
    learned = space.decode(base | {f"structure/{leader}": "filter", f"mask/{leader}": "learned"})
    assert learned.layer(member).learned
    own = space.decode(base | {f"structure/{leader}": "weight", f"structure/{member}": "2:4"})
    assert (own.layer(leader).sparsity, own.layer(member).pruning.structure) == (0.2, "2:4")


def test_a_member_that_would_lose_filters_takes_the_structure_of_the_first(resnet_layers) -> None:
    sparsity = SPARSITY | {"residual": "share"}
    space = make(resnet_layers, granularity="block", sparsity=sparsity)
    base = space.encode(1.0) | {"structure/layer2.0": "2:4", "structure/layer2.1": "filter", "sparsity/layer2.1": 0.3}
    plan = space.decode(base)
    assert plan.layer("network.layer2.1.conv1").pruning.structure == "filter"
    assert plan.layer("network.layer2.1.conv2").pruning.structure == "2:4"


def test_one_structure_and_one_mask_for_the_network(digits_layers) -> None:
    space = make(digits_layers, granularity="stage", sparsity=SPARSITY | {"structure_per": "network"})
    assert {"structure", "mask", "mask_target", "mask_strength"} <= space.distributions.keys()
    assert not any(name.startswith(("structure/", "mask/")) for name in space.distributions)
    plan = space.decode(space.encode(1.0) | {"structure": "weight", "mask": "learned"})
    assert {layer.learned for layer in plan.layers.values()} == {True}


def test_global_pruning_has_one_sparsity(digits_layers) -> None:
    space = make(digits_layers, granularity="layer", sparsity={"high": 0.9, "scope": "global"})
    assert list(space.distributions) == ["sparsity/network"]
    plan = space.decode({"sparsity/network": 0.7})
    assert {(layer.sparsity, layer.pruning.scope) for layer in plan.layers.values()} == {(0.7, "global")}
    assert len(plan.layers) == len([layer for layer in digits_layers if layer.kind != "depthwise"])
    (row,) = [row for row in space.describe() if row["variable"] == "sparsity/network"]
    assert row["values"].endswith("of all layers together")
    mixed = make(digits_layers, sparsity=SPARSITY | {"scope": "global"})
    for params in sampled(mixed, 20):
        for layer in mixed.decode(params).layers.values():
            plain = layer.pruning.pattern is None and not layer.learned
            assert layer.pruning.scope == ("global" if plain else "layer")


def test_only_what_must_be_known_is_a_parameter(digits_layers) -> None:
    learned = {"structure": ["filter"], **LEARNED, "mask": ["learned"]}
    assert list(make(digits_layers, sparsity=learned).distributions) == ["mask_target", "mask_strength"]
    fixed = learned | {"target": {"low": 0.5, "high": 0.5}, "strength": {"low": 2.0, "high": 2.0}}
    space = make(digits_layers, sparsity=fixed | {"cost": "latency"})
    assert space.distributions == {}
    found = space.decode({}).layer(DENSE).pruning
    assert (found.target, found.strength, found.cost) == (0.5, 2.0, "latency")
    pattern = make(digits_layers, granularity="network", sparsity={"high": 0.5, "structure": ["2:4"]})
    # there or not
    assert pattern.distributions["sparsity/network"] == optuna.distributions.FloatDistribution(0.0, 0.5, step=0.5)
    assert len({pattern.decode(params).to_json() for params in ladder(pattern, 9)}) == len(ladder(pattern, 9)) == 1
    always = make(digits_layers, sparsity={"low": 0.5, "high": 0.5, "structure": ["1:4"]})
    assert always.decode({}).layer(DENSE).sparsity == 0.75


def test_quantization_and_scales_are_chosen_by_group(digits_layers) -> None:
    space = make(digits_layers, granularity="layer", **EVERYTHING)
    base = space.encode(0.0)
    for mode, scales, expected in [
        ("aware", "range", ("aware", "range")),
        ("aware", "learned", ("aware", "learned")),
        ("post", "range", ("post", "range")),
        ("post", "learned", ("post", "range")),
    ]:
        plan = space.decode(base | {f"quantization/{DENSE}": mode, f"scales/{DENSE}": scales})
        found = plan.layer(DENSE).quantization
        assert (found.mode, found.scales) == expected
        assert plan.layer("linear").quantization.mode == "aware"
    fixed = make(digits_layers, weight_bits=[8, 4], quantization=["aware"], scales="learned")
    assert not any(name.startswith(("quantization", "scales")) for name in fixed.distributions)
    assert fixed.decode(fixed.encode(1.0)).layer(DENSE).quantization.scales == "learned"


def test_the_last_seed_learns_its_scales_where_masks_are_not_learned(digits_layers) -> None:
    space = make(digits_layers, granularity="stage", weight_bits=[8, 4, 2], scales=["range", "learned"])
    plans = [space.decode(params) for params in ladder(space, 5)]
    assert len({plan.to_json() for plan in plans}) == len(plans) == 3
    assert [plan.layer(DENSE).quantization.scales for plan in plans] == ["range", "range", "learned"]
    assert {plan.layer(DENSE).quantization.mode for plan in plans} == {"aware"}


def test_what_is_never_quantized_has_no_mode_and_no_scales(digits_layers) -> None:
    choices = {"quantization": ["aware", "post"], "scales": ["range", "learned"]}
    floats = make(digits_layers, granularity="network", weight_bits=[32], activation_bits=[32], **choices)
    assert floats.distributions == {}
    assert floats.section.searched == []
    # the last layer's output stays float, so that nothing of it is quantized
    outputs = make(digits_layers, granularity="layer", weight_bits=[32], activation_bits=[8], **choices)
    assert f"quantization/{DENSE}" in outputs.distributions
    assert "quantization/linear" not in outputs.distributions
    assert outputs.section.searched == ["quantization", "scales"]


def test_patterns_alone_are_there_or_not(digits_layers) -> None:
    space = make(digits_layers, granularity="network", sparsity={"structure": ["2:4"]})
    assert space.distributions["sparsity/network"] == optuna.distributions.FloatDistribution(0.0, 0.5, step=0.5)
    assert space.decode({"sparsity/network": 0.0}).layers == {}
    assert space.decode({"sparsity/network": 0.5}).layer(DENSE).pruning.structure == "2:4"
    always = make(digits_layers, sparsity={"structure": ["2:4"], "low": 0.1, "high": 0.9})
    assert always.distributions == {}
    assert always.decode({}).layer(DENSE).sparsity == 0.5
    assert not always.section.searched


def test_how_clusters_train_is_fixed_for_the_study(digits_layers) -> None:
    space = make(digits_layers, clusters=[16], clusters_gradient="sum", lloyd_iterations=0)
    assert space.distributions == {}
    found = space.decode({}).layer(DENSE).clustering
    assert (found.gradient, found.lloyd_iterations) == ("sum", 0)
    default = make(digits_layers, clusters=[16]).decode({}).layer(DENSE).clustering
    assert (default.gradient, default.lloyd_iterations) == ("mean", 10)


def test_clusters_of_a_channel(digits_layers) -> None:
    space = make(digits_layers, clusters=[16], clusters_per="channel")
    assert space.decode({}).layer(DENSE).clustering.per == "channel"
    assert {row["values"] for row in space.describe()} == {"16 a channel"}


@pytest.mark.parametrize("per", ["group", "network"])
@pytest.mark.parametrize("count", [1, 2, 4, 7, 12])
def test_seeds_are_plain_but_for_the_first_and_the_last(digits_layers, per: str, count: int) -> None:
    space = make(digits_layers, granularity="layer", **EVERYTHING | {"sparsity": SPARSITY | {"structure_per": per}})
    rungs = ladder(space, count)
    plans = [space.decode(params) for params in rungs]
    assert len({plan.to_json() for plan in plans}) == count
    learned = [any(layer.learned for layer in plan.layers.values()) for plan in plans]
    assert learned == ([False] * (count - 1) + [True] if count > 1 else [False])
    for plan in plans:
        quantized = [layer.quantization for layer in plan.layers.values() if layer.quantization]
        last = plan is plans[-1] and count > 1
        expected = ("post", "range") if plan is plans[0] else ("aware", "learned") if last else ("aware", "range")
        assert {(one.mode, one.scales) for one in quantized} == {expected}
    structures = {layer.pruning.structure for plan in plans[:-1] for layer in plan.layers.values() if layer.pruning}
    assert count < 7 or structures == {"weight", "filter", "2:4"}
    assert count == 1 or all(
        layer.learned and layer.pruning.target == 0.6
        for name, layer in plans[-1].layers.items()
        if layer.pruning and not layer.pruning.pattern
    )


def test_where_all_masks_are_learned_the_target_falls(digits_layers) -> None:
    space = make(digits_layers, sparsity={"structure": ["filter"], **LEARNED, "mask": ["learned"]})
    targets = [params["mask_target"] for params in ladder(space, 4)]
    assert targets == sorted(set(targets), reverse=True)
    assert (targets[0], targets[-1]) == (0.9, 0.3)
