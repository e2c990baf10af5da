"""Plans are data: JSON both ways, for any plan that the vocabulary can state."""

from __future__ import annotations

import json
import random
from dataclasses import FrozenInstanceError

import pytest

from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, Stages, TrialPlan


def random_plan(draw: random.Random) -> TrialPlan:
    def pruning() -> Pruning:
        kind = draw.choice(["magnitude", "pattern", "learned"])
        if kind == "magnitude":
            scope = draw.choice(["layer", "global"])
            return Pruning(draw.random() * 0.99, draw.choice(["weight", "filter"]), scope=scope)
        if kind == "pattern":
            kept, of = draw.choice([(2, 4), (1, 16), (1, 3), (31, 32)])
            return Pruning(1 - kept / of, f"{kept}:{of}")
        structure = draw.choice(["weight", "filter"])
        cost = draw.choice(["operations", "parameters", *(["latency"] if structure == "filter" else [])])
        target, strength = draw.uniform(0.01, 1.0), draw.uniform(0.1, 9.0)
        return Pruning(0.0, structure, "learned", target=target, strength=strength, cost=cost)

    def clustering() -> Clustering:
        per, gradient = draw.choice(["layer", "channel"]), draw.choice(["mean", "sum"])
        return Clustering(draw.randint(2, 256), per, gradient, draw.choice([0, 10]))

    def quantization() -> Quantization:
        mode = draw.choice(["none", "post", "aware"])
        scales = draw.choice(["range", "learned"]) if mode == "aware" else "range"
        export = draw.choice(["integer", "float"])
        return Quantization(mode, draw.choice([1, 2, 8, 32]), draw.choice([2, 3, 32]), scales, export)

    def layer() -> LayerPlan:
        return LayerPlan(
            pruning() if draw.random() < 0.7 else None,
            clustering() if draw.random() < 0.7 else None,
            quantization() if draw.random() < 0.7 else None,
        )

    recipe = Recipe(
        draw.choice(["standard", "naturalistic", "adversarial"]),
        draw.uniform(0, 3),
        draw.choice(["none", "inverse"]),
        draw.uniform(0, 2),
        draw.choice([None, "n-fgsm"]),
        draw.choice([None, 8 / 255]),
        draw.choice([1.0, 0.0, draw.random()]),
    )
    start, end, cluster = sorted(draw.random() for _ in range(3))
    stages = draw.choice([None, Stages(start, end, cluster, draw.random()), Stages.joint(start, end)])
    return TrialPlan({f"layer{i}.conv": layer() for i in range(draw.randint(0, 6))}, recipe, stages)


@pytest.mark.parametrize("seed", range(50))
def test_json_round_trip_is_exact(seed: int) -> None:
    plan = random_plan(random.Random(seed))
    text = plan.to_json()
    assert TrialPlan.from_json(text) == plan
    assert TrialPlan.from_json(text).to_json() == text
    assert TrialPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_plans_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Pruning(0.5).sparsity = 0.6  # type: ignore[misc]


def test_unnamed_layers_are_dense() -> None:
    plan = TrialPlan({"a": LayerPlan(Pruning(0.5), None, Quantization("post", 4, 8))})
    assert plan.layer("b") == LayerPlan()
    assert (plan.layer("a").sparsity, plan.layer("a").weight_bits, plan.layer("a").activation_bits) == (0.5, 4, 8)
    assert (plan.layer("b").sparsity, plan.layer("b").weight_bits, plan.layer("b").activation_bits) == (0.0, 32, 32)


def test_quantization_none_means_float() -> None:
    assert LayerPlan(quantization=Quantization("none", 4, 4)).weight_bits == 32


