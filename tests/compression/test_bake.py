"""Baking and removal: what is simulated, what is baked and what is read back are the same numbers."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import load_candidate, save_candidate
from forgefront.compression.pruning import masked_weight
from forgefront.spaces.plan import Clustering, Pruning, Quantization
from forgefront.studies.errors import CandidateError, RunError
from forgefront.studies.seeds import Seed

FILTERS, WEIGHTS = Pruning(0.4, "filter"), Pruning(0.7)
CLUSTERS, CHANNEL_CLUSTERS = Clustering(8), Clustering(4, "channel")
AWARE, LOW, POST = Quantization("aware", 8, 8), Quantization("aware", 3, 4), Quantization("post", 8, 8)
NAMES = ["digits_cnn", "resnet20", "resnet18", "mobilenet_v2"]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_masked_filters_equal_removed_filters_in_float64(case, uniform_plan, name) -> None:
    subject = case(name)
    attached = subject.trained(uniform_plan(subject.layers, pruning=FILTERS), dtype=torch.float64, steps=1)
    example, images = subject.images(1, dtype=torch.float64), subject.images(5, dtype=torch.float64, seed=9)
    candidate = bake(attached, subject.build, subject.layers, example)
    assert relative(candidate.model(images), attached.model(images)) < 1e-5
    assert torch.equal(candidate.latent(images), candidate.model(images))
    totals = candidate.achieved["totals"]
    assert totals["parameters"] < 0.6 * totals["parameters_before"]
    assert totals["macs"] < 0.6 * totals["macs_before"]
    for layer, indices in candidate.removed:
        row = candidate.achieved["layers"][layer]
        assert row["channels"] == row["channels_before"] - len(indices)
        assert row["channels"] == candidate.model.get_submodule(layer).out_channels


@pytest.mark.parametrize(
    "parts",
    [
        {"pruning": WEIGHTS},
        {"clustering": CLUSTERS},
        {"quantization": AWARE},
        {"quantization": POST},
        {"quantization": Quantization("aware", 1, 8)},
        {"quantization": Quantization("aware", 4, 32)},
        {"quantization": Quantization("aware", 32, 8)},
        {"pruning": WEIGHTS, "clustering": CLUSTERS},
        {"pruning": WEIGHTS, "clustering": CHANNEL_CLUSTERS, "quantization": LOW},
        {"pruning": WEIGHTS, "clustering": CLUSTERS, "quantization": AWARE},
        {"pruning": FILTERS, "clustering": CHANNEL_CLUSTERS},
        {"pruning": FILTERS, "clustering": CLUSTERS, "quantization": LOW},
        {"pruning": FILTERS, "clustering": CLUSTERS, "quantization": POST},
    ],
    ids=lambda parts: "+".join(f"{key}" for key in parts),
)
def test_simulated_equals_baked_for_every_combination(case, uniform_plan, parts) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, **parts), steps=5)
    candidate = bake(attached, digits.build, digits.layers, digits.images(1), integer_biases=False)
    images = digits.images(16, seed=9)
    assert relative(candidate.model(images), attached.model(images)) < 1e-4
    if not candidate.removed:
        assert torch.equal(candidate.model(images), attached.model(images))
    planned_bits = parts["quantization"].weight_bits if "quantization" in parts else 32
    assert set(candidate.codes) == ({layer.name for layer in digits.layers} if planned_bits <= 8 else set())
    limit = max(1, 2 ** (planned_bits - 1) - 1)
    for name, layer in candidate.codes.items():
        weight = candidate.model.get_submodule(name).weight
        assert torch.equal(layer.weight(), weight)
        assert layer.codes.shape == weight.shape
        assert layer.codes.abs().max() <= limit
    for name, codebook in candidate.codebooks.items():
        clustering = parts["clustering"]
        assert codebook.shape[-1] <= clustering.clusters
        assert torch.isin(candidate.model.get_submodule(name).weight, codebook).all()
        if name in candidate.codes and clustering.per == "layer":
            assert len(torch.unique(candidate.codes[name].codes)) <= clustering.clusters


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v2"])
def test_everything_at_once_on_larger_networks(case, uniform_plan, name) -> None:
    subject = case(name)
    plan = uniform_plan(subject.layers, pruning=FILTERS, clustering=CLUSTERS, quantization=AWARE)
    attached = subject.trained(plan, steps=1)
    candidate = bake(attached, subject.build, subject.layers, subject.images(1))
    images = subject.images(4, seed=9)
    # summing in another order may move single activations by one step of 8 bits
    assert relative(candidate.model(images), attached.model(images)) < 0.05
    removed = dict(candidate.removed)
    for layer in subject.layers:
        simulated = attached.source.get_submodule(layer.name).weight
        kept = [row for row in range(len(simulated)) if row not in removed.get(layer.name, [])]
        baked = candidate.model.get_submodule(layer.name).weight
        if len(baked) == len(kept) and baked.shape[1] == simulated.shape[1]:
            assert torch.equal(simulated[kept], baked)


def test_integer_biases_lie_on_the_accumulators_grid_and_move_by_half_a_step(case, uniform_plan) -> None:
    resnet = case("resnet20")
    attached = resnet.trained(uniform_plan(resnet.layers, quantization=AWARE), steps=1)
    arguments = (attached, resnet.build, resnet.layers, resnet.images(1))
    integer, floating = bake(*arguments), bake(*arguments, integer_biases=False)
    quantizer = integer.model.get_submodule(
        next(node.args[0].args[0].target for node in integer.model.graph.nodes if node.target == "linear")
    )
    step = integer.codes["linear"].scale.double() * quantizer.scale.double()
    bias, before = integer.model.linear.bias.detach(), floating.model.linear.bias.detach()
    assert ((bias - before).abs() <= step * 0.51).all()
    assert torch.allclose(bias.double() / step, torch.round(bias.double() / step), atol=1e-2)
    images = resnet.images(4, seed=9)
    assert relative(integer.model(images), floating.model(images)) < 0.05


def test_concatenations_share_a_norm_among_groups(uniform_plan) -> None:
    def build() -> nn.Module:
        return torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)

    from forgefront.spaces.layers import inspect_layers

    layers = inspect_layers(build(), (3, 32, 32))
    images = torch.rand(3, 3, 32, 32, generator=Seed(1).torch()).double()
    model = build().double()
    plan = uniform_plan(layers, pruning=Pruning(0.5, "filter"))
    attached = attach(model, plan, layers, images[:1], seed=Seed(0))
    attached.finalize([])
    candidate = bake(attached, build, layers, images[:1])
    assert len(candidate.removed) > 5
    assert relative(candidate.model(images), attached.model(images)) < 1e-9


def test_latent_is_masked_float_without_quantizers(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, pruning=WEIGHTS, clustering=CLUSTERS, quantization=AWARE))
    candidate = bake(attached, digits.build, digits.layers, digits.images(1))
    assert type(candidate.latent) is type(digits.build())
    for layer in digits.layers:
        latent = candidate.latent.get_submodule(layer.name).weight
        assert torch.equal(latent, masked_weight(attached.source.get_submodule(layer.name)))
    assert len(torch.unique(candidate.latent.get_submodule(digits.layers[2].name).weight)) > 100


def test_baked_models_are_plain_and_can_be_copied_while_the_attached_one_goes_on(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, pruning=FILTERS, clustering=CLUSTERS, quantization=AWARE))
    images = digits.images(4)
    before = attached.model(images)
    candidate = bake(attached, digits.build, digits.layers, digits.images(1))
    for model in (candidate.model, candidate.latent):
        assert not model.training
        assert not any(parametrize.is_parametrized(module) for module in model.modules())
        assert torch.equal(copy.deepcopy(model)(images), model(images))
    with torch.no_grad():
        for parameter in candidate.model.parameters():
            parameter.zero_()
    assert torch.equal(attached.model(images), before)


def test_candidates_pass_gradients_to_the_image(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, quantization=LOW))
    candidate = bake(attached, digits.build, digits.layers, digits.images(1))
    images = digits.images(4).requires_grad_()
    candidate.model(images).square().sum().backward()
    assert images.grad.any()
    assert torch.isfinite(images.grad).all()


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
@pytest.mark.parametrize("structure", ["weight", "filter"])
def test_saved_and_loaded_candidates_are_equal_bit_for_bit(case, uniform_plan, name, structure, tmp_path) -> None:
    subject = case(name)
    plan = uniform_plan(
        subject.layers, pruning=Pruning(0.4, structure), clustering=CLUSTERS, quantization=Quantization("aware", 4, 8)
    )
    candidate = bake(subject.trained(plan, steps=2), subject.build, subject.layers, subject.images(1))
    save_candidate(candidate, tmp_path / "candidate")
    loaded = load_candidate(tmp_path / "candidate", subject.build, subject.images(1))
    images = subject.images(7, seed=9)
    assert torch.equal(loaded.model(images), candidate.model(images))
    assert torch.equal(loaded.latent(images), candidate.latent(images))
    assert loaded.plan == candidate.plan
    assert loaded.removed == candidate.removed
    assert loaded.achieved == json.loads(json.dumps(candidate.achieved)) == candidate.achieved
    assert loaded.codes.keys() == candidate.codes.keys()
    for layer, codes in candidate.codes.items():
        assert torch.equal(loaded.codes[layer].codes, codes.codes)
        assert torch.equal(loaded.codes[layer].scale, codes.scale)
        assert loaded.codes[layer].bits == codes.bits
    for layer, codebook in candidate.codebooks.items():
        assert torch.equal(loaded.codebooks[layer], codebook)


def test_wrong_architectures_and_folders_are_refused(case, uniform_plan, tmp_path) -> None:
    digits, resnet = case("digits_cnn"), case("resnet20")
    plan = uniform_plan(digits.layers, pruning=FILTERS, quantization=AWARE)
    attached = digits.trained(plan)
    with pytest.raises(CandidateError, match="`build` must make"):
        bake(attached, resnet.build, digits.layers, digits.images(1))
    save_candidate(bake(attached, digits.build, digits.layers, digits.images(1)), tmp_path)
    with pytest.raises(RunError, match="`build` must make the architecture"):
        load_candidate(tmp_path, resnet.build, resnet.images(1))
    with pytest.raises(RunError, match=r"without candidate\.json"):
        load_candidate(tmp_path / "nowhere", digits.build, digits.images(1))


def test_baking_before_the_end_is_refused(case) -> None:
    from forgefront.spaces.plan import TrialPlan

    digits = case("digits_cnn")
    attached = attach(digits.model(), TrialPlan(), digits.layers, digits.images(1), seed=Seed(0))
    with pytest.raises(CandidateError, match="`attached` must be finalized"):
        bake(attached, digits.build, digits.layers, digits.images(1))
