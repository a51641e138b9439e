"""Small built-in models for small images."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def mlp(*, inputs: int, hidden: int, classes: int) -> nn.Module:
    """Two hidden-to-output layers with a ReLU between: ``(N, ...)`` -> ``(N, classes)``."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def cnn(*, channels: int, width: int, classes: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """Two 3x3 convolutions with normalisation, pooling and a linear head: ``(N, channels, h, w)`` -> ``(N, classes)``.

    Args:
        channels: of the images.
        width: channels after the first convolution; the second has twice as many.
        classes: outputs.
        norm: channels -> a normalisation layer.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        norm(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )
