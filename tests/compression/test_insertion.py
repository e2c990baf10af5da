"""Where activation quantizers sit, and with how many bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from forgefront.compression.bias_grid import round_biases
from forgefront.compression.candidate import LayerCodes
from forgefront.compression.insertion import insert_activation_quantizers
from forgefront.compression.quantizers import ActivationQuantizer, quantize_weight
from forgefront.spaces.plan import LayerPlan, Quantization, TrialPlan
from forgefront.studies.errors import ModelError


def quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


def unquantized_layer_inputs(model: fx.GraphModule) -> list[str]:
    """Layers whose input does not come from a quantizer, straight or through operations that only move values."""

    def quantized(node: fx.Node) -> bool:
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), ActivationQuantizer):
            return True
        moving = (nn.Dropout, nn.MaxPool2d, nn.Flatten, nn.Identity)
        moves = node.op == "call_module" and isinstance(model.get_submodule(node.target), moving)
        moves |= node.op == "call_function" and node.target is torch.flatten
        return moves and quantized(node.args[0])

    layers = [
        node
        for node in model.graph.nodes
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), nn.Conv2d | nn.Linear)
    ]
    assert layers
    return [node.target for node in layers if not quantized(node.args[0])]


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20", "resnet18", "mobilenet_v2"])
def test_every_layer_input_is_quantized_and_the_logits_are_not(case, uniform_plan, name) -> None:
    subject = case(name)
    plan = uniform_plan(subject.layers, quantization=Quantization("aware", 8, 8))
    model = insert_activation_quantizers(subject.model(), plan, subject.images(1))
    assert unquantized_layer_inputs(model) == []
    output = next(node for node in model.graph.nodes if node.op == "output")
    assert model.get_submodule(output.args[0].target) is model.get_submodule(subject.layers[-1].name)


def test_resnet20_has_one_for_each_chain_sum_pool_and_the_input(case, uniform_plan) -> None:
    resnet = case("resnet20")
    plan = uniform_plan(resnet.layers, quantization=Quantization("aware", 8, 8))
    model = insert_activation_quantizers(resnet.model(), plan, resnet.images(1))
    # 19 convolutions, 9 sums, the pool and the image
    assert len(quantizers(model)) == 19 + 9 + 1 + 1


def test_names_depend_on_the_architecture_alone(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    plan = uniform_plan(digits.layers, quantization=Quantization("aware", 8, 4))
    first, second = (insert_activation_quantizers(digits.build(), plan, digits.images(1)) for _ in range(2))
    assert first.state_dict().keys() == second.state_dict().keys()
    assert len(quantizers(first)) > 5


def test_bits_are_those_of_the_layer_before_and_float_layers_have_none(case) -> None:
    resnet = case("resnet20")
    plan = TrialPlan(
        {
            "conv1": LayerPlan(quantization=Quantization("aware", 8, 8)),
            "layer1.0.conv1": LayerPlan(quantization=Quantization("aware", 4, 4)),
            "layer1.0.conv2": LayerPlan(quantization=Quantization("aware", 4, 3)),
        }
    )
    found = quantizers(insert_activation_quantizers(resnet.model(), plan, resnet.images(1)))
    assert sorted((module.source, module.bits) for module in found.values()) == [
        ("conv1", 8),
        ("conv1", 8),
        ("layer1.0.conv1", 4),
        ("layer1.0.conv2", 3),
        ("layer1.0.conv2", 3),
    ]


def test_outputs_equal_the_model_while_disabled_and_submodules_are_shared(case, uniform_plan) -> None:
    digits = case("digits_cnn")
    model = digits.model().eval()
    plan = uniform_plan(digits.layers, quantization=Quantization())
    traced = insert_activation_quantizers(model, plan, digits.images(1))
    assert torch.equal(traced(digits.images(3)), model(digits.images(3)))
    assert all(traced.get_submodule(layer.name) is model.get_submodule(layer.name) for layer in digits.layers)
    assert insert_activation_quantizers(model, TrialPlan(), digits.images(1)) is model


class Branches(nn.Module):
    """Concatenation, product, functional dropout and a normalisation before the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.5) / 0.25
        both = torch.cat([torch.relu(self.left(x)), nn.functional.hardswish(self.right(x))], dim=1)
        gated = both * torch.sigmoid(self.gate(both))
        pooled = nn.functional.dropout(gated.mean(dim=(2, 3)), 0.5, training=self.training)
        return self.head(pooled)


