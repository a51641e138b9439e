"""A layer that is given the same at every point is computed once: losses stay what they are, or it is not done."""

from __future__ import annotations

from types import MethodType

import numpy as np
import pytest
import torch
from problems import classes, normal, ragged
from torch import nn
from torch.nn import functional

from landscape import (
    Objective,
    accuracy,
    filter_normalized,
    first_layers as module,
    line_slice,
    plane_slice,
    random_direction,
)
from landscape.forward import Seam, supervised
from landscape.points import Points
from landscape.readings import Reading

WIDE = 40  # inputs, enough for sums to be quicker than products


def over(model, *shape, parameters="*"):
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    data = ragged(normal(9, *shape, seed=7), classes(9, 3, seed=8), (4, 4, 1))
    return Objective(model.double().eval(), functional.cross_entropy, data, parameters=parameters)


def plane(objective):
    """A plane, held against the objective's own losses."""
    first = filter_normalized(objective, seed=0)
    second = random_direction(objective, seed=1)
    x, y = [-1.0, 0.0, 0.3, 2.0], [-0.5, 0.0, 1.5]
    result = plane_slice(objective, (first, second), x=x, y=y)
    own = [[objective.loss(objective.weights + a * first + b * second).item() for a in x] for b in y]
    assert np.allclose(result.losses, own, rtol=1e-12)
    assert result.losses[1, 1] == objective.loss(objective.weights).item()  # to the last bit
    return result.manifest["machine"]["points"]


def points_of(objective, where):
    """What reads off losses at points of a plane."""
    directions = [filter_normalized(objective, seed=0), random_direction(objective, seed=1)]
    return Points([Reading(objective, accuracy)], objective.weights, directions, where)


class Branches(nn.Module):
    """Two layers read the data, one of them with the weights of a later one."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE, bias=False)
        self.later, self.head = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 3)
        self.later.weight = self.two.weight

    def forward(self, x):
        return self.head(self.later(self.one(x).tanh()) * self.two(x * 2))


class Twice(nn.Module):
    """Its first layer is also its second."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 3)

    def forward(self, x):
        return self.head(self.layer(self.layer(x).tanh()))


class Cut(nn.Module):
    """The graph is cut before the second layer, which has a first layer's input for all that autograd knows."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 3)

    def forward(self, x):
        return self.two(self.one(x).detach())


class OtherWeights(nn.Module):
    """Its first layer is called with other weights than its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDE, 5), nn.Linear(5, 3)

    def forward(self, x):
        weights = {"weight": self.one.weight.tanh(), "bias": self.one.bias}
        return self.two(torch.func.functional_call(self.one, weights, (x,)))


class Parts(nn.Module):
    """Its first layer is called again where there are many examples."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDE, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.two(torch.cat([self.one(part) for part in x.split(32)]))


class Gated(nn.Module):
    """What the second layer is given hangs on the weights of the first, though it has no gradient."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDE, 3), nn.Linear(WIDE, 3)

    def forward(self, x):
        gate = self.one(x)
        return gate + self.two(x * (gate[:, :1] > 0))


