"""The latency forecast: the control is 1, less work and fewer bits are faster where the target gains, tables come first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgefront.compression.targets.cost_table import Calibration, CostGrid, CostTable
from forgefront.objectives.forecast_facts import PlanFacts
from forgefront.objectives.latency import Latency
from forgefront.spaces.layers import LayerInfo, inspect_layers
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan

INT8 = Quantization("aware", 8, 8)
FLOAT = Quantization("aware", 8, 8, export="float")


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 8, 1))


EXAMPLE = torch.zeros(1, 3, 32, 32)
LAYERS: tuple[LayerInfo, ...] = inspect_layers(build(), (3, 32, 32))


def facts(*targets: str, table: CostTable | None = None) -> PlanFacts:
    return PlanFacts(build, LAYERS, EXAMPLE, targets=targets or ["onnxruntime-cpu"], cost_table=lambda: table)


def plan_of(layer: LayerPlan) -> TrialPlan:
    """The same for each layer, except that the last keeps its filters."""
    kept = LayerPlan(None, layer.clustering, layer.quantization)
    filters = layer.pruning is not None and layer.pruning.structure == "filter"
    return TrialPlan({one.name: kept if filters and one.last else layer for one in LAYERS})


def ratio(layer: LayerPlan, *targets: str) -> float:
    told = Latency().forecast(plan_of(layer), facts(*targets))
    assert not told.exact
    assert told.details["speedup"].value == pytest.approx(1.0 / told.value)
    return told.value


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "torch-cuda"])
def test_the_control_is_one_and_so_is_what_saves_no_time(target: str) -> None:
    assert Latency().forecast(TrialPlan(), facts(target)).value == 1.0
    for layer in (LayerPlan(Pruning(0.9)), LayerPlan(clustering=Clustering(4)), LayerPlan(quantization=FLOAT)):
        assert ratio(layer, target) == 1.0


@pytest.mark.parametrize(
    ("slow", "fast"),
    [
        (LayerPlan(), LayerPlan(Pruning(0.3, "filter"))),
        (LayerPlan(Pruning(0.3, "filter")), LayerPlan(Pruning(0.7, "filter"))),
        (LayerPlan(), LayerPlan(quantization=INT8)),
        (LayerPlan(Pruning(0.5, "filter")), LayerPlan(Pruning(0.5, "filter"), quantization=INT8)),
    ],
)
def test_less_work_and_integers_are_faster_on_the_cpu(slow: LayerPlan, fast: LayerPlan) -> None:
    assert 0.0 < ratio(fast) < ratio(slow) <= 1.0


def test_bits_do_not_change_the_time_of_a_gpu() -> None:
    assert ratio(LayerPlan(quantization=INT8), "torch-cuda") == 1.0
    channels = ratio(LayerPlan(Pruning(0.5, "filter")), "torch-cuda")
    assert ratio(LayerPlan(Pruning(0.5, "filter"), quantization=INT8), "torch-cuda") == channels < 1.0


def test_the_option_names_the_target_and_else_the_first_counts() -> None:
    plan, both = plan_of(LayerPlan(quantization=INT8)), facts("torch-cuda", "onnxruntime-cpu")
    assert Latency().forecast(plan, both).value == 1.0
    assert Latency(target="onnxruntime-cpu").forecast(plan, both).value < 1.0


def table_of(target: str) -> CostTable:
    """A table by which a layer takes a microsecond for each pair of an input and an output, besides two milliseconds."""
    grids = {}
    for layer in LAYERS:
        outputs, inputs = layer.weight_shape[:2]
        grids[layer.name] = CostGrid(
            (1, inputs), (1, outputs), ((1e-3, 1e-3 * outputs), (1e-3 * inputs, 1e-3 * inputs * outputs)), {}
        )
    calibration = Calibration(1.0, 2.0, (), (), 1.0, 0.0)
    return CostTable(target, False, {layer.name: (layer.name,) for layer in LAYERS}, grids, calibration, {})


def test_a_cost_table_of_the_target_is_what_counts() -> None:
    plan = plan_of(LayerPlan(Pruning(0.5, "filter")))
    told = Latency().forecast(plan, facts(table=table_of("onnxruntime-cpu"))).value
    dense, left = 2.0 + 1e-3 * (3 * 16 + 16 * 32 + 32 * 8), 2.0 + 1e-3 * (3 * 8 + 8 * 16 + 16 * 8)
    assert told == pytest.approx(left / dense)
    other = Latency().forecast(plan, facts(table=table_of("torch-cuda"))).value
    assert other == Latency().forecast(plan, facts()).value != told


def test_the_control_asks_for_no_table() -> None:
    def unmeasured() -> CostTable:
        raise AssertionError("the table is measured once the run begins")

    waiting = PlanFacts(build, LAYERS, EXAMPLE, targets=["onnxruntime-cpu"], cost_table=unmeasured)
    assert Latency().forecast(TrialPlan(), waiting).value == 1.0
