"""Plans are data: JSON both ways, for any plan that the vocabulary can state."""

from __future__ import annotations

import json
import random
from dataclasses import FrozenInstanceError

import pytest

from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, Recipe, TrialPlan


def random_plan(draw: random.Random) -> TrialPlan:
    def pruning() -> Pruning:
        structure = draw.choice(["weight", "filter", "2:4", "1:16"])
        if draw.random() < 0.5:
            return Pruning(draw.random() * 0.99, structure)
        return Pruning(draw.random() * 0.99, structure, "learned", draw.uniform(0.01, 1.0), draw.uniform(0.1, 9.0))

    def layer() -> LayerPlan:
        return LayerPlan(
            pruning() if draw.random() < 0.7 else None,
            Clustering(draw.randint(2, 256), draw.choice(["layer", "channel"])) if draw.random() < 0.7 else None,
            Quantization(draw.choice(["none", "post", "aware"]), draw.choice([1, 2, 8, 32]), draw.choice([2, 3, 32]))
            if draw.random() < 0.7
            else None,
        )

    recipe = Recipe(
        draw.choice(["standard", "naturalistic", "adversarial"]),
        draw.uniform(0, 3),
        draw.choice(["none", "inverse"]),
        draw.uniform(0, 2),
        draw.choice([None, "n-fgsm"]),
        draw.choice([None, 8 / 255]),
    )
    return TrialPlan({f"layer{i}.conv": layer() for i in range(draw.randint(0, 6))}, recipe)


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


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Pruning(1.0), "sparsity"),
        (lambda: Pruning(-0.1), "sparsity"),
        (lambda: Pruning(0.5, "rows"), "structure"),
        (lambda: Pruning(0.5, "0:4"), "structure"),
        (lambda: Pruning(0.5, "weight", "random"), "mask"),
        (lambda: Pruning(0.5, target=0.0), "target"),
        (lambda: Clustering(1), "clusters"),
        (lambda: Clustering(257), "clusters"),
        (lambda: Clustering(4, "row"), "per"),
        (lambda: Quantization("dynamic"), "mode"),
        (lambda: Quantization(weight_bits=9), "weight_bits"),
        (lambda: Quantization(activation_bits=1), "activation_bits"),
        (lambda: Recipe("robust"), "regime"),
        (lambda: Recipe(augmentation_strength=-1.0), "augmentation_strength"),
        (lambda: Recipe(epsilon=8.0), "epsilon"),
        (lambda: TrialPlan.from_dict({"version": 99, "layers": {}, "recipe": {}}), "version"),
    ],
)
def test_values_out_of_range_are_named(make, argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be .*; found "):
        make()