class NoGradient(nn.Module):
    """Its forward pass cannot be recorded."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(WIDE, 3)

    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("for inference only")
        return self.one(x)


def perceptron():
    return nn.Sequential(nn.Linear(WIDE, 5), nn.ReLU(), nn.Linear(5, 3))


def convolutions():
    return nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3), nn.Flatten(), nn.Linear(18, 3))


def with_weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(WIDE, 5)), nn.Tanh(), nn.Linear(5, 3))


def with_batch_norm():
    return nn.Sequential(nn.Linear(WIDE, WIDE), nn.BatchNorm1d(WIDE), nn.ReLU(), nn.Linear(WIDE, 3))


def with_another_forward():
    model = perceptron()
    model[0].forward = MethodType(lambda layer, x: type(layer).forward(layer, x.clamp(max=1)), model[0])
    return model


def with_weights_in_a_buffer():
    model = perceptron()
    weight = model[0].weight.detach()
    del model[0].weight
    model[0].register_buffer("weight", weight)
    return model


NETS = {
    "perceptron": (perceptron, (WIDE,), "*", "in place, first layer kept"),
    "tokens": (lambda: nn.Sequential(perceptron(), nn.Flatten(), nn.Linear(6, 3)), (2, WIDE), "*", "first layer kept"),
    "convolutions": (convolutions, (4, 5, 5), "*", "in place, channels last, first layer kept"),
    "branches": (Branches, (WIDE,), "*", "in place, 2 first layers kept"),
    "bias of it alone": (perceptron, (WIDE,), "*.bias", "in place, first layer kept"),
    "weight of it alone": (perceptron, (WIDE,), "0.weight", "in place, first layer kept"),
    "none of it": (perceptron, (WIDE,), "2.*", "in place, first layer kept"),
    "few inputs": (lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), (8,), "*", "in place"),
    "called twice": (Twice, (WIDE,), "*", "in place"),
    "weight norm": (with_weight_norm, (WIDE,), "*", "in place"),
    "weights in a buffer": (with_weights_in_a_buffer, (WIDE,), "*", "in place"),
    "graph cut": (Cut, (WIDE,), "*", "in place, first layer kept"),
    "norm folded before a wide head": (with_batch_norm, (WIDE,), "*", "in place, 1 batch norm folded"),
    "other weights": (OtherWeights, (WIDE,), "*", "in place"),
}


@pytest.mark.parametrize(("build", "shape", "parameters", "way"), NETS.values(), ids=NETS.keys())
def test_losses_are_the_objectives_own(build, shape, parameters, way):
    found = plane(over(build(), *shape, parameters=parameters))
    assert found.endswith(way) if way == "first layer kept" else found == way


@pytest.mark.parametrize(
    ("build", "way"),
    [(Parts, "in place, first layer kept"), (Gated, "in place, first layer kept"), (with_another_forward, "in place")],
)
def test_examples_that_are_treated_unlike_the_first_have_their_own_losses_too(build, way):
    x = torch.cat([torch.zeros(32, WIDE).double(), normal(32, WIDE, seed=7)])
    model = build().double()
    objective = Objective(model, functional.cross_entropy, [(x, classes(64, 3, seed=8))])
    assert plane(objective) == way


def test_of_a_network_without_gradient_there_are_none():
    model, batch = NoGradient(), (normal(3, WIDE), classes(3, 3))
    assert module.layers_given_data(Seam(model, supervised), batch) == {}
    assert all(p.requires_grad for p in model.parameters())
    assert not model.one._forward_hooks


def test_the_data_are_multiplied_once_for_w_and_for_each_direction(monkeypatch):
    objective = over(perceptron(), WIDE)
    where = np.array([[a, b] for b in (0.3, -0.7) for a in (0.1, 0.9, -1.3)])
    points = points_of(objective, where)
    inputs, linear = [], functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, w, b=None: (inputs.append(x.shape[-1]), linear(x, w, b))[1])
    for layer in points._ways[0]._first:
        monkeypatch.setattr(layer, "_convolve", functional.linear)
    for i in range(6):
        points.at(i)
    pieces = len(objective.work.pieces)
    assert inputs.count(WIDE) == 3 * pieces
    assert inputs.count(5) == 6 * pieces  # the second layer, at each point


def test_where_weights_overflow_losses_are_not_finite_though_no_input_reads_them():
    x = normal(9, WIDE).float()
    x[:, 0] = 0
    objective = Objective(perceptron(), functional.cross_entropy, [(x, classes(9, 3))])
    d = torch.zeros_like(objective.weights)
    d[0], d[1] = 1e5, 1e-30
    line = line_slice(objective, d, coordinates=[0.0, 1e30, 1e34, 1e300])
    assert line.manifest["machine"]["points"] == "in place, first layer kept"
    own = [objective.loss(objective.weights + t * d).item() for t in line.coordinates]
    assert np.allclose(line.losses, own, rtol=1e-6, equal_nan=True)
    assert np.isfinite(line.losses).tolist() == [True, True, False, False]


def test_what_is_compiled_multiplies_as_it_did(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    points = points_of(over(perceptron(), WIDE), np.array([[0.3, 0.1]]))
    points.at(0)
    assert not points._ways[0]._first[0]._kept
    monkeypatch.undo()
    points.at(0)
    assert points._ways[0]._first[0]._kept


def test_it_is_not_done_where_outputs_would_take_too_much_memory(monkeypatch):
    objective = over(perceptron(), WIDE)
    needed = 9 * 5 * 8 * 4  # examples, units, bytes of a double; w, two directions and a row
    monkeypatch.setattr(module, "KEPT_BYTES", needed)
    assert plane(objective) == "in place, first layer kept"
    monkeypatch.setattr(module, "KEPT_BYTES", needed - 1)
    assert plane(objective) == "in place"
    monkeypatch.setattr(module, "KEPT_BYTES", 9 * 5 * 8 * 2)
    line = line_slice(objective, filter_normalized(objective, seed=0), coordinates=[0.0, 1.0])
    assert line.manifest["machine"]["points"] == "in place, first layer kept"


def test_a_point_has_the_same_bits_whichever_was_computed_before():
    objective = over(perceptron(), WIDE)
    where = np.array([[a, b] for b in (0.3, -0.7) for a in (0.1, 0.9, -1.3)])

    forwards, backwards = points_of(objective, where), points_of(objective, where)
    there = [forwards.at(i) for i in range(6)]
    assert [backwards.at(i)[0] for i in (4, 0, 5, 2, 1, 3)] == [there[i][0] for i in (4, 0, 5, 2, 1, 3)]
    assert points_of(objective, where).at(3)[0] == there[3][0]
