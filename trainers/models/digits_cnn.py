"""A small convolutional network for the bundled digits: 37,000 parameters and 1.4 million MACs at 32x32.

It has what larger networks have, so that every path of the compression is walked on it: a strided stem, a residual
sum (coupled channels), a depthwise-separable block and a linear head.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

__all__ = ["DigitsCNN", "digits_cnn"]


class ConvNormReLU(nn.Module):
    """Convolution, batch normalisation and ReLU; the padding keeps the size at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + x)


def _residual_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    reduce = ConvNormReLU(in_channels, out_channels, 3, stride=2)
    return nn.Sequential(OrderedDict(reduce=reduce, residual=ResidualBlock(out_channels)))


def _separable_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    depthwise = ConvNormReLU(in_channels, in_channels, 3, stride=2, groups=in_channels)
    pointwise = ConvNormReLU(in_channels, out_channels, 1)
    dense = ConvNormReLU(out_channels, out_channels, 3)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise, dense=dense))


class DigitsCNN(nn.Module):
    """Stem, a residual stage, a separable stage, global average pooling and a linear head.

    Args:
        num_classes: Number of logits.
        width: Channels of the stem; the stages have 1.5 and 3 times as many.
    """

    def __init__(self, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.stem = ConvNormReLU(3, width, 3, stride=2)
        self.stage1 = _residual_stage(width, width * 3 // 2)
        self.stage2 = _separable_stage(width * 3 // 2, width * 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(width * 3, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stem(x)))
        return self.linear(self.flatten(self.pool(x)))


def digits_cnn(
    num_classes: int,
    *,
    width: Annotated[int, Field(ge=4, le=256)] = 16,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> DigitsCNN:
    """The digits network, for RGB images of 16x16 and larger.

    Args:
        num_classes: Number of logits.
        width: Channels of the stem.
        mean: Channel means for `build_classifier`; the bare network returned here does not normalise.
        std: Channel deviations for `build_classifier`.
    """
    del mean, std
    return DigitsCNN(num_classes, width=width)
