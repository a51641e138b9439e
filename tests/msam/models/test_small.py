"""The built-in models: shapes, and what they are made of."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from landscape.units import hidden_units
from msam.models import cnn, group_norm, image_model, mlp


def test_the_perceptron_maps_images_to_classes_with_the_hidden_units_asked_for():
    model = mlp(inputs=64, hidden=7, classes=10)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 64 * 7 + 7 + 7 * 10 + 10


@pytest.mark.parametrize(("norm", "kind"), [(nn.BatchNorm2d, nn.BatchNorm2d), (group_norm, nn.GroupNorm)])
@pytest.mark.parametrize("size", [8, 9])
def test_the_convolutional_net_maps_images_of_any_size_to_classes_with_the_norm_asked_for(norm, kind, size):
    model = cnn(channels=2, width=4, classes=5, norm=norm)
    assert model(torch.rand(3, 2, size, size)).shape == (3, 5)
    assert sum(isinstance(module, kind) for module in model.modules()) == 2


def test_group_norm_takes_four_channels_to_a_group():
    assert (group_norm(12).num_groups, group_norm(12).num_channels) == (3, 12)


@pytest.mark.parametrize(
    ("name", "settings", "number"),
    [("mlp", {}, 1), ("cnn", {}, 2), ("cnn-gn", {}, 2), ("resnet20", {"width": 4}, 12), ("vit", {"width": 8}, 6)],
)
def test_their_units_can_be_put_in_another_order(name, settings, number):
    build = functools.partial(image_model, channels=1, size=8, classes=10)
    assert len(hidden_units(build(name, **settings)())) == number