def learned(**changes) -> Pruning:
    given = {"sparsity": 0.0, "mask": "learned", "target": 0.5, "strength": 1.0}
    return Pruning(**{**given, **changes})


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Pruning(1.0), "sparsity"),
        (lambda: Pruning(-0.1), "sparsity"),
        (lambda: Pruning(0.5, "rows"), "structure"),
        (lambda: Pruning(0.5, "0:4"), "structure"),
        (lambda: Pruning(0.5, "weight", "random"), "mask"),
        (lambda: Pruning(0.4, "2:4"), "sparsity"),
        (lambda: Pruning(0.0, "2:4"), "sparsity"),
        (lambda: Pruning(0.5, "4:2"), "structure"),
        (lambda: Pruning(0.5, "2:64"), "structure"),
        (lambda: Pruning(0.5, "2:4", scope="global"), "scope"),
        (lambda: Pruning(0.5, scope="network"), "scope"),
        (lambda: Pruning(0.5, target=0.0), "target"),
        (lambda: Pruning(0.5, strength=0.0), "strength"),
        (lambda: Pruning(0.5, cost="energy"), "cost"),
        (lambda: learned(target=None), "target"),
        (lambda: learned(target=1.1), "target"),
        (lambda: learned(strength=None), "strength"),
        (lambda: learned(sparsity=0.5), "sparsity"),
        (lambda: learned(sparsity=0.5, structure="2:4"), "structure"),
        (lambda: learned(scope="global"), "scope"),
        (lambda: learned(cost="latency"), "cost"),
        (lambda: Clustering(1), "clusters"),
        (lambda: Clustering(257), "clusters"),
        (lambda: Clustering(4, "row"), "per"),
        (lambda: Clustering(4, gradient="max"), "gradient"),
        (lambda: Clustering(4, lloyd_iterations=-1), "lloyd_iterations"),
        (lambda: Quantization("dynamic"), "mode"),
        (lambda: Quantization(weight_bits=9), "weight_bits"),
        (lambda: Quantization(activation_bits=1), "activation_bits"),
        (lambda: Quantization(scales="mean"), "scales"),
        (lambda: Quantization("post", scales="learned"), "scales"),
        (lambda: Quantization(export="double"), "export"),
        (lambda: Recipe("robust"), "regime"),
        (lambda: Recipe(augmentation_strength=-1.0), "augmentation_strength"),
        (lambda: Recipe(augmentation=" "), "augmentation"),
        (lambda: Recipe(epsilon=8.0), "epsilon"),
        (lambda: Recipe(budget=1.5), "budget"),
        (lambda: Stages(0.5, 0.4, 0.6), "prune_end"),
        (lambda: Stages(0.0, 0.6, 0.5), "cluster"),
        (lambda: Stages(quantize=1.5), "quantize"),
        (lambda: TrialPlan.from_dict({"version": 99, "layers": {}, "recipe": {}}), "version"),
    ],
)
def test_values_out_of_range_are_named(make, argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be .*; found "):
        make()


def test_learned_masks_have_a_target_instead_of_a_sparsity() -> None:
    layer = LayerPlan(learned(structure="filter", cost="latency"))
    assert layer.learned
    assert layer.sparsity == 0.0
    assert not LayerPlan(Pruning(0.5)).learned
    assert not LayerPlan().learned


@pytest.mark.parametrize(
    ("structure", "pattern"), [("weight", None), ("filter", None), ("2:4", (2, 4)), ("1:16", (1, 16))]
)
def test_a_pattern_is_read_from_its_structure(structure: str, pattern: tuple[int, int] | None) -> None:
    sparsity = 0.5 if pattern is None else 1 - pattern[0] / pattern[1]
    assert Pruning(sparsity, structure).pattern == pattern


@pytest.mark.parametrize(
    ("start", "end", "quantize"), [(0.0, 0.6, 0.1), (0.3, 0.6, 0.3), (0.0, 0.05, 0.05), (0.0, 0.0, 0.0)]
)
def test_joint_stages_quantize_from_a_tenth_on_within_their_bounds(start: float, end: float, quantize: float) -> None:
    assert Stages.joint(start, end) == Stages(start, end, end, quantize)


# as the first version of the format wrote them
VERSION_1 = [
    (
        {"pruning": {"sparsity": 0.5, "structure": "filter", "mask": "magnitude", "target": None, "strength": None}},
        LayerPlan(Pruning(0.5, "filter")),
    ),
    ({"clustering": {"clusters": 16, "per": "layer"}}, LayerPlan(None, Clustering(16))),
    (
        {"quantization": {"mode": "post", "weight_bits": 4, "activation_bits": 32}},
        LayerPlan(None, None, Quantization("post", 4, 32, "range", "integer")),
    ),
    ({"pruning": None, "clustering": None, "quantization": None}, LayerPlan()),
]


@pytest.mark.parametrize(("layer", "plan"), VERSION_1)
def test_plans_of_version_1_are_read(layer: dict, plan: LayerPlan) -> None:
    recipe = {"regime": "adversarial", "augmentation_strength": 0.5, "class_weighting": "inverse"}
    recipe |= {"class_weight_scale": 0.3, "method": "n-fgsm", "epsilon": 8 / 255}
    read = TrialPlan.from_dict({"version": 1, "layers": {"conv": layer}, "recipe": recipe})
    assert read == TrialPlan({"conv": plan}, Recipe("adversarial", 0.5, "inverse", 0.3, "n-fgsm", 8 / 255))
    assert (read.stages, read.recipe.budget) == (None, 1.0)
    assert read.to_dict()["version"] == 3
    assert TrialPlan.from_json(read.to_json()) == read


def test_plans_of_version_2_are_read() -> None:
    recipe = {"regime": "naturalistic", "augmentation_strength": 0.5, "class_weighting": "none"}
    recipe |= {"class_weight_scale": 0.0, "method": None, "epsilon": None, "budget": 0.5}
    stages = {"prune_start": 0.0, "prune_end": 0.5, "cluster": 0.75, "quantize": 0.9}
    read = TrialPlan.from_dict({"version": 2, "layers": {}, "recipe": recipe, "stages": stages})
    assert read.recipe == Recipe("naturalistic", 0.5, budget=0.5)
    assert read.recipe.augmentation == "naturalistic"
    assert read.stages == Stages(0.0, 0.5, 0.75, 0.9)


def test_the_augmentation_survives_json() -> None:
    plan = TrialPlan({}, Recipe("naturalistic", 1.0, augmentation="augmix"))
    assert TrialPlan.from_json(plan.to_json()) == plan
    assert plan.to_dict()["recipe"]["augmentation"] == "augmix"
