"""Which units of a model can be put in another order."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, ragged
from torch import nn

from landscape import Objective, align
from landscape.permutations import reordered
from landscape.units import hidden_units
from msam.models import image_model
from msam.models.text import TextClassifier


class Shortcut(nn.Module):
    """Around a layer, which therefore has the same units going in and coming out."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x).tanh()
        return self.last(x + self.second(x))


class Steps(nn.Module):
    """Any forward over two layers that make units of an image, and one that reads them."""

    def __init__(self, forward, *, groups=(1, 1)):
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Conv2d(1, 8, 1), nn.GroupNorm(g, 8)) for g in groups)
        self.head, self.what = nn.Linear(8, 3), forward

    def forward(self, x):
        return self.what(self, x)


SMALL = functools.partial(image_model, channels=3, size=8, classes=3)
NETS = {
    "resnet20": (SMALL("resnet20", width=4), normal(N, 3, 8, 8)),
    "resnet20, group norm": (SMALL("resnet20", width=8, norm="group"), normal(N, 3, 8, 8)),
    "resnet50": (SMALL("resnet50", width=4), normal(N, 3, 8, 8)),
    "wide resnet": (SMALL("wrn-28-10", width=1, depth=10), normal(N, 3, 8, 8)),
    "vit": (SMALL("vit", width=16, depth=2, patch=4), normal(N, 3, 8, 8)),
    "shortcut": (Shortcut, normal(N, 4)),
}


def built(name, seed):
    """A model with batch-norm statistics and scales that are not the default ones."""
    build, x = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        model(x)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model(x)
    return Objective(model.eval(), F.cross_entropy, ragged(x, classes(N, 3)))


def shuffled(objective, seed):
    """The same function with its units in random orders."""
    units, generator = hidden_units(objective.model), torch.Generator().manual_seed(seed)
    orders = [unit.drawn(generator) for unit in units]
    buffers = reordered(dict(objective.model.named_buffers()), units, orders)
    weights = reordered(objective.space.unflatten(objective.weights), units, orders)
    moved = objective.with_buffers(buffers) if buffers else objective
    return moved.at(objective.space.flatten(weights))


@pytest.mark.parametrize("name", NETS)
def test_residual_networks_and_transformers_whose_units_were_moved_are_brought_back(name):
    first = built(name, 0)
    other = shuffled(first, 5)
    assert other.loss(other.weights).item() == pytest.approx(first.loss(first.weights).item(), rel=1e-10)
    found = align(first, other, restarts=8 if name == "shortcut" else 1)
    assert found.distance_before > 1
    assert found.distance_after == 0.0
    assert found.discrepancy < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_two_networks_come_nearer_and_keep_their_function(name):
    first, other = built(name, 0), built(name, 1)
    found = align(first, other, restarts=1)
    assert found.distance_after < found.distance_before
    moved = found.objective
    assert moved.loss(moved.weights).item() == pytest.approx(other.loss(other.weights).item(), rel=1e-9)


def test_what_shortcuts_add_up_has_one_order_and_what_attention_reads_keeps_its_own():
    found = hidden_units(SMALL("resnet20", width=4)())
    assert [unit.layer for unit in found[:4]] == ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"]
    stream = {place.name for place in found[0].places}
    assert {
        "conv1.weight",
        "layer1.0.bn2.running_var",
        "layer1.2.conv2.weight",
        "layer2.0.downsample.0.weight",
    } <= stream
    assert [unit.layer for unit in hidden_units(SMALL("vit", width=16, depth=2, patch=4)())] == [
        "blocks.0.mlp.0",
        "blocks.1.mlp.0",
    ]
    text = TextClassifier(vocabulary=9, places=6, outputs=3, width=8, depth=1, heads=2, dropout=0.0)
    assert [unit.layer for unit in hidden_units(text)] == ["blocks.0.mlp.0"]
    (coupled,) = hidden_units(Shortcut())
    assert coupled.is_coupled
    assert not any(unit.is_coupled for unit in found)


DIFFERENCES = {
    "minus": lambda x, y: x - y,
    "in place": lambda x, y: x.sub_(y),
    "function": torch.sub,
    "method": lambda x, y: x.sub(y),
}


