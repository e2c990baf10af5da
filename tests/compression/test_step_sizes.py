"""Learned step sizes: equation 3's gradient, its scale, the start, and what ships."""

from __future__ import annotations

import math

import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.quantizers import ActivationQuantizer, WeightQuantizer, activation_quantizers, dequantize
from forgefront.compression.step_sizes import (
    LearnedActivationQuantizer,
    LearnedWeightQuantizer,
    initial_step_size,
    learned_quantize,
    learned_sign,
)
from forgefront.spaces.plan import Clustering, LayerPlan, Pruning, Quantization, TrialPlan
from forgefront.studies.seeds import Seed
from forgefront.trainers.optimizers import parameter_groups


def random_weight(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(*shape, generator=Seed(seed).torch())


def equation_3(value: float, step: float, low: int, high: int) -> float:
    ratio = value / step
    if ratio <= low:
        return low
    return high if ratio >= high else round(ratio) - ratio


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-3, 3), (-7, 7), (-127, 127), (0, 15), (-5, 10), (-15, 0)])
def test_values_and_gradients_are_those_of_the_paper(low: int, high: int) -> None:
    tensor = (random_weight(60).double() * 4).requires_grad_()
    step = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    weights = random_weight(60, seed=5).double()
    found = learned_quantize(tensor, step, low, high, 0.25)
    (found * weights).sum().backward()
    values = tensor.tolist()
    assert found.tolist() == pytest.approx([0.7 * min(max(round(v / 0.7), low), high) for v in values])
    expected = sum(w * equation_3(v, 0.7, low, high) for v, w in zip(values, weights.tolist(), strict=True))
    assert float(step.grad) == pytest.approx(0.25 * expected)
    inside = torch.tensor([low < v / 0.7 < high for v in values])
    assert torch.equal(tensor.grad, weights * inside)


def test_outside_the_range_the_steps_gradient_is_the_true_derivative() -> None:
    tensor = torch.tensor([5.0, -9.0, 4.0], dtype=torch.float64)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    learned_quantize(tensor, step, -3, 3, 1.0).square().sum().backward()
    delta = 1e-6
    high, low = (learned_quantize(tensor, step.detach() + sign * delta, -3, 3, 1.0).square().sum() for sign in (1, -1))
    assert float(step.grad) == pytest.approx(float(high - low) / (2 * delta), rel=1e-6)


