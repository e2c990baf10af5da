"""ResNet-20/32/56 for 32x32 images with option-A shortcuts (He et al., 2016, section 4.2, arXiv:1512.03385).

Module names follow the public checkpoints (conv1, bn1, layer1.0.conv1 … linear), so those load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarResNet", "PadShortcut", "resnet20", "resnet32", "resnet56"]


class PadShortcut(nn.Module):
    """The parameter-free shortcut of option A: every `stride`-th pixel, new channels zero, half of them on each side.

    It is an index map from output to input channels, and so can lose channels on either side: an output channel whose
    input is gone stays as zeros, as it would if that input were masked.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out, at least as many.
        stride: Spatial stride.
    """

    index: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"`out_channels` must be at least `in_channels` ({in_channels}); found {out_channels}.")
        front = (out_channels - in_channels) // 2
        self.in_channels = in_channels
        self.stride = stride
        self.sources: list[int | None] = [None] * front + list(range(in_channels))
        self.sources += [None] * (out_channels - len(self.sources))
        self.register_buffer("index", torch.empty(0, dtype=torch.int64), persistent=False)
        self._refresh()

    @property
    def out_channels(self) -> int:
        """Channels that go out."""
        return len(self.sources)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self._run is None:  # an extra zero channel stands for every output that has no input
            return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.index)
        front, first, length = self._run
        if length != self.in_channels:
            x = x[:, first : first + length]
        return F.pad(x, (0, 0, 0, 0, front, self.out_channels - front - length))

    def prune_input_channels(self, indices: Sequence[int]) -> None:
        """Remove input channels; outputs that read them become zero channels.

        Raises:
            ValueError: An index is not an input channel, or none would remain.
        """
        removed = _checked(indices, self.in_channels)
        kept = [channel for channel in range(self.in_channels) if channel not in removed]
        position = {channel: new for new, channel in enumerate(kept)}
        self.sources = [None if source is None else position.get(source) for source in self.sources]
        self.in_channels = len(kept)
        self._refresh()

    def prune_output_channels(self, indices: Sequence[int]) -> None:
        """Remove output channels.

        Raises:
            ValueError: An index is not an output channel, or none would remain.
        """
        removed = _checked(indices, self.out_channels)
        self.sources = [source for channel, source in enumerate(self.sources) if channel not in removed]
        self._refresh()

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"

    def _refresh(self) -> None:
        self._run = _contiguous_run(self.sources)
        channels = [self.in_channels if source is None else source for source in self.sources]
        self.index = torch.tensor(channels, dtype=torch.int64, device=self.index.device)


def _checked(indices: Sequence[int], channels: int) -> set[int]:
    removed = set(indices)
    if not all(0 <= index < channels for index in removed):
        raise ValueError(f"`indices` must be channels in [0, {channels}); found {sorted(removed)}.")
    if len(removed) == channels:
        raise ValueError(f"`indices` must leave a channel; found all {channels}.")
    return removed


def _contiguous_run(sources: Sequence[int | None]) -> tuple[int, int, int] | None:
    """(zeros in front, first input, number of inputs) when the outputs are zeros, one run of inputs, zeros."""
    taken = [(output, source) for output, source in enumerate(sources) if source is not None]
    if not taken:
        return None
    front, first = taken[0]
    in_line = all((output, source) == (front + i, first + i) for i, (output, source) in enumerate(taken))
    return (front, first, len(taken)) if in_line else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        plain = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if plain else PadShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3x3 stem, three stages of n blocks with 16, 32 and 64 channels, a linear head.

    Args:
        num_classes: Number of logits.
        blocks: n, the blocks of a stage (3 for ResNet-20).
    """

    def __init__(self, num_classes: int, *, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(torch.flatten(self.pool(out), 1))


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20(
    num_classes: int,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> CifarResNet:
    """ResNet-20: 269,722 parameters for 10 classes, 40.6 million MACs at 32x32.

    Args:
        num_classes: Number of logits.
        mean: Channel means for `build_classifier` (a checkpoint's own); the bare network does not normalise.
        std: Channel deviations for `build_classifier`.
    """
    del mean, std
    return CifarResNet(num_classes, blocks=3)


def resnet32(
    num_classes: int,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> CifarResNet:
    """ResNet-32; arguments as of `resnet20`."""
    del mean, std
    return CifarResNet(num_classes, blocks=5)


def resnet56(
    num_classes: int,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> CifarResNet:
    """ResNet-56; arguments as of `resnet20`."""
    del mean, std
    return CifarResNet(num_classes, blocks=9)
