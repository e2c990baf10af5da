"""Cost tables: their arithmetic on known numbers, and one small network measured in ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from forgefront.compression.targets.cost_grid import bilinear, boundary_line, channel_counts, fit_line, from_zero
from forgefront.compression.targets.cost_measurement import kept_channels, measure_cost_table
from forgefront.compression.targets.cost_table import Calibration, CostGrid, CostTable
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.compression.targets.single_layer import geometry, pointwise_chain, single_layer
from forgefront.compression.targets.timing_many import common_figures, ready, time_together
from forgefront.spaces.layers import inspect_layers
from forgefront.studies.errors import TargetError
from forgefront.studies.seeds import Seed

ROWS, COLUMNS = (8, 16, 32), (8, 24)
VALUES = ((1.0, 2.0), (1.5, 3.0), (3.0, 6.0))


def point(x: float, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    pair = torch.tensor([x, y], dtype=torch.float64)
    return pair[0], pair[1]


def surface(x: torch.Tensor, y: torch.Tensor, values=VALUES, rows=ROWS, columns=COLUMNS) -> torch.Tensor:
    block, first = from_zero(np.array(values), np.array(rows, dtype=float))
    across, second = from_zero(block.T, np.array(columns, dtype=float))
    return bilinear(*(torch.from_numpy(part).to(x.dtype) for part in (across.T.copy(), first, second)), x, y)


def table(**changes) -> CostTable:
    given = {
        "target": "onnxruntime-cpu",
        "integer": True,
        "layers": {"conv": ("conv 1",), "twice": ("conv 1", "depthwise 2"), "head": ("linear 3",)},
        "grids": {
            "conv 1": CostGrid(ROWS, COLUMNS, VALUES, {"kind": "conv"}),
            "depthwise 2": CostGrid((16,), (8, 16), ((0.5, 1.0),), {"kind": "depthwise"}),
            "linear 3": CostGrid((8, 64), (10,), ((0.1,), (0.4,)), {"kind": "linear"}),
        },
        "calibration": Calibration(2.0, 0.25, ((1.0, 1.1), (0.5, 0.5)), (1.0, 0.5), 0.99, 0.1),
        "details": {"rounds": 5},
    }
    return CostTable(**{**given, **changes})


# arithmetic


@pytest.mark.parametrize(
    ("dense", "expected"),
    [(1, (1,)), (3, (3,)), (8, (8,)), (10, (8, 10)), (16, (8, 16)), (24, (8, 16, 24)), (64, (16, 32, 48, 64))],
)
def test_channel_counts_are_multiples_of_eight_and_the_dense_one(dense, expected):
    assert channel_counts(dense, (0.25, 0.5, 0.75, 1.0)) == expected


@pytest.mark.parametrize(("i", "x"), list(enumerate(ROWS)))
@pytest.mark.parametrize(("j", "y"), list(enumerate(COLUMNS)))
def test_the_surface_goes_through_what_was_measured(i, x, j, y):
    assert float(surface(*point(x, y))) == pytest.approx(VALUES[i][j])


def test_between_grid_lines_the_surface_is_linear_along_either_axis():
    assert float(surface(*point(12, 8))) == pytest.approx(1.25)
    assert float(surface(*point(32, 16))) == pytest.approx(4.5)
    corners = [VALUES[1][0], VALUES[1][1], VALUES[2][0], VALUES[2][1]]
    assert float(surface(*point(24, 16))) == pytest.approx(np.mean(corners))


@pytest.mark.parametrize(("x", "y"), [(12.3, 17.0), (30.0, 9.0), (5.0, 3.0), (20.0, 5.0), (2.0, 20.0)])
def test_the_gradient_is_the_surfaces(x, y):
    pair = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda pair: surface(pair[0], pair[1]), pair)


def test_on_a_grid_line_the_slope_is_what_one_channel_less_saves():
    pair = torch.tensor([16.0, 24.0], requires_grad=True)
    surface(pair[0], pair[1]).backward()
    assert pair.grad.tolist() == pytest.approx([(3.0 - 2.0) / 8, (3.0 - 1.5) / 16])


def test_below_the_grid_the_surface_falls_on_but_never_under_its_proportional_share():
    # rows: 1.0 at 8 and 1.5 at 16, so 0.5 + x/16; columns are steeper than proportional nowhere here
    assert float(surface(*point(4, 8))) == pytest.approx(0.75)
    steep = ((1.0,), (8.0,))
    assert float(surface(*point(2, 8), steep, (8, 16), (8,))) == pytest.approx(0.25)
    counts = [float(surface(*point(x, 8), steep, (8, 16), (8,))) for x in range(1, 17)]
    assert counts == sorted(counts)
    assert counts[0] > 0


def test_along_a_lone_line_costs_are_proportional():
    assert float(surface(*point(2, 8), ((3.0,),), (8,), (8,))) == pytest.approx(0.75)
    assert float(surface(*point(4, 4), ((3.0,),), (8,), (8,))) == pytest.approx(0.75)
    assert float(surface(*point(12, 4), ((1.0,), (2.0,)), (8, 16), (8,))) == pytest.approx(0.75)


def test_surfaces_are_read_side_by_side():
    values = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [4.0, 8.0]]])
    lines = torch.tensor([[0.0, 8.0], [0.0, 2.0]])
    found = bilinear(values, lines, lines, torch.tensor([4.0, 1.0]), torch.tensor([8.0, 1.0]))
    assert found.tolist() == pytest.approx([0.5, 3.0])


def test_the_calibration_line_is_exact_on_a_line_and_never_negative():
    sums = np.array([1.0, 2.0, 4.0])
    assert fit_line(sums, 0.5 + 1.5 * sums) == pytest.approx((1.5, 0.5))
    scale, overhead = fit_line(sums, 2.0 * sums - 0.5)
    assert overhead == 0.0
    assert 1.0 < scale < 2.0
    # whole networks that do not get faster: a scale all the same, so that a loss has a direction
    scale, overhead = fit_line(sums, np.array([1.0, 1.0, 0.9]))
    assert scale > 0.0
    assert overhead == 0.0
    assert fit_line(np.array([2.0]), np.array([3.0])) == pytest.approx((1.5, 0.0))


def test_the_boundary_line_has_no_negative_part():
    elements = np.array([100.0, 200.0, 400.0])
    assert boundary_line(elements, 3.0 + 0.01 * elements) == pytest.approx((3.0, 0.01))
    fixed, each = boundary_line(elements, 0.01 * elements - 0.5)
    assert fixed == 0.0
    assert each > 0.0
    assert boundary_line(elements, np.array([2.0, 1.0, 0.0])) == (1.0, 0.0)
    assert boundary_line(elements[:1], np.array([-1.0])) == (0.0, 0.0)


def test_figures_do_not_depend_on_the_load_of_rounds():
    models = np.array([1.0, 2.0, 5.0])
    load = np.array([1.0, 3.0, 1.0, 1.4, 2.0])[:, None]
    figures = common_figures(models * load)
    assert figures / figures[0] == pytest.approx(models)


def test_every_round_times_every_model_in_an_order_of_its_own():
    called: list[int] = []

    def model(number: int):
        def timed(repeats: int) -> float:
            called.append(number)
            return 0.01 * (number + 1)

        return timed

    samples = time_together([model(0), model(1), model(2)], seed=Seed(0), seconds=60.0, rounds=8, precision=0.0)
    assert samples.shape == (8, 3)
    rounds = np.array(called[-24:]).reshape(8, 3)
    assert (np.sort(rounds, axis=1) == [0, 1, 2]).all()
    assert len({tuple(order) for order in rounds.tolist()}) > 1
    # figures that do not move are enough after the first few rounds, as is a budget that is spent
    assert len(time_together([model(0), model(1)], seed=Seed(0), seconds=60.0)) == 5
    assert len(time_together([model(0), model(1)], seed=Seed(0), seconds=0.0, precision=0.0)) == 5


# the table


def test_costs_are_calibrated_summed_over_calls_and_clamped():
    costs = table()
    x, y = point(16, 24)
    assert float(costs.cost("conv", x, y)) == pytest.approx(6.0)
    assert float(costs.cost("twice", x, y)) == pytest.approx(2 * (3.0 + 1.0))
    assert costs.dense_cost("conv") == 12.0
    assert float(costs.cost("conv", *point(1000, 1000))) == pytest.approx(costs.dense_cost("conv"))
    least = float(costs.cost("conv", *point(1, 1)))
    assert least > 0.0
    assert float(costs.cost("conv", *point(0, 0))) == pytest.approx(least)
    # along one axis alone
    depthwise = [float(costs.cost("twice", *point(8, y)) - costs.cost("conv", *point(8, y))) for y in (8, 12, 16)]
    assert depthwise == pytest.approx([1.0, 1.5, 2.0])
    assert float(costs.cost("head", *point(36, 10))) == pytest.approx(0.5)


def test_cost_is_0d_keeps_the_dtype_and_reaches_both_counts():
    counts = torch.tensor([12.0, 20.0], requires_grad=True)
    cost = table().cost("conv", counts[0], counts[1])
    assert cost.dim() == 0
    assert cost.dtype == torch.float32
    cost.backward()
    assert (counts.grad > 0).all()


@pytest.mark.parametrize(("x", "y"), [(32.0, 24.0), (1.0, 1.0)])
def test_a_whole_layer_and_its_last_channel_have_a_gradient(x, y):
    counts = torch.tensor([x, y], requires_grad=True)
    table().cost("conv", counts[0], counts[1]).backward()
    # the whole slope of the cell within, times the scale: from 3 to 6 both ways, and ¼·(1 + x/8)·(1 + y/8)
    within = 2.0 * ((6.0 - 3.0) / 16 if x > 1 else 0.25 * (1 + 1 / 8) / 8)
    assert counts.grad.tolist() == pytest.approx([within, within])
    beyond = torch.tensor([x + 1.0 if x > 1 else 0.0, y], requires_grad=True)
    table().cost("conv", beyond[0], beyond[1]).backward()
    assert beyond.grad[0] == 0.0


@pytest.mark.parametrize("kind", ["conv", "depthwise", "grouped", "linear"])
def test_a_layer_of_few_channels_has_a_gradient_too(kind):
    grid = CostGrid((8,), (6,), ((2.0,),), {"kind": kind})
    costs = table(layers={"small": ("small 1",)}, grids={"small 1": grid})
    counts = torch.tensor([8.0, 6.0], requires_grad=True)
    dense = costs.cost("small", counts[0], counts[1])
    assert dense.item() == pytest.approx(costs.dense_cost("small"))
    inputs, outputs = torch.autograd.grad(dense, counts)[0].tolist()
    dense = dense.detach()
    assert outputs == pytest.approx(float(dense) / 6)
    alone = kind in ("conv", "linear")
    assert inputs == pytest.approx(float(dense) / 8 if alone else 0.0)
    # inputs of a grouped layer are counted by group or all together, those of a depthwise one are its outputs
    assert float(costs.cost("small", *point(4, 3))) == pytest.approx(float(dense) / (4 if alone else 2))


def test_masks_of_a_network_of_few_channels_can_be_trained_for_latency():
    grids = {
        "conv 1": CostGrid((3,), (8,), ((1.0,),), {"kind": "conv"}),
        "conv 2": CostGrid((8,), (4,), ((2.0,),), {"kind": "conv"}),
    }
    costs = table(layers={"first": ("conv 1",), "second": ("conv 2",)}, grids=grids)
    masks = [torch.ones(8, requires_grad=True), torch.ones(4, requires_grad=True)]
    kept = [mask.sum() for mask in masks]
    total = costs.cost("first", torch.tensor(3.0), kept[0]) + costs.cost("second", kept[0], kept[1])
    for gradient in torch.autograd.grad(total, masks):
        assert (gradient > 0).all()


def test_many_layers_at_once_cost_what_each_does():
    costs = table()
    names = ["conv", "twice", "head", "conv"]
    inputs = torch.tensor([32.0, 13.0, 5.0, 1.0], requires_grad=True)
    outputs = torch.tensor([24.0, 9.0, 10.0, 0.5], requires_grad=True)
    together = costs.costs(names, inputs, outputs)
    each = torch.stack([costs.cost(*one) for one in zip(names, inputs, outputs, strict=True)])
    assert together.tolist() == pytest.approx(each.tolist())
    for side in (inputs, outputs):
        (one,), (other,) = (torch.autograd.grad(value.sum(), side, retain_graph=True) for value in (together, each))
        assert one.tolist() == pytest.approx(other.tolist())
    assert costs.costs([], torch.empty(0), torch.empty(0)).shape == (0,)
    uncalled = table(layers={"conv": ("conv 1",), "never": ()})
    assert uncalled.costs(["conv", "never"], *torch.full((2, 2), 8.0)).tolist() == pytest.approx([2.0, 0.0])


def test_nothing_is_read_back_from_the_device():
    # a meta tensor has no values, so reading one fails
    counts = torch.full((2,), 8.0, device="meta", requires_grad=True)
    costs = table()
    costs.costs(["conv", "twice"], counts, counts).sum().backward()
    costs.cost("conv", counts[0], counts[1])
    assert counts.grad.shape == (2,)


def test_a_table_first_read_in_inference_mode_can_be_trained_with():
    costs = table()
    with torch.inference_mode():
        costs.cost("conv", torch.tensor(8.0), torch.tensor(8.0))
    counts = torch.tensor([12.0, 20.0], requires_grad=True)
    costs.cost("conv", counts[0], counts[1]).backward()
    assert (counts.grad > 0).all()


@pytest.mark.parametrize(
    ("r_squared", "error", "told"), [(0.99, 0.1, False), (0.5, 0.25, False), (0.49, 0.1, True), (0.99, 0.26, True)]
)
def test_a_table_that_whole_networks_do_not_fit_says_so(r_squared, error, told):
    remarks = table(calibration=Calibration(2.0, 0.25, ((1.0, 1.1),), (1.0,), r_squared, error)).remarks()
    assert len(remarks) == told
    assert all("\n" not in line and f"{error:.0%}" in line and "onnxruntime-cpu" in line for line in remarks)


def test_layers_that_a_table_does_not_have_are_refused():
    costs = table()
    for ask in (lambda: costs.total({"other": (1, 1)}), lambda: costs.cost("other", *point(1, 1))):
        with pytest.raises(KeyError, match="other"):
            ask()
    with pytest.raises(KeyError, match="other"):
        costs.dense_cost("other")


def test_the_total_is_overhead_and_layers():
    costs = table()
    dense = sum(costs.dense_cost(name) for name in costs.layers)
    assert costs.total({}) == pytest.approx(costs.overhead + dense)
    half = costs.total({"conv": (16, 24)})
    assert half == pytest.approx(costs.total({}) - costs.dense_cost("conv") + 6.0)


def test_a_table_survives_json_and_its_digest_notices_any_change():
    costs = table()
    again = CostTable.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert again == costs
    assert again.digest == costs.digest
    assert len(costs.digest) == 64
    assert dataclasses.replace(costs, integer=False).digest != costs.digest
    assert dataclasses.replace(costs, details={"rounds": 6}).digest != costs.digest


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"calibration": {}},
        {"grids": {"conv 1": {}}},
        {"grids": {"conv 1": {"in_channels": [8], "out_channels": [8], "milliseconds": [[1, 2]], "measured": {}}}},
        {"layers": {"conv": 3}},
    ],
)
def test_a_damaged_table_is_told_in_one_line(change):
    with pytest.raises(TargetError, match="cost table"):
        CostTable.from_dict(table().to_dict() | change)


# single layers


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(
    ("module", "kept"),
    [
        (nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), (8, 16)),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), (8, 8)),
        (nn.Conv2d(16, 32, 3, padding="same", groups=4), (16, 32)),
        (nn.Linear(32, 10), (16, 10)),
    ],
)
def test_a_layer_alone_can_be_exported_and_computes_what_it_says(module, kept, integer, tmp_path, candidates):
    shape = (1, 32) if isinstance(module, nn.Linear) else (1, 16, 8, 8)
    one = geometry(module, shape)
    candidate, example = single_layer(one, *kept, integer=integer, seed=Seed(0))
    assert example.shape == (1, kept[0], *(one.size or (1, 1)))
    artefact = OnnxRuntimeCPU().export(candidate, tmp_path, example)
    images = torch.rand(4, *example.shape[1:], generator=Seed(0).torch())
    simulated = candidate.model(images).detach().numpy()
    exported = OnnxRuntimeCPU().run(artefact, images.numpy())
    assert exported.shape == simulated.shape
    assert exported.shape[1] == kept[1]
    step = 4.0 / 255 if integer else 1e-4
    assert np.abs(exported - simulated).max() <= 1.01 * step
    operators = candidates.optimised(artefact.path, tmp_path)
    assert any(name.startswith("QLinear") or name == "QGemm" for name in operators) is integer


def test_layers_of_one_geometry_are_equal_whatever_their_weights():
    first, second = (nn.Conv2d(8, 8, 3, padding=1, bias=bias) for bias in (True, False))
    assert geometry(first, (1, 8, 4, 4)) == geometry(second, (2, 8, 4, 4))
    assert geometry(first, (1, 8, 4, 4)) != geometry(first, (1, 8, 8, 8))
    assert geometry(nn.Conv2d(8, 8, 3, dilation=2), (1, 8, 8, 8)) != geometry(nn.Conv2d(8, 8, 3), (1, 8, 8, 8))


# measured


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    ).eval()


EXAMPLE = torch.rand(1, 3, 16, 16, generator=Seed(0).torch())


@pytest.fixture(scope="module")
def measured(small: nn.Module) -> Callable[[bool], CostTable]:
    tables: dict[bool, CostTable] = {}

    def one(integer: bool) -> CostTable:
        if integer not in tables:
            layers = inspect_layers(small, (3, 16, 16))
            target = OnnxRuntimeCPU()
            tables[integer] = measure_cost_table(
                small, layers, EXAMPLE, target, seed=Seed(0), integer=integer, seconds=0.0, widths=(1.0, 0.5)
            )
        return tables[integer]

    return one


@pytest.mark.parametrize("integer", [False, True])
def test_a_measured_table_covers_the_network_and_shares_equal_layers(small, measured, integer):
    costs = measured(integer)
    layers = inspect_layers(small, (3, 16, 16))
    assert list(costs.layers) == [layer.name for layer in layers]
    names = list(costs.layers.values())
    assert names[3] == names[4]
    assert len(costs.grids) == len(layers) - 1
    assert [grid.measured["kind"] for grid in costs.grids.values()] == ["conv", "depthwise", "conv", "conv", "linear"]
    shapes = [(grid.in_channels, grid.out_channels) for grid in costs.grids.values()]
    assert shapes[0] == ((3,), (8, 16))
    assert shapes[1] == ((16,), (8, 16))
    assert shapes[3] == ((8, 16, 24, 32), (8, 16, 24, 32))
    assert shapes[4] == ((8, 16, 24, 32), (10,))
    for grid in costs.grids.values():
        values = np.array(grid.milliseconds)
        assert (values > 0).all()
    calibration = costs.calibration
    assert calibration.scale > 0
    assert calibration.overhead_ms >= 0
    assert len(calibration.points) == len(calibration.widths) == 2
    assert calibration.points[0][0] == pytest.approx(costs.total({}))
    assert costs.integer is integer
    assert costs.details["rounds"] >= 5
    assert CostTable.from_dict(costs.to_dict()) == costs


def test_measuring_leaves_the_model_as_it_is(small, measured):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    measured(False)
    after = small.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not small.training


def test_kept_channels_are_those_of_the_model(small):
    layers = inspect_layers(small, (3, 16, 16))
    channels = kept_channels(small, layers)
    assert list(channels.values()) == [(3, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 10)]


def test_a_target_that_only_compares_is_timed_all_the_same(tmp_path):
    class Comparing(OnnxRuntimeCPU):
        timed = None

        def time(self, artefact, reference, *, seed):
            other = OnnxRuntimeCPU(rounds=2, maximum_seconds=0.01)
            return other.time(artefact, reference, seed=seed)

    target = Comparing()
    artefacts = [
        target.export(*(candidate, tmp_path / str(channels), example))
        for channels in (8, 16)
        for candidate, example in [pointwise_chain(channels, (4, 4), 2, integer=True, seed=Seed(0))]
    ]
    with ready(target, artefacts, seed=Seed(0)) as models:
        assert all(model(1) > 0 for model in models)
