"""Quantized candidates in ONNX: integers in the file, integer kernels when it runs, the same outputs as in torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

from forgefront.compression.bias_grid import round_biases
from forgefront.compression.candidate import LayerCodes
from forgefront.compression.quantizers import quantize_weight
from forgefront.compression.targets.base import simulate
from forgefront.compression.targets.onnx_graph import emit
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.compression.targets.parity import signal_to_noise
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.digits_cnn import digits_cnn

TARGET = OnnxRuntimeCPU()
BUILDERS = {"resnet20": resnet20, "digits-cnn": digits_cnn}
LAYERS = {"resnet20": 19, "digits-cnn": 7}


def arrays(path):
    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


def predictions(outputs):
    return outputs.argmax(axis=1)


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (8, 4), (4, 4), (1, 2)])
@pytest.mark.parametrize("name", BUILDERS)
def test_the_runtime_computes_what_was_simulated_with_integer_kernels(name, bits, candidates, tmp_path):
    images = candidates.images(128)
    candidate = candidates.quantized(candidates.seeded(lambda: BUILDERS[name](10)), *bits, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    parity = TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions)
    assert parity.snr_db > 30.0
    assert parity.agreement >= 0.98
    operators = candidates.optimised(artefact.path, tmp_path)
    assert operators["QLinearConv"] == LAYERS[name]
    assert operators["QGemm"] == 1
    assert operators["QLinearAdd"] == (9 if name == "resnet20" else 1)
    assert operators["Conv"] == operators["FusedConv"] == operators["Gemm"] == operators["DequantizeLinear"] == 0


@pytest.mark.parametrize("name", BUILDERS)
def test_the_file_holds_integers_alone_and_is_four_times_smaller(name, candidates, tmp_path):
    images, model = candidates.images(16), candidates.seeded(lambda: BUILDERS[name](10))
    whole = TARGET.export(candidates.dense(model), tmp_path / "dense", images[:1])
    candidate = candidates.quantized(model, 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path / "int8", images[:1])
    stored = arrays(artefact.path)
    onnx.checker.check_model(onnx.load(artefact.path), full_check=True)
    assert all(array.ndim <= 1 for array in stored if array.dtype == np.float32)
    weights = sum(codes.codes.numel() for codes in candidate.codes.values())
    assert sum(array.size for array in stored if array.dtype == np.int8 and array.ndim > 1) == weights
    assert whole.zipped_bytes / artefact.zipped_bytes > 3.5
    assert whole.bytes == whole.path.stat().st_size


def test_fewer_bits_zip_smaller(candidates, tmp_path):
    images, model = candidates.images(8), candidates.seeded(lambda: resnet20(10))
    sizes = [
        TARGET.export(candidates.quantized(model, bits, 8, images), tmp_path / str(bits), images[:1]).zipped_bytes
        for bits in (8, 4, 2)
    ]
    assert sizes[0] > 1.5 * sizes[1] > 2.25 * sizes[2]


def test_equal_candidates_give_equal_bytes(candidates, tmp_path):
    images = candidates.images(8)
    files = [
        TARGET.export(
            candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 4, 8, images), tmp_path / folder, images[:1]
        )
        for folder in ("first", "second")
    ]
    assert files[0].path.read_bytes() == files[1].path.read_bytes()
    assert files[0].zipped_bytes == files[1].zipped_bytes


def test_integer_weights_before_float_activations_are_dequantized_on_loading(candidates, tmp_path):
    images = candidates.images(32)
    candidate = candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 8, 32, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 90.0
    assert candidates.optimised(artefact.path, tmp_path)["DequantizeLinear"] == 0
    assert all(array.ndim <= 4 and array.size < 100 for array in arrays(artefact.path) if array.dtype == np.float32)


ACTIVATIONS = {
    "ReLU6": (nn.ReLU6(), {}),
    "Hardtanh": (nn.Hardtanh(0.0, 0.4), {}),
    "LeakyReLU": (nn.LeakyReLU(0.1), {"QLinearLeakyRelu": 1}),
    "Sigmoid": (nn.Sigmoid(), {"QLinearSigmoid": 1}),
    "SiLU": (nn.SiLU(), {"QLinearSigmoid": 1, "QLinearMul": 1}),
    "Hardsigmoid": (nn.Hardsigmoid(), {"QLinearAdd": 1}),
    "Hardswish": (nn.Hardswish(), {"QLinearAdd": 1, "QLinearMul": 1}),
    "GELU": (nn.GELU(), {"DequantizeLinear": 1, "Gelu": 1}),
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_convolution_is_integer_whatever_activation_follows(name, bits, candidates, tmp_path):
    activation, expected = ACTIVATIONS[name]
    images = candidates.images(32, 8)

    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Flatten(), nn.Linear(288, 5))

    candidate = candidates.quantized(candidates.seeded(build), 8, bits, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 30.0
    operators = candidates.optimised(artefact.path, tmp_path)
    assert operators["QLinearConv"] == operators["QGemm"] == 1
    named = ("QLinearLeakyRelu", "QLinearSigmoid", "QLinearMul", "QLinearAdd", "Gelu", "DequantizeLinear")
    assert {key: operators[key] for key in named if operators[key]} == expected
    assert operators["Relu"] == operators["HardSigmoid"] == 0
    assert operators["Clip"] == (bits < 8)


def small_head(name):
    model = torchvision.models.get_model(name, weights=None, num_classes=10, **HEADS.get(name, {}))
    if name == "vgg19_bn":  # its head alone holds 124 million weights
        model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10))
    return model


HEADS = {"vgg19_bn": {"init_weights": False}}
# convolutions, sums, products, pools
ZOO = {
    "resnet18": (20, 8, 0, 1),
    "resnet50": (53, 16, 0, 1),
    "vgg19_bn": (16, 0, 0, 0),
    "mobilenet_v2": (52, 10, 0, 1),
    "mobilenet_v3_small": (52, 6 + 28, 19 + 9, 10),
    "efficientnet_b0": (81, 9, 49 + 16, 17),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_runtime_has_an_integer_kernel_for_all_of_a_known_network(name, candidates, tmp_path):
    images = candidates.images(2, 32)
    candidate = candidates.quantized(candidates.seeded(lambda: small_head(name)), 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 20.0
    operators = candidates.optimised(artefact.path, tmp_path)
    kernels = ("QLinearConv", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool")
    assert tuple(operators[kernel] for kernel in kernels) == ZOO[name]
    # the VGG's pool before its head gives windows of unequal size, for which there is no integer kernel
    assert operators["QuantizeLinear"] - 1 == operators["DequantizeLinear"] == (name == "vgg19_bn")


@pytest.mark.parametrize("keep", [list(range(0, 32, 2)), [5, 1, 30, 31]])
def test_a_shortcut_that_lost_channels_stays_integer(keep, candidates, tmp_path):
    from forgefront.trainers.models.cifar_resnet import PadShortcut

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.shortcut = nn.Conv2d(3, 16, 3, padding=1), PadShortcut(16, 32, 2)
            self.shortcut.prune_output_channels([channel for channel in range(32) if channel not in keep])
            self.conv2 = nn.Conv2d(16, len(keep), 3, stride=2, padding=1)
            self.linear = nn.Linear(len(keep), 5)

        def forward(self, x):
            x = torch.relu(self.conv1(x))
            x = torch.relu(self.conv2(x) + self.shortcut(x))
            return self.linear(x.mean([2, 3]))

    images = candidates.images(32, 8)
    candidate = candidates.quantized(candidates.seeded(Block), 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 30.0
    operators = candidates.optimised(artefact.path, tmp_path)
    assert operators["QLinearConv"] == 2
    assert operators["QLinearAdd"] == 1


def small(gamma: list[float], beta: float = 0.1) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    model[1].weight.data = torch.tensor(gamma)
    model[1].bias.data.fill_(beta)
    return model.eval()


@pytest.mark.parametrize("gamma", [[1.0, -1.0, 0.5, -0.01], [0.0, 1.0, -0.0, 1e-30], [1e-12, -1e-9, 1.0, 1.0]])
@pytest.mark.parametrize("beta", [0.1, 1e4])
def test_batch_norm_folds_into_codes_whatever_its_gain(gamma, beta, candidates, tmp_path):
    torch.manual_seed(0)
    images = candidates.images(16, 8)
    candidate = candidates.quantized(small(gamma, beta), 8, 8, images)
    artefact = TARGET.export(candidate, tmp_path, images[:1])
    assert TARGET.verify(candidate, artefact, images.numpy(), predictions=predictions).snr_db > 40.0
    assert candidates.optimised(artefact.path, tmp_path)["QLinearConv"] == 1


def test_one_scale_for_a_layer_is_kept_as_one(candidates, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    codes = LayerCodes(*quantize_weight(model[0].weight, 8, per="layer"), 8)
    model[0].weight.data = codes.weight()
    exported = emit(model, {"0": codes}, candidates.images(1))
    floats = [onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer]
    assert sorted(array.size for array in floats if array.dtype == np.float32) == [1, 4]


def test_rounded_biases_make_the_difference(candidates, tmp_path):
    images = candidates.images(64)
    candidate = candidates.quantized(candidates.seeded(lambda: resnet20(10)), 4, 4, images)
    exact = TARGET.export(candidate, tmp_path / "exact", images[:1])
    with torch.no_grad():
        for module in candidate.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias += 1e-3 * torch.rand_like(module.bias)
    moved = TARGET.export(candidate, tmp_path / "moved", images[:1])
    off_grid = signal_to_noise(simulate(candidate, images.numpy()), TARGET.run(moved, images.numpy()))
    assert len(round_biases(candidate.model, candidate.codes)) == 20
    again = TARGET.export(candidate, tmp_path / "again", images[:1])
    on_grid = signal_to_noise(simulate(candidate, images.numpy()), TARGET.run(again, images.numpy()))
    assert on_grid > off_grid + 10.0
    assert exact.bytes == again.bytes


def test_rounding_biases_twice_changes_nothing_and_leaves_float_models_alone(candidates):
    images = candidates.images(8)
    candidate = candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 8, 8, images)
    before = {name: value.clone() for name, value in candidate.model.state_dict().items()}
    assert round_biases(candidate.model, candidate.codes)
    after = candidate.model.state_dict()
    assert all(torch.allclose(before[name], after[name], rtol=1e-6, atol=1e-7) for name in before)
    assert round_biases(candidates.seeded(lambda: digits_cnn(10)), candidate.codes) == []