def test_one_bit_has_its_true_gradient_to_the_scale_and_the_identity_to_weights() -> None:
    tensor = torch.tensor([[1.0, -0.2, 0.0], [3.0, 2.0, -1.0]], requires_grad=True)
    step = torch.tensor([[0.5], [2.0]], requires_grad=True)
    found = learned_sign(tensor, step, 0.5)
    (found * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    assert found.tolist() == [[0.5, -0.5, 0.0], [2.0, 2.0, -2.0]]
    assert step.grad.tolist() == [[-0.5], [1.5]]
    assert tensor.grad.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_start_and_learn_by_the_papers_scales(bits: int, per: str) -> None:
    weight = random_weight(6, 5, 3, 3)
    weight[:, ::2], weight[3] = 0.0, 0.0
    weight.requires_grad_()
    quantizer = LearnedWeightQuantizer(weight, bits, per=per)
    assert quantizer(weight) is weight
    quantizer.enabled = True
    direction = random_weight(6, 5, 3, 3, seed=8)
    simulated = quantizer(weight)
    (simulated * direction).sum().backward()
    limit = max(1, 2 ** (bits - 1) - 1)
    rows = weight.detach().flatten(1) if per == "channel" else weight.detach().reshape(1, -1)
    steps = quantizer.step_size.detach().reshape(-1)
    for row, step, gradient, way in zip(
        rows, steps, quantizer.step_size.grad.reshape(-1), direction.reshape(rows.shape), strict=True
    ):
        if not row.any():
            assert float(step) in (0.5, 1.0)
            assert float(gradient) == 0.0
            continue
        mean = float(row[row != 0].abs().mean())
        assert float(step) == pytest.approx(mean if bits == 1 else 2 * mean / math.sqrt(limit), rel=1e-5)
        scale = 1 / math.sqrt(row.numel() * limit)
        if bits == 1:
            expected = float((torch.sign(row) * way).sum())
        else:
            terms = [equation_3(float(v), float(step), -limit, limit) for v in row]
            expected = sum(float(w) * term for w, term in zip(way, terms, strict=True))
        # the step computed with has 16 bits of mantissa
        assert float(gradient) == pytest.approx(scale * expected, rel=1e-2, abs=1e-2 * scale)
    codes, scale = quantizer.codes(weight)
    assert codes.abs().max() <= limit
    assert torch.equal(dequantize(codes, scale), simulated)
    assert (simulated[weight == 0] == 0).all()
    assert not torch.signbit(simulated[weight == 0]).any()


def test_scales_stay_positive_after_any_step() -> None:
    weight = random_weight(4, 9)
    quantizer, outputs = LearnedWeightQuantizer(weight, 4), LearnedActivationQuantizer(4)
    quantizer.enabled = outputs.enabled = True
    quantizer(weight)
    outputs(weight.relu())
    for module in (quantizer, outputs):
        first = module.step_size.detach().clone()
        with torch.no_grad():
            module.step_size -= 5.0
        module.keep_positive()
        assert torch.allclose(module.step_size, 0.01 * first)


@pytest.mark.parametrize("shift", [0.0, -0.5, 1.0])
def test_outputs_keep_their_zero_point_and_learn_their_scale(shift: float) -> None:
    quantizer = LearnedActivationQuantizer(4)
    tensor = (random_weight(3, 5, 4, 4) - shift).relu() if shift >= 0 else random_weight(3, 5, 4, 4)
    plain = ActivationQuantizer(4)
    for module in (quantizer, plain):
        module(tensor)
    assert torch.equal(quantizer.scale, plain.scale)
    assert quantizer.step_size.grad is None
    quantizer.enabled = True
    zero_point = int(plain.zero_point)
    low, high = -zero_point, 15 - zero_point
    limit = max(-low, high)
    tensor.requires_grad_()
    found = quantizer(tensor)
    found.sum().backward()
    step = float(quantizer.step_size.detach())
    assert step == pytest.approx(2 * float(tensor.detach().abs().mean()) / math.sqrt(limit), rel=1e-5)
    expected = sum(equation_3(value, step, low, high) for value in tensor.flatten().tolist())
    assert float(quantizer.step_size.grad) == pytest.approx(expected / math.sqrt(80 * limit), rel=1e-2, abs=1e-3)
    quantizer(10 * tensor.detach())
    assert int(quantizer.zero_point) == zero_point
    quantizer.eval()
    assert torch.equal(quantizer(tensor), found)
    quantizer.freeze()
    assert quantizer.step_size is None
    assert not list(quantizer.parameters())
    assert torch.equal(quantizer(tensor), found)
    plain.load_state_dict(quantizer.state_dict())
    plain.freeze()
    assert torch.equal(plain(tensor), found)


def test_outputs_quantized_from_the_first_batch_take_their_zero_point_from_it() -> None:
    quantizer = LearnedActivationQuantizer(8)
    quantizer.enabled = True
    quantizer(torch.linspace(-1, 3, 50))
    assert int(quantizer.zero_point) == round(255 / 4)
    silent = LearnedActivationQuantizer(8)
    silent.enabled = True
    assert torch.equal(silent(torch.zeros(3, 3)), torch.zeros(3, 3))
    assert float(silent.step_size.detach()) == 1.0


def test_a_row_of_zeros_starts_at_one() -> None:
    assert initial_step_size(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 4.0).tolist() == [1.0, 1.0]


LEARNED = Quantization("aware", 3, 4, scales="learned")


@pytest.mark.parametrize(
    "parts",
    [
        {"quantization": LEARNED},
        {"quantization": Quantization("aware", 1, 2, scales="learned")},
        {"pruning": Pruning(0.5, "2:4"), "clustering": Clustering(8), "quantization": LEARNED},
        {"pruning": Pruning(0.4, "filter"), "clustering": Clustering(4, "channel"), "quantization": LEARNED},
        {"pruning": Pruning(0.7, scope="global"), "quantization": Quantization("aware", 8, 8, scales="learned")},
    ],
    ids=["alone", "one bit", "2:4 clusters", "filters", "global"],
)
def test_what_is_learned_is_baked_bit_for_bit(case, uniform_plan, parts) -> None:
    digits = case("digits_cnn")
    attached = digits.trained(uniform_plan(digits.layers, **parts), steps=6)
    candidate = bake(attached, digits.build, digits.layers, digits.images(1), integer_biases=False)
    images = digits.images(16, seed=9)
    assert torch.allclose(candidate.model(images), attached.model(images), rtol=1e-4, atol=1e-5)
    if not candidate.removed:
        assert torch.equal(candidate.model(images), attached.model(images))
    for name, layer in candidate.codes.items():
        weight = candidate.model.get_submodule(name).weight
        assert torch.equal(layer.weight(), weight)
        if "clustering" in parts and parts["clustering"].per == "layer":
            assert len(torch.unique(layer.codes)) <= parts["clustering"].clusters
    assert not any(isinstance(one, LearnedActivationQuantizer) for one in candidate.model.modules())


def test_scales_are_there_for_the_optimizer_and_train_once_bits_are_simulated(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, quantization=LEARNED)
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), start=0.2, seed=Seed(0))
    decayed, plain = parameter_groups(attached.model, attached.parameters(), 0.1)
    scales = [module.step_size for module in attached.learned_scales]
    assert len(scales) > len(digits.layers)
    assert {id(scale) for scale in scales} <= {id(one) for one in plain["params"]}
    assert not {id(scale) for scale in scales} & {id(one) for one in decayed["params"]}
    optimizer = torch.optim.SGD(attached.parameters(), 0.01)
    attached.model.train()
    for fraction in (0.1, 0.5):
        attached.set_progress(fraction)
        optimizer.zero_grad()
        attached.model(digits.images(4)).square().sum().backward()
        before = [scale.detach().clone() for scale in scales]
        optimizer.step()
        attached.after_step()
        moved = [not torch.equal(scale, old) for scale, old in zip(scales, before, strict=True)]
        assert not any(moved) if fraction < 0.2 else all(moved)


def test_images_keep_their_range_and_range_scales_stay_as_they_were(case) -> None:
    digits = case("digits_cnn")
    names = [layer.name for layer in digits.layers]
    plan = TrialPlan(
        {
            name: LayerPlan(quantization=Quantization("aware", 4, 4, scales="learned" if index % 2 == 0 else "range"))
            for index, name in enumerate(names)
        }
    )
    attached = attach(digits.model(), plan, digits.layers, digits.images(1), seed=Seed(0))
    quantizers = activation_quantizers(attached.model.modules())
    assert not isinstance(quantizers[0], LearnedActivationQuantizer)
    for quantizer in quantizers[1:]:
        scales = plan.layer(quantizer.source).quantization.scales
        assert isinstance(quantizer, LearnedActivationQuantizer) == (scales == "learned")
    for name, simulator in attached.weight_quantizers:
        assert isinstance(simulator, WeightQuantizer)
        learned = plan.layer(name).quantization.scales == "learned"
        assert isinstance(simulator, LearnedWeightQuantizer) == learned
