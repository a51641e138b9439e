"""The networks that steps are timed on: a perceptron, and built-in ones with weights of every kind."""

from __future__ import annotations

import itertools

from torch import nn

from msam.models import ViT, resnet_of_three_stages


def mlp() -> nn.Module:
    """Three hidden layers of 276 units on 8x8 images; 173,614 weights."""
    return _perceptron(64, 276, 276, 276)


def lenet_300_100() -> nn.Module:
    """The perceptron of LeCun et al. 1998 on 28x28 images, with ReLU: most of its 266,610 weights read the data."""
    return _perceptron(784, 300, 100)


def vit() -> nn.Module:
    """A small vision transformer: 64 patches of 4x4 pixels and a class token; 175,738 weights."""
    return ViT(channels=3, size=32, classes=10, patch=4, depth=6, width=48, heads=4)


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images (He et al. 2016), with group norm in place of batch norm; 272,474 weights."""
    return resnet_of_three_stages(20, channels=3, classes=10, norm=lambda width: nn.GroupNorm(8, width))


def resnet20_batch_norm() -> nn.Module:
    """ResNet-20 for 32x32 images (He et al. 2016); 272,474 weights."""
    return resnet_of_three_stages(20, channels=3, classes=10)


def _perceptron(*widths: int) -> nn.Module:
    hidden = [(nn.Linear(before, after), nn.ReLU()) for before, after in itertools.pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *itertools.chain(*hidden), nn.Linear(widths[-1], 10))
