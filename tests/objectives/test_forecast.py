"""Forecasts of operations and sizes against what attaching, baking and exporting really give."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from scipy.stats import spearmanr
from torch import nn

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.candidate import Candidate
from forgefront.compression.masks import filter_mask
from forgefront.compression.packing import packed_sizes
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.objectives.accuracy import Accuracy
from forgefront.objectives.forecast_channels import ChannelModel, kept_channels
from forgefront.objectives.forecast_facts import PlanFacts
from forgefront.objectives.forecast_size import sizes
from forgefront.objectives.latency import Latency
from forgefront.objectives.macs_count import count_macs
from forgefront.objectives.size import CompressionRatio, MACs
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.spaces.space import SearchSpace
from forgefront.studies.schema_space import SpaceSection
from forgefront.studies.schema_training import TrainingSection
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn
from forgefront.trainers.models.small_images import mobilenetv2_cifar, resnet18_cifar

BUILD: dict[str, Callable[[], nn.Module]] = {
    "digits-cnn": lambda: digits_cnn(10),
    "resnet20": lambda: resnet20(10),
    "mobilenetv2-cifar": lambda: mobilenetv2_cifar(10),
    "resnet18-cifar": lambda: resnet18_cifar(10),
}
EXAMPLE = torch.rand(1, 3, 32, 32, generator=Seed(0).child("example").torch())


@functools.cache
def layers_of(name: str) -> tuple[LayerInfo, ...]:
    return inspect_layers(BUILD[name](), (3, 32, 32))


def facts_of(name: str, round_to: int = 1) -> PlanFacts:
    return PlanFacts(BUILD[name], layers_of(name), EXAMPLE, round_to=round_to, targets=["onnxruntime-cpu"])


def lively(name: str) -> nn.Module:
    """A model whose numbers are spread as trained ones are: normal weights, norms that are not the identity."""
    model, generator = BUILD[name](), Seed(0).child("lively").torch()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
            elif value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def baked(name: str, plan: TrialPlan, round_to: int = 1) -> Candidate:
    attached = attach(lively(name), plan, layers_of(name), EXAMPLE, seed=Seed(0), round_to=round_to)
    attached.finalize([EXAMPLE])
    return bake(attached, BUILD[name], layers_of(name), EXAMPLE)


def space_of(name: str, **sparsity: Any) -> SearchSpace:
    section = SpaceSection.model_validate(
        {
            "granularity": "layer",
            "sparsity": {"low": 0.0, "high": 0.9, "structure": ["filter", "weight", "2:4"], **sparsity},
            "clusters": ["none", 64, 16, 4],
            "weight_bits": [8, 6, 4, 3],
        }
    )
    return SearchSpace(section, TrainingSection(regime="standard", steps=10), layers_of(name))


def drawn(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Uniform params."""
    generator = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            params[name] = distribution.choices[generator.integers(len(distribution.choices))]
        else:
            params[name] = space.variables[name].at(generator.random())
    return params


# operations


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 16, 100])
@pytest.mark.parametrize("round_to", [1, 3, 8])
def test_kept_channels_are_the_masks(channels: int, round_to: int) -> None:
    for sparsity in np.arange(0.0, 1.0, 0.05):
        mask = filter_mask(torch.rand(channels), float(sparsity), round_to=round_to)
        assert kept_channels(channels, float(sparsity), round_to) == int(mask.sum())