def test_branches_products_and_functional_dropout() -> None:
    model, example = Branches().train(), torch.rand(1, 3, 4, 4)
    plan = TrialPlan({name: LayerPlan(quantization=Quantization()) for name in ("left", "right", "gate", "head")})
    traced = insert_activation_quantizers(model, plan, example)
    nodes = {name.removeprefix("activation_quantizers.") for name in quantizers(traced)}
    assert nodes == {
        *("truediv", "relu", "right", "hardswish_gate", "hardswish_product"),
        *("cat", "gate", "sigmoid", "mul", "mean"),
    }
    torch.manual_seed(0)
    images = torch.rand(4, 3, 4, 4)
    assert not torch.equal(traced(images), traced(images))
    traced.eval()
    assert torch.allclose(traced(images), model.eval()(images), atol=1e-6)


ACTIVATIONS = {
    "relu": (nn.ReLU(), []),
    "relu6": (nn.ReLU6(), []),
    "leaky relu": (nn.LeakyReLU(), ["norm"]),
    "gelu": (nn.GELU(), ["norm"]),
    "sigmoid": (nn.Sigmoid(), ["norm"]),
    "hardsigmoid": (nn.Hardsigmoid(), ["norm"]),
    "silu": (nn.SiLU(), ["activation_gate", "norm"]),
    "hardswish": (nn.Hardswish(), ["activation_gate", "norm"]),
}


class Chain(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), activation
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.norm(self.conv(x))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_a_kernel_hands_to_its_activation_has_eight_bits_and_what_goes_on_the_planned(name) -> None:
    activation, inner = ACTIVATIONS[name]
    plan = TrialPlan({layer: LayerPlan(quantization=Quantization("aware", 8, 4)) for layer in ("conv", "head")})
    found = quantizers(insert_activation_quantizers(Chain(activation), plan, torch.rand(1, 3, 4, 4)))
    bits = {path.removeprefix("activation_quantizers."): module.bits for path, module in found.items()}
    last = "activation_product" if "activation_gate" in inner else "activation"
    assert bits == {"x": 8, **dict.fromkeys(inner, 8), last: 4}


def test_gates_of_float_layers_stay_as_they_are() -> None:
    plan = TrialPlan({"head": LayerPlan(quantization=Quantization("aware", 8, 8))})
    traced = insert_activation_quantizers(Chain(nn.SiLU()), plan, torch.rand(1, 3, 4, 4))
    assert any(isinstance(module, nn.SiLU) for module in traced.modules())
    assert quantizers(traced) == {}


class Moves(nn.Module):
    """Everything between the two layers only moves values or takes their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(2)
        self.shuffle, self.second = nn.ChannelShuffle(2), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(self.pool(torch.relu(self.first(x))))
        return self.second(x.permute(0, 2, 3, 1).unsqueeze(1).squeeze(1).flatten(1))


def test_what_moves_values_gets_no_quantizer_and_lets_biases_onto_the_grid() -> None:
    model, example = Moves().eval(), torch.rand(1, 3, 6, 6)
    plan = TrialPlan({layer: LayerPlan(quantization=Quantization("aware", 8, 8)) for layer in ("first", "second")})
    traced = insert_activation_quantizers(model, plan, example)
    assert {name.removeprefix("activation_quantizers.") for name in quantizers(traced)} == {"x", "relu"}
    for quantizer in quantizers(traced).values():
        quantizer.observe = "always"
    traced(example)
    for quantizer in quantizers(traced).values():
        quantizer.freeze()
    codes = {name: LayerCodes(*quantize_weight(traced.get_parameter(f"{name}.weight"), 8), 8) for name in plan.layers}
    assert round_biases(traced, codes) == ["first", "second"]


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_is_refused_in_one_line() -> None:
    plan = TrialPlan({"convolution": LayerPlan(quantization=Quantization())})
    with pytest.raises(ModelError, match=r"`model` must be traceable by torch\.fx") as raised:
        insert_activation_quantizers(Undecided(), plan, torch.rand(1, 3, 2, 2))
    assert "\n" not in str(raised.value)
