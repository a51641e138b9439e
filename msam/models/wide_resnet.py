"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msam.models.resnet import Norm, begin_as_he


class WideBlock(nn.Module):
    """x + conv3x3(dropout(relu(norm(conv3x3(relu(norm(x))))))).

    Where the width changes, a 1x1 convolution of relu(norm(x)) takes the place of x.
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.bn1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, before, h, w)`` -> ``(N, after, h / stride, w / stride)``."""
        active = torch.relu(self.bn1(x))
        inner = self.dropout(torch.relu(self.bn2(self.conv1(active))))
        result: Tensor = self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))
        return result


class WideResNet(nn.Module):
    """Three stages of wide blocks with 16, 32 and 64 channels times a factor, each in (depth − 4) / 6 blocks.

    With a depth of 28 and a factor of 10 it has 36.5 million weights.

    Args:
        channels: of the images.
        classes: outputs.
        depth: layers with weights, shortcuts not counted: 6n + 4.
        widen_factor: how many times wider than ResNet-20.
        dropout: share of units that are dropped between the two convolutions of a block.
        norm: channels -> a normalisation layer.

    Raises:
        ValueError: if the depth is not 6n + 4.

    >>> narrow = WideResNet(channels=3, classes=10, depth=10, widen_factor=1)
    >>> sum(p.numel() for p in narrow.parameters())
    77850
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        depth: int = 28,
        widen_factor: int = 10,
        dropout: float = 0.0,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, ...); got {depth}")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        before = 16
        for number in range(3):
            after = 16 * 2**number * widen_factor
            for index in range((depth - 4) // 6):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(WideBlock(before, after, stride, norm, dropout))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.bn, self.fc = norm(before), nn.Linear(before, classes)
        begin_as_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> ``(N, classes)``."""
        logits: Tensor = self.fc(torch.relu(self.bn(self.blocks(self.conv1(x)))).mean((2, 3)))
        return logits
