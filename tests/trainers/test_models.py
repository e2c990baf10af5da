"""Models: shortcuts, normalisation, torchvision by name, and the public ResNet-20."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from forgefront.spaces.layers import inspect_layers
from forgefront.studies.errors import ModelError
from forgefront.trainers.models import ImageClassifier, Normalize, build_classifier, load_weights, with_normalization
from forgefront.trainers.models.cifar_resnet import PadShortcut, resnet20, resnet32, resnet56
from forgefront.trainers.models.digits_cnn import digits_cnn
from forgefront.trainers.models.small_images import mobilenetv2_cifar, resnet18_cifar, resnet50_cifar, vgg19_cifar
from forgefront.trainers.models.torchvision_models import build, torchvision_names

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("channels", "out"), [(16, 32), (32, 64), (4, 8)])
def test_pad_shortcut_is_option_a(channels: int, out: int) -> None:
    x = images(2, channels, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, out // 4, out // 4))
    assert torch.equal(PadShortcut(channels, out, 2)(x), expected)


@pytest.mark.parametrize(
    ("removed_in", "removed_out"),
    [
        ([], [0, 1]),
        ([], [4, 5]),
        ([], [6]),
        ([], [15]),
        ([0], []),
        ([3], []),
        ([7], []),
        ([2, 5], [1, 6, 9]),
        (list(range(1, 8)), []),
        ([0], list(range(1, 16))),
        ([1, 2], list(range(4, 12))),
    ],
)
def test_pruned_pad_shortcut_equals_masking_and_selecting(removed_in: list[int], removed_out: list[int]) -> None:
    x = images(2, 8, 6, 6)
    masked = x.clone()
    masked[:, removed_in] = 0
    kept_in = [channel for channel in range(8) if channel not in removed_in]
    kept_out = [channel for channel in range(16) if channel not in removed_out]
    expected = PadShortcut(8, 16, 2)(masked)[:, kept_out]
    for sides in ("in out", "out in"):
        shortcut = PadShortcut(8, 16, 2)
        for side in sides.split():
            if side == "in":
                shortcut.prune_input_channels(removed_in)
            else:
                shortcut.prune_output_channels(removed_out)
        assert (shortcut.in_channels, shortcut.out_channels) == (len(kept_in), len(kept_out))
        assert torch.equal(shortcut(x[:, kept_in]), expected)
        assert torch.equal(torch.fx.symbolic_trace(shortcut)(x[:, kept_in]), expected)


def test_pruning_step_by_step_equals_pruning_at_once() -> None:
    once, steps = PadShortcut(8, 16, 1), PadShortcut(8, 16, 1)
    once.prune_input_channels([1, 4])
    steps.prune_input_channels([4])
    steps.prune_input_channels([1])
    assert once.sources == steps.sources
    assert not once.state_dict()


@pytest.mark.parametrize("indices", [[8], [-1], list(range(8))])
def test_pad_shortcut_refuses_channels_it_has_not(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="`indices` must"):
        PadShortcut(8, 16, 2).prune_input_channels(indices)


def test_normalisation_and_its_identity() -> None:
    x = images(2, 3, 4, 4)
    normalized = Normalize(**IMAGENET)(x)
    for channel in range(3):
        expected = (x[:, channel] - IMAGENET["mean"][channel]) / IMAGENET["std"][channel]
        torch.testing.assert_close(normalized[:, channel], expected)
    network = nn.Flatten()
    assert torch.equal(with_normalization(network, None, None)(x), network(x))
    assert torch.equal(with_normalization(network, **IMAGENET)(x), network(normalized))


def test_options_of_the_model_replace_those_of_the_data() -> None:
    own = build_classifier(digits_cnn, 10, options=IMAGENET | {"width": 8}, mean=(0.5,) * 3, std=(0.5,) * 3)
    data = build_classifier(digits_cnn, 10, options={"width": 8, "mean": None}, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert own.normalize.mean.flatten().tolist() == pytest.approx(IMAGENET["mean"])
    assert data.normalize.mean.flatten().tolist() == [0.5] * 3
    assert own.network.stem.conv.out_channels == 8


@pytest.mark.parametrize(
    ("part", "options", "reason"),
    [
        (digits_cnn, {"depth": 3}, "digits_cnn refuses its options"),
        (digits_cnn, {"mean": (0.5, 0.5, 0.5)}, "`task.model.std` must be given together"),
        (digits_cnn, {"mean": (0.5,), "std": (0.5, 0.5)}, "`std` must have one number a channel"),
        (digits_cnn, {"mean": (0.5,), "std": (0.0,)}, "`std` must be positive"),
        (lambda classes: "network", {}, "must return a torch.nn.Module; found str"),
        (lambda classes: nn.Linear, {}, "must return a torch.nn.Module; found the class itself"),
    ],
)
def test_parts_that_build_no_classifier(part, options: dict, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build_classifier(part, 10, options=options, mean=None, std=None)


@pytest.mark.parametrize(("part", "convolutions"), [(resnet20, 19), (resnet32, 31), (resnet56, 55)])
def test_cifar_resnets_have_their_depth(part, convolutions: int) -> None:
    model = part(7)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions
    assert model.eval()(images(2, 3, 32, 32)).shape == (2, 7)


SMALL = {
    resnet18_cifar: ("resnet18", 11_173_962, 555_422_720),
    resnet50_cifar: ("resnet50", 23_520_842, 1_297_829_888),
    vgg19_cifar: ("vgg19_bn", 20_040_522, 398_136_320),
    mobilenetv2_cifar: ("mobilenet_v2", 2_236_682, 87_976_448),
}


@pytest.mark.parametrize("part", SMALL)
def test_small_image_models_are_the_published_ones(part) -> None:
    import torchvision

    name, parameters, macs = SMALL[part]
    network = part(10)
    layers = inspect_layers(network, (3, 32, 32))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(layer.macs for layer in layers) == macs
    assert f"{parameters:,} parameters" in part.__doc__
    assert f"{macs / 1e6:,.1f} million MACs" in part.__doc__
    assert layers[0].output_shape[1:] == (32, 32)
    # channels of every convolution but MobileNetV2's depthwise ones can really go
    assert all(layer.prunable_filters for layer in layers[:-1] if layer.kind == "conv")
    with torch.device("meta"):
        original = {key: value.shape for key, value in torchvision.models.get_model(name).state_dict().items()}
    differing = {key for key, value in network.state_dict().items() if original.get(key) != value.shape}
    assert differing <= {"conv1.weight", *(f"{layers[-1].name}.{tensor}" for tensor in ("weight", "bias"))}


def test_small_mobilenet_has_a_width() -> None:
    narrow = mobilenetv2_cifar(7, width_mult=0.25)
    assert narrow.features[1].conv[1].out_channels == 8
    assert narrow.eval()(images(2, 3, 32, 32)).shape == (2, 7)


@pytest.fixture
def cached_mobilenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Random weights in torch's cache, under the name of torchvision's own."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = torchvision.models.mobilenet_v2().state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / Path(torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url).name)
    return state


def test_pretrained_weights_load_wherever_shapes_fit(cached_mobilenet) -> None:
    network = mobilenetv2_cifar(10, pretrained="IMAGENET1K_V1")
    for key, value in network.state_dict().items():
        assert torch.equal(value, cached_mobilenet[key]) == (not key.startswith("classifier")), key
    whole = build("mobilenet_v2", 1000, pretrained="IMAGENET1K_V1")
    assert all(torch.equal(value, cached_mobilenet[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pretrained": "COCO"}, "`pretrained` must be one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT for mobilenet_v2"),
        (
            {"pretrained": "IMAGENET1K_V1", "width_mult": 0.5},
            r"`pretrained` weights 'IMAGENET1K_V1' of mobilenet_v2 must fit the network; found \d+ of 314 tensors",
        ),
    ],
)
def test_pretrained_refusals(cached_mobilenet, options: dict, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        mobilenetv2_cifar(10, **options)


@pytest.mark.parametrize("part", [digits_cnn, resnet20, *SMALL])
def test_models_are_traceable(part) -> None:
    model = build_classifier(part, 10, options={}, mean=(0.5,) * 3, std=(0.2,) * 3).eval()
    x = images(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_torchvision_by_name() -> None:
    model = build("squeezenet1_1", 5).eval()
    assert model(images(1, 3, 64, 64)).shape == (1, 5)
    assert "resnet18" in torchvision_names()
    assert not any("fcn" in name or "rcnn" in name for name in torchvision_names())
    assert isinstance(build("googlenet", 3).train()(images(2, 3, 64, 64)), torch.Tensor)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet81", {}, r"found 'resnet81'\. Did you mean 'resnet\d+'\?"),
        ("fasterrcnn_resnet50_fpn", {}, "must name a torchvision classifier"),
        ("resnet18", {"depth": 3}, "torchvision:resnet18 refuses its options"),
        ("resnet18", {"pretrained": "COCO"}, "`pretrained` must be one of IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_torchvision_refusals(name: str, options: dict, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build(name, 10, **options)


def test_digits_cnn_learns_the_digits() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images / 16.0).float()[:, None].expand(-1, 3, -1, -1)
    x, y = F.interpolate(x, size=(32, 32), mode="bilinear"), torch.from_numpy(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = build_classifier(digits_cnn, 10, options={}, mean=(0.3,) * 3, std=(0.38,) * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5 * 20)
    for _ in range(5):
        for batch in order[:1200].split(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    held_out = order[1200:]
    with torch.no_grad():
        assert (model.eval()(x[held_out]).argmax(1) == y[held_out]).float().mean() > 0.95


@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="shared data are absent")
def test_public_resnet20_reaches_its_accuracy() -> None:
    import numpy as np
    from PIL import Image

    model = build_classifier(resnet20, 10, options=IMAGENET, mean=None, std=None).eval()
    load_weights(model, DATA / "models" / "resnet20_cifar10.safetensors")
    strip = np.asarray(Image.open(sorted((DATA / "cifar10").glob("test_*.webp"))[0]).convert("RGB"))
    pixels = torch.from_numpy(strip.reshape(-1, 32, 32, 3).copy()).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(np.load(DATA / "cifar10" / "labels.npz")["test_labels"][: len(pixels)].astype(np.int64))
    with torch.inference_mode():
        accuracy = (model(pixels).argmax(1) == labels).float().mean().item()
    assert isinstance(model, ImageClassifier)
    assert 0.88 < accuracy < 0.95  # 91.7 % on the whole test split; these are its first 500 images
