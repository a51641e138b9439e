"""Residual networks (He et al. 2016, arXiv 1512.03385), with the names of torchvision's weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # channels -> a normalisation layer
Block = Callable[[int, int, int, Norm], nn.Module]  # (before, width, stride, norm) -> a block of convolutions


@dataclass(frozen=True)
class Stem:
    """What an image goes through before the first block.

    Attributes:
        kernel: side of the first convolution, in pixels.
        stride: of it.
        pool: what follows it and its normalisation.
    """

    kernel: int
    stride: int
    pool: Callable[[], nn.Module]


SMALL_IMAGES = Stem(3, 1, nn.Identity)
LARGE_IMAGES = Stem(7, 2, lambda: nn.MaxPool2d(3, stride=2, padding=1))


class BasicBlock(nn.Module):
    """relu(norm(conv3x3(relu(norm(conv3x3(x))))) + shortcut(x)).

    The shortcut is the identity where that fits, and elsewhere a 1x1 convolution with a normalisation: option B of He
    2016.
    """

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), norm(width)
        self.downsample = _shortcut(before, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, before, h, w)`` -> ``(N, width, h / stride, w / stride)``."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 convolution to ``width`` channels, 3x3 with the stride, 1x1 to four times as many; shortcuts as above."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        after = self.expansion * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), norm(after)
        self.downsample = _shortcut(before, after, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, before, h, w)`` -> ``(N, 4 width, h / stride, w / stride)``."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        return torch.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean over all places, and a linear head.

    The width doubles and the side halves from stage to stage. Convolutions begin with the normal weights of He 2015
    (arXiv 1502.01852), by the channels that go out.

    Args:
        kind: of the blocks.
        blocks: of each stage.
        width: channels of the first stage.
        stem: what comes before.
        channels: of the images.
        classes: outputs.
        norm: channels -> a normalisation layer.
    """

    def __init__(
        self,
        kind: type[BasicBlock] | type[Bottleneck],
        *,
        blocks: Sequence[int],
        width: int,
        stem: Stem,
        channels: int,
        classes: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        self.bn1, self.pool = norm(width), stem.pool()
        widths = [kind.expansion * width * 2**number for number in range(len(blocks))]
        before = [width, *widths]
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        for number, (name, depth) in enumerate(zip(self.stages, blocks, strict=True)):
            inner, stride = width * 2**number, 1 if number == 0 else 2
            first = kind(before[number], inner, stride, norm)
            rest = (kind(widths[number], inner, 1, norm) for _ in range(depth - 1))
            self.add_module(name, nn.Sequential(*itertools.chain([first], rest)))
        self.fc = nn.Linear(widths[-1], classes)
        begin_as_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> ``(N, classes)``."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet_of_three_stages(
    depth: int, *, channels: int, classes: int, width: int = 16, norm: Norm = nn.BatchNorm2d
) -> nn.Module:
    """ResNet-20, -32, -56 and their like for images of 32 pixels: 6n + 2 layers in stages of 16, 32 and 64 channels.

    Shortcuts that change the width are convolutions (option B of He 2016, who took option A, zeros in place of the new
    channels, for these), which adds 2,752 weights.

    Args:
        depth: layers with weights, shortcuts not counted.
        channels: of the images.
        classes: outputs.
        width: channels of the first stage.
        norm: channels -> a normalisation layer.

    Raises:
        ValueError: if the depth is not 6n + 2.

    >>> sum(p.numel() for p in resnet_of_three_stages(20, channels=3, classes=10).parameters())
    272474
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...); got {depth}")
    blocks = [(depth - 2) // 6] * 3
    return ResNet(
        BasicBlock, blocks=blocks, width=width, stem=SMALL_IMAGES, channels=channels, classes=classes, norm=norm
    )


def resnet18(
    *, channels: int, classes: int, width: int = 64, norm: Norm = nn.BatchNorm2d, stem: Stem = LARGE_IMAGES
) -> nn.Module:
    """ResNet-18: two basic blocks in each of four stages of 64 to 512 channels.

    Args:
        channels: of the images.
        classes: outputs.
        width: channels of the first stage.
        norm: channels -> a normalisation layer.
        stem: ``LARGE_IMAGES``, 7x7 and a pool, for 224 pixels, or ``SMALL_IMAGES``, 3x3.
    """
    return ResNet(
        BasicBlock, blocks=[2, 2, 2, 2], width=width, stem=stem, channels=channels, classes=classes, norm=norm
    )


def resnet50(
    *, channels: int, classes: int, width: int = 64, norm: Norm = nn.BatchNorm2d, stem: Stem = LARGE_IMAGES
) -> nn.Module:
    """ResNet-50: bottlenecks in four stages of 256 to 2,048 channels, the stride in the 3x3 convolution.

    Args:
        channels: of the images.
        classes: outputs.
        width: channels in the bottlenecks of the first stage.
        norm: channels -> a normalisation layer.
        stem: ``LARGE_IMAGES``, 7x7 and a pool, for 224 pixels, or ``SMALL_IMAGES``, 3x3.
    """
    return ResNet(
        Bottleneck, blocks=[3, 4, 6, 3], width=width, stem=stem, channels=channels, classes=classes, norm=norm
    )


def begin_as_he(module: nn.Module) -> None:
    """Draw the weights of all convolutions anew: normal, with variance 2 / (channels that go out · pixels)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _shortcut(before: int, after: int, stride: int, norm: Norm) -> nn.Module:
    if before == after and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