@pytest.mark.parametrize(
    ("name", "sparsity", "round_to", "seed"),
    [
        *(("digits-cnn", {"structure_per": "group", "residual": "share"}, to, seed) for to, seed in ((1, 0), (8, 1))),
        *(("digits-cnn", {"structure_per": "group", "residual": "keep"}, to, seed) for to, seed in ((1, 2), (4, 3))),
        *(("resnet20", {"structure_per": "group", "residual": "share"}, to, seed) for to, seed in ((1, 0), (8, 1))),
        ("resnet20", {"structure": ["filter"], "residual": "keep"}, 1, 2),
        ("resnet20", {"structure": ["weight", "2:4"]}, 1, 3),
        ("mobilenetv2-cifar", {"structure_per": "group", "residual": "share"}, 8, 0),
        ("resnet18-cifar", {"structure_per": "group", "residual": "share"}, 3, 0),
    ],
)
def test_operations_are_forecast_exactly(name: str, sparsity: Mapping[str, Any], round_to: int, seed: int) -> None:
    space = space_of(name, **sparsity)
    plan = space.decode(drawn(space, seed))
    plan = TrialPlan({key: LayerPlan(pruning=layer.pruning) for key, layer in plan.layers.items()})
    facts, candidate = facts_of(name, round_to), baked(name, plan, round_to)
    told = MACs().forecast(plan, facts)
    assert told.exact
    assert told.value == candidate.achieved["totals"]["macs"] == count_macs(candidate.model, EXAMPLE)
    dense = candidate.achieved["totals"]["macs_before"]
    assert told.details["fraction_of_control"].value == told.value / dense
    counts = facts.counts(plan)
    for row, layer in enumerate(facts.layers):
        weight = candidate.model.get_parameter(f"{layer.name}.weight")
        assert (counts.outputs[row], counts.inputs[row]) == tuple(weight.shape[:2])


def test_a_plan_that_contradicts_itself_is_counted_as_it_is_carried_out() -> None:
    """Coupled layers with plans of their own follow the first that is to lose filters."""
    coupled = [layer.name for layer in layers_of("resnet20") if layer.coupled is not None][:3]
    plan = TrialPlan({name: LayerPlan(Pruning(s, "filter")) for name, s in zip(coupled, (0.0, 0.3, 0.7), strict=True)})
    candidate = baked("resnet20", plan)
    assert candidate.achieved["deviations"]
    assert MACs().forecast(plan, facts_of("resnet20")).value == candidate.achieved["totals"]["macs"]


