"""ResNet-18, ResNet-50, VGG-19 and MobileNetV2 for 32x32 images, under torchvision's module names.

Each keeps a 32x32 image's resolution where the original, made for 224x224, halves it early: what the field takes for
these networks on CIFAR is github.com/kuangliu/pytorch-cifar, followed here. Wherever shapes fit, torchvision's
checkpoints load, so all but the stem of a ResNet and the head can start from ImageNet's weights.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from .torchvision_models import build, load_pretrained

__all__ = ["SmallVGG", "mobilenetv2_cifar", "resnet18_cifar", "resnet50_cifar", "vgg19_cifar"]

# expansion, channels, blocks, stride (Sandler et al., table 2), the second row's stride 1 instead of 2
_INVERTED_RESIDUALS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def resnet18_cifar(
    num_classes: int,
    *,
    pretrained: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> nn.Module:
    """ResNet-18 (He et al., 2016, arXiv:1512.03385) with a 3x3 stem of stride 1 and no max-pool.

    For 10 classes 11,173,962 parameters, at 32x32 555.4 million MACs.

    Args:
        num_classes: Number of logits.
        pretrained: Name of torchvision weights to download (``"DEFAULT"``, ``"IMAGENET1K_V1"``); the stem stays random,
            and the head unless it has 1000 classes. None starts from random weights.
        mean: Channel means for `build_classifier`; the bare network does not normalise.
        std: Channel deviations for `build_classifier`.

    Raises:
        ModelError: There are no such weights, or the download failed.
    """
    del mean, std
    return _small_resnet("resnet18", num_classes, pretrained)


def resnet50_cifar(
    num_classes: int,
    *,
    pretrained: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> nn.Module:
    """ResNet-50 (strides in the 3x3 convolutions, as torchvision has it) with a 3x3 stem and no max-pool.

    For 10 classes 23,520,842 parameters, at 32x32 1,297.8 million MACs. Arguments as of `resnet18_cifar`.
    """
    del mean, std
    return _small_resnet("resnet50", num_classes, pretrained)


def vgg19_cifar(
    num_classes: int,
    *,
    pretrained: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> nn.Module:
    """VGG-19 with batch norm (Simonyan & Zisserman, 2015, arXiv:1409.1556) and one linear layer behind convolutions.

    For 10 classes 20,040,522 parameters, at 32x32 398.1 million MACs. The five max-pools bring 32x32 down to 1x1, so
    the three linear layers of the original are one of 512 inputs here. Arguments as of `resnet18_cifar`; every
    convolution fits torchvision's weights of ``vgg19_bn``, the head never does.
    """
    del mean, std
    network = SmallVGG(num_classes)
    if pretrained is not None:
        load_pretrained(network, "vgg19_bn", pretrained)
    return network


def mobilenetv2_cifar(
    num_classes: int,
    *,
    width_mult: Annotated[float, Field(gt=0.0, le=4.0)] = 1.0,
    pretrained: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381) with stride 1 in the stem and in the first strided stage.

    For 10 classes 2,236,682 parameters, at 32x32 88.0 million MACs; the last stage sees 4x4 pixels. Strides are no part
    of a weight's shape, so torchvision's weights all fit but the head's.

    Args:
        num_classes: Number of logits.
        width_mult: Factor on every layer's channels, rounded to multiples of 8; `pretrained` needs 1.
        pretrained: As of `resnet18_cifar`.
        mean: Channel means for `build_classifier`; the bare network does not normalise.
        std: Channel deviations for `build_classifier`.

    Raises:
        ModelError: There are no such weights, they do not fit this width, or the download failed.
    """
    del mean, std
    network = build("mobilenet_v2", num_classes, width_mult=width_mult, inverted_residual_setting=_INVERTED_RESIDUALS)
    stem = network.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    if pretrained is not None:
        load_pretrained(network, "mobilenet_v2", pretrained)
    return network


def _small_resnet(name: str, num_classes: int, pretrained: str | None) -> nn.Module:
    network = build(name, num_classes)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    if pretrained is not None:
        load_pretrained(network, name, pretrained)
    return network


class SmallVGG(nn.Module):
    """torchvision's ``features`` of VGG-19 with batch norm, global average pooling and a linear ``classifier``.

    Args:
        num_classes: Number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        from torchvision.models import vgg

        super().__init__()
        # torchvision's own class would first make the 120 million weights of three linear layers
        self.features = vgg.make_layers(vgg.cfgs["E"], batch_norm=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