@pytest.mark.parametrize("minus", DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_what_is_subtracted_has_the_order_of_what_it_is_subtracted_from(minus):
    torch.manual_seed(0)
    model = Steps(lambda self, x: self.head(minus(self.one(x), self.two(x)).mean((2, 3)))).double().eval()
    (units,) = hidden_units(model)
    assert {"one.0.weight", "two.0.weight", "head.weight"} <= _places([units])
    objective = Objective(model, F.cross_entropy, [(normal(N, 1, 3, 3), classes(N, 3))])
    other = shuffled(objective, 5)
    assert not torch.equal(other.weights, objective.weights)
    assert other.loss(other.weights).item() == pytest.approx(objective.loss(objective.weights).item(), rel=1e-10)


def _places(units):
    return {place.name for unit in units for place in unit.places}


def test_means_over_places_go_along_and_others_do_not():
    for axes in ((2, 3), (-1, -2), [2, 3]):
        model = Steps(lambda self, x, axes=axes: self.head(self.one(x).mean(axes)))
        assert _places(hidden_units(model)) == {
            "one.0.weight",
            "one.0.bias",
            "one.1.weight",
            "one.1.bias",
            "head.weight",
        }
    torch_mean = Steps(lambda self, x: self.head(torch.mean(self.one(x), dim=(2, 3))))
    assert len(hidden_units(torch_mean)) == 1
    for forward in (lambda self, x: self.one(x).mean(1), lambda self, x: self.one(x).mean(), _over_channels):
        with pytest.raises(ValueError, match="mean is no known step"):
            hidden_units(Steps(forward))


def _over_channels(self, x):
    return self.head(self.one(x).mean((1, 2)))


@pytest.mark.parametrize(
    ("forward", "groups", "reason"),
    [
        (
            lambda self, x: self.head((self.one(x) + self.two(x)).mean((2, 3))),
            (2, 4),
            "add takes one.0 with two.0, which has other units",
        ),
        (lambda self, x: self.head((self.one(x) * self.two(x)).mean((2, 3))), (1, 1), "mul is no known step"),
        (lambda self, x: self.head((self.one(x) + x).mean((2, 3))), (1, 1), "add is no known step"),
        (lambda self, x: self.head(self.one(x).mean((2, 3)).softmax(1)), (1, 1), "softmax is no known step"),
    ],
    ids=["groups", "product", "the input", "softmax"],
)
def test_units_that_something_else_reads_stay(forward, groups, reason):
    with pytest.raises(ValueError, match=reason):
        hidden_units(Steps(forward, groups=groups))


def test_groups_of_one_kind_are_added_and_layers_that_act_twice_stay():
    (units,) = hidden_units(Steps(lambda self, x: self.head((self.one(x) + self.two(x)).mean((2, 3))), groups=(2, 1)))
    assert (units.layer, units.group) == ("one.0", 4)
    twice = Steps(lambda self, x: self.head((self.one(x) + self.one(2 * x)).mean((2, 3))))
    with pytest.raises(ValueError, match=r"one\.0 is called twice"):
        hidden_units(twice)
    shape = Steps(lambda self, x: self.head(self.one(x).mean((2, 3))) / x.shape[0])
    assert len(hidden_units(shape)) == 1


def test_flattening_by_views_goes_along_and_other_views_do_not():
    for forward in (lambda self, x: self.head(self.one(x).view(x.shape[0], -1)), _reshaped):
        assert len(hidden_units(Steps(forward))) == 1
    with pytest.raises(ValueError, match="view is no known step"):
        hidden_units(Steps(lambda self, x: self.head(self.one(x).view(-1, 8))))
    with pytest.raises(ValueError, match="is no known step"):
        hidden_units(Steps(lambda self, x: self.head(self.one(x).mean((2, 3)).T.T)))


def _reshaped(self, x):
    return self.head(self.one(x).reshape(x.size(0), -1))


class Named(nn.Sequential):
    """Outputs by name."""

    def forward(self, x):
        return {"logits": super().forward(x)}


def test_outputs_that_are_no_tensor_are_refused_in_a_sentence():
    model = Named(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = ragged(normal(N, 4), classes(N, 3))
    objective = Objective(model, lambda outputs, y: F.cross_entropy(outputs["logits"], y), data)
    with pytest.raises(ValueError, match=r"alignment compares outputs, which must be one tensor; got dict"):
        align(objective, objective)