@pytest.mark.parametrize("target", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("cost", ["operations", "parameters"])
def test_learned_filters_are_an_estimate_that_meets_their_target(target: float, cost: Any) -> None:
    pruning = Pruning(0.0, "filter", "learned", target=target, strength=1.0, cost=cost)
    names = [layer.name for layer in layers_of("resnet20") if layer.prunable_filters]
    plan = TrialPlan({name: LayerPlan(pruning) for name in names})
    facts = facts_of("resnet20")
    told, counts = MACs().forecast(plan, facts), facts.counts(plan)
    assert not told.exact
    left = facts.channels.weights_left(counts).sum() / facts.channels.weights.sum()
    share = told.details["fraction_of_control"].value if cost == "operations" else left
    assert share == pytest.approx(target, abs=0.01)


def test_learned_weights_leave_operations_as_they_are() -> None:
    pruning = Pruning(0.0, mask="learned", target=0.4, strength=1.0)
    plan = TrialPlan({layer.name: LayerPlan(pruning) for layer in layers_of("digits-cnn") if layer.kind != "depthwise"})
    facts = facts_of("digits-cnn")
    told = MACs().forecast(plan, facts)
    assert told.exact
    assert told.details["fraction_of_control"].value == 1.0
    kept = facts.channels.macs_left(facts.counts(plan)) * facts.counts(plan).kept_weights
    assert kept.sum() / facts.channels.macs.sum() == pytest.approx(0.4, abs=0.01)


def test_global_filter_sparsity_is_an_estimate_as_if_it_were_the_same_everywhere() -> None:
    space = space_of("digits-cnn", structure=["filter"], scope="global", residual="share")
    for level in (0.3, 0.6):
        plan = space.decode(space.encode(level))
        told = MACs().forecast(plan, facts_of("digits-cnn"))
        assert not told.exact
        achieved = baked("digits-cnn", plan).achieved["totals"]
        # which channels go is up to their magnitudes; what is sure is that some do
        assert achieved["macs"] < achieved["macs_before"]
        assert told.details["fraction_of_control"].value == pytest.approx((1.0 - 0.9 * level) ** 2, abs=0.1)


# sizes


@functools.cache
def measured(name: str, count: int) -> list[tuple[TrialPlan, float, float]]:
    """Plans with the packed and zipped bytes of their candidates, the dense one first."""
    space, found = space_of(name, structure_per="group", residual="share"), []
    for seed in range(-1, count):
        plan = space.decode(_levelled(space, seed)) if seed >= 0 else TrialPlan()
        candidate = baked(name, plan, 8)
        with tempfile.TemporaryDirectory() as folder:
            zipped = OnnxRuntimeCPU().export(candidate, Path(folder), EXAMPLE).zipped_bytes
        found.append((plan, packed_sizes(candidate).total_bytes, zipped))
    return found


def _levelled(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Params about one level, as searches propose them: uniform ones are all about equally large."""
    generator = np.random.default_rng(seed)
    level = generator.random()
    near = {
        n: space.variables[n].at(float(np.clip(level + 0.2 * generator.normal(), 0, 1))) for n in space.distributions
    }
    chosen = {name: value for name, value in drawn(space, seed).items() if name.startswith("structure")}
    return near | chosen


@pytest.mark.parametrize(("name", "count"), [("digits-cnn", 12), ("resnet20", 3)])
@pytest.mark.parametrize(("of", "mean", "largest"), [("packed", 0.05, 0.15), ("zipped", 0.10, 0.30)])
def test_sizes_are_forecast_in_order_and_near(name: str, count: int, of: Any, mean: float, largest: float) -> None:
    rows, facts = measured(name, count), facts_of(name, 8)
    objective = CompressionRatio(of=of)
    raw = [{f"{kind}_bytes": size for kind, size in (("packed", p), ("zipped", z))} for _, p, z in rows]
    real = [objective.derive({"bytes": 1, **each}, {"bytes": 1, **raw[0]}).value for each in raw]
    told = [objective.forecast(plan, facts) for plan, *_ in rows]
    assert not any(each.exact for each in told)
    assert told[0].value == 1.0
    errors = np.abs(np.log([each.value for each in told]) - np.log(real))[1:]
    assert errors.mean() <= mean
    assert errors.max() <= largest
    assert spearmanr([each.value for each in told], real).statistic >= 0.97
    details = {f"{of}_ratio": real[3], f"{of}_bytes": raw[3][f"{of}_bytes"]}
    assert {key: told[3].details[key].value for key in details} == pytest.approx(details, rel=largest)


@pytest.mark.parametrize("name", list(BUILD))
def test_the_dense_fixed_length_size_is_every_number_in_32_bits(name: str) -> None:
    numbers = sum(value.numel() for value in BUILD[name]().state_dict().values())
    assert sizes(TrialPlan(), facts_of(name)).fixed_length == 4 * numbers


@pytest.mark.parametrize("name", ["digits-cnn", "resnet20"])
def test_the_fixed_length_size_is_counted_on_the_candidate(name: str) -> None:
    space = space_of(name, structure=["filter"], residual="share")
    plan = space.decode(drawn(space, 5))
    candidate, expected = baked(name, plan, 8), 0.0
    for layer in layers_of(name):
        weight, own = candidate.model.get_parameter(f"{layer.name}.weight"), plan.layer(layer.name)
        clusters = own.clustering.clusters if own.clustering else None
        index = min(own.weight_bits, int(np.log2(clusters)) if clusters else 32)
        scales = 1 if clusters else len(weight)
        table = scales if own.weight_bits < 32 else min(clusters or 0, weight.numel())
        expected += weight.numel() * index / 8 + 4 * table
    weights = {f"{layer.name}.weight" for layer in layers_of(name)}
    state = {key: value for key, value in candidate.model.state_dict().items() if ".activation_" not in key}
    known = BUILD[name]().state_dict()
    expected += sum(4 * value.numel() for key, value in state.items() if key in known and key not in weights)
    assert sizes(plan, facts_of(name, 8)).fixed_length == pytest.approx(expected)


STRONGER = [
    (LayerPlan(), LayerPlan(Pruning(0.5))),
    (LayerPlan(Pruning(0.5)), LayerPlan(Pruning(0.8))),
    (LayerPlan(), LayerPlan(Pruning(0.5, "2:4"))),
    (LayerPlan(), LayerPlan(clustering=Clustering(64))),
    (LayerPlan(clustering=Clustering(64)), LayerPlan(clustering=Clustering(8))),
    (LayerPlan(clustering=Clustering(8, "channel")), LayerPlan(clustering=Clustering(8))),
    (LayerPlan(), LayerPlan(quantization=Quantization("aware", 8, 8))),
    (LayerPlan(quantization=Quantization("aware", 8, 8)), LayerPlan(quantization=Quantization("aware", 3, 8))),
    (LayerPlan(quantization=Quantization("aware", 3, 8)), LayerPlan(quantization=Quantization("aware", 1, 8))),
    (LayerPlan(Pruning(0.4, "filter")), LayerPlan(Pruning(0.8, "filter"))),
    (
        LayerPlan(Pruning(0.5), quantization=Quantization("aware", 4, 8)),
        LayerPlan(Pruning(0.5), Clustering(4), Quantization("aware", 4, 8)),
    ),
]


@pytest.mark.parametrize(("weak", "strong"), STRONGER)
@pytest.mark.parametrize("of", ["packed", "zipped"])
def test_stronger_compression_is_told_to_be_smaller(weak: LayerPlan, strong: LayerPlan, of: Any) -> None:
    facts = facts_of("resnet20")
    names = [layer.name for layer in facts.layers if layer.coupled is None and layer.prunable_filters]
    ratios = [
        CompressionRatio(of=of).forecast(TrialPlan(dict.fromkeys(names, plan)), facts).value for plan in (weak, strong)
    ]
    assert ratios[0] < ratios[1]


# others


def test_an_objective_tells_nothing_unless_it_says_so() -> None:
    assert Accuracy().forecast(TrialPlan(), facts_of("digits-cnn")) is None


def test_what_no_plan_compresses_is_counted_and_makes_removal_an_estimate() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 8, 3, padding=1)
            self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(self.second(self.first(x)))

    layers = inspect_layers(Decoder(), (3, 32, 32))
    facts = PlanFacts(Decoder, layers, EXAMPLE)
    dense = MACs().forecast(TrialPlan(), facts)
    assert (dense.value, dense.exact) == (count_macs(Decoder(), EXAMPLE), True)
    pruned = MACs().forecast(TrialPlan({"second": LayerPlan(Pruning(0.5, "filter"))}), facts)
    assert not pruned.exact
    assert pruned.value < dense.value


def test_plans_are_forecast_in_milliseconds() -> None:
    space, facts = space_of("resnet20", structure_per="group", residual="share"), facts_of("resnet20")
    plans = [space.decode(drawn(space, seed)) for seed in range(8)]
    objectives = [MACs(), CompressionRatio(), Latency()]
    for plan in plans:
        [objective.forecast(plan, facts) for objective in objectives]
    started = time.process_time()
    for plan in plans:
        [objective.forecast(plan, facts) for objective in objectives]
    # a tenth of this where nothing else runs
    assert (time.process_time() - started) / len(plans) < 3e-3


def test_the_channel_model_leaves_the_model_as_it_is() -> None:
    model = BUILD["resnet20"]().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counts = ChannelModel(model, layers_of("resnet20"), EXAMPLE)
    for layer in layers_of("resnet20"):
        if layer.prunable_filters:
            counts.group(layer.name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
