from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, problem, ragged
from torch import nn

from landscape import Objective
from landscape.denominators import CrossEntropyDenominator, examples
from landscape.forward import supervised
from landscape.identity import name_of
from landscape.manifest import differences

CRITERION = nn.CrossEntropyLoss(label_smoothing=0.1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (F.cross_entropy, "cross_entropy"),
        (functools.partial(F.cross_entropy, ignore_index=0), "cross_entropy(ignore_index=0)"),
        (examples, "examples"),
        (supervised, "supervised"),
        (CrossEntropyDenominator(ignore_index=0), "targets other than 0, no class weights"),
        (nn.MSELoss(), "MSELoss(reduction='mean')"),
        (nn.HuberLoss(delta=0.5), "HuberLoss(delta=0.5, reduction='mean')"),
        (functools.partial(F.mse_loss, weight=None, size=[1, 2]), "mse_loss(size=[1, 2], weight=None)"),
        (len, "<built-in function len>"),
        (torch.relu, "_VariableFunctionsClass.relu"),
        ({"b": 1, "a": {2}}, "{a={2}, b=1}"),
    ],
)
def test_a_name_is_one_that_a_person_recognises(value, name):
    assert name_of(value) == name


def closure(value):
    return lambda z, y: F.cross_entropy(z, y, label_smoothing=value)


class Loss(nn.Module):
    def __init__(self, scale, hidden=None):
        super().__init__()
        self.scale = scale
        self.register_buffer("hidden", hidden)

    def forward(self, z, y):
        return self.scale * F.cross_entropy(z, y)


class Called:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, z, y):
        return self.scale * F.cross_entropy(z, y)

    def method(self, z, y):
        return self.scale + F.cross_entropy(z, y)


class CalledOtherwise(Called):
    def __call__(self, z, y):
        return 2 * super().__call__(z, y)


CalledOtherwise.__qualname__ = "Called"


@dataclasses.dataclass
class Record:
    scale: float

    def __call__(self, z, y):
        return self.scale * F.cross_entropy(z, y)


def with_default(scale):
    def loss(z, y, scale=scale):
        return scale * F.cross_entropy(z, y)

    return loss


def with_globals(**values):
    space = {"F": F} | values
    exec("loss = lambda z, y: F.cross_entropy(z, y, label_smoothing=VALUE)", space)
    return space["loss"]


LONG = torch.arange(2000.0)
OTHER = LONG.clone()
OTHER[1000] = -1
DIFFERENT = {
    "label smoothing": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.3)),
    "class weights": tuple(nn.CrossEntropyLoss(weight=torch.tensor(w)) for w in ([1.0, 2.0], [2.0, 1.0])),
    "a long tensor": tuple(functools.partial(F.cross_entropy, weight=w) for w in (LONG, OTHER)),
    "a positional argument": tuple(functools.partial(Loss(1.0), torch.tensor(w)) for w in (1.0, 2.0)),
    "a long array": tuple(functools.partial(F.mse_loss, weight=w.numpy()) for w in (LONG, OTHER)),
    "a long list": tuple(functools.partial(F.mse_loss, weight=w.tolist()) for w in (LONG, OTHER)),
    "lambdas": (lambda z, y: F.mse_loss(z, y), lambda z, y: F.l1_loss(z, y)),
    "a constant in a lambda": (lambda z, y: 2 * F.mse_loss(z, y), lambda z, y: 3 * F.mse_loss(z, y)),
    "a captured number": (closure(0.1), closure(0.2)),
    "a captured tensor": (closure(LONG), closure(OTHER)),
    "a captured list": (closure([1]), closure([2])),
    "a captured dictionary": (closure({"a": 1}), closure({"a": 2})),
    "a captured function": (closure(closure(1)), closure(closure(2))),
    "a captured partial": tuple(closure(functools.partial(F.mse_loss, weight=w)) for w in (1, 2)),
    "a captured module": (closure(nn.MSELoss()), closure(nn.L1Loss())),
    "a default": (with_default(1.0), with_default(2.0)),
    "a global number": (with_globals(VALUE=1.0), with_globals(VALUE=2.0)),
    "a global module": (with_globals(VALUE=nn.CrossEntropyLoss()), with_globals(VALUE=CRITERION)),
    "a global record": tuple(with_globals(VALUE=argparse.Namespace(smoothing=s)) for s in (0.1, 0.2)),
    "a module's attribute": (Loss(1.0), Loss(2.0)),
    "a module's buffer": (Loss(1.0, LONG), Loss(1.0, OTHER)),
    "an object's attribute": (Called(1.0), Called(2.0)),
    "an object's code": (Called(1.0), CalledOtherwise(1.0)),
    "the object of a method": (Called(1.0).method, Called(2.0).method),
    "a data class": (Record(1.0), Record(2.0)),
    "an inner function": (lambda z, y: (lambda: z + 1)(), lambda z, y: (lambda: z + 2)()),
}


@pytest.mark.parametrize(("first", "second"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_differs_has_another_name(first, second):
    assert name_of(first) != name_of(second)
    assert name_of(first) == name_of(first)
    assert len(name_of(first)) < 300


@pytest.mark.parametrize(
    "build",
    [
        lambda: closure(0.1),
        lambda: closure(LONG.clone()),
        lambda: Loss(1.0, LONG.clone()),
        lambda: Called([1.0, [2.0]]),
        lambda: nn.CrossEntropyLoss(weight=LONG.clone()),
        lambda: closure(object()),  # what it is cannot be known; its address is not what it is
        lambda: functools.partial(F.mse_loss, value=np.float32(3)),
    ],
)
def test_what_is_built_in_one_way_has_one_name_without_an_address(build):
    assert name_of(build()) == name_of(build())
    assert "0x" not in name_of(build())


def test_a_value_that_holds_itself_has_a_name():
    held = []
    held.append(held)
    looped = Called(1.0)
    looped.me = looped

    def recursive(z, y):
        return recursive(z, y)

    for value in (held, looped, recursive, closure(held)):
        assert name_of(value) == name_of(value)


def test_a_name_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import torch
            from landscape.identity import name_of
            WEIGHT = torch.arange(3.0)
            def loss(z, y, *, kinds=frozenset({"a", "b", "c"})):
                return sum(z * WEIGHT if "x" in {"x", "y", "zz"} else y for _ in kinds)
            print(name_of(loss), name_of({"p", "q", "r"}))
            """
        )
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", "import mine"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


X, Y = normal(N, 3), classes(N, 3)


def measured(loss=F.cross_entropy, data=None, **options):
    return Objective(problem("tanh_mlp").model, loss, data or ragged(X, Y), **options).manifest()


def test_losses_forwards_and_denominators_that_differ_are_told_apart_in_manifests():
    def named(first, second):
        return [entry.split(":")[0] for entry in differences(first, second)]

    smooth = nn.CrossEntropyLoss(label_smoothing=0.3)
    assert named(measured(nn.CrossEntropyLoss()), measured(smooth)) == ["objective.loss"]
    weighted = (measured(nn.CrossEntropyLoss(weight=w)) for w in (normal(3).abs(), normal(3, seed=1).abs()))
    assert named(*weighted) == ["objective.loss", "objective.reduction"]
    times = [measured(forward=lambda m, b, s=s: (s * m(b[0]), b[1])) for s in (1.0, 5.0)]
    assert named(*times) == ["objective.forward"]
    counts = [measured(denominator=lambda z, y, s=s: s * len(y)) for s in (1, 2)]
    assert named(*counts) == ["objective.reduction"]


def test_what_is_no_part_of_the_weights_is_part_of_the_subject():
    given, other = problem("conv_batch_norm"), problem("conv_batch_norm")
    other.model[1].running_var += 1
    frozen, thawed = problem("frozen"), problem("frozen")
    nn.init.ones_(thawed.model[0].bias)
    for first, second in ((given, other), (frozen, thawed)):
        one, two = (each.objective().manifest() for each in (first, second))
        assert one["subject"]["weights"] == two["subject"]["weights"]
        assert one["subject"] != two["subject"]
        assert differences(one, two) == []
    assert given.objective().manifest()["subject"] == problem("conv_batch_norm").objective().manifest()["subject"]


def scaled(model, batch):
    return model(batch[0]) * batch[2], batch[1]


@pytest.mark.parametrize("scales", [(1.0, 2.0), (torch.tensor(1.0), torch.tensor(2.0)), (np.float32(1), np.float32(2))])
def test_batches_that_differ_in_what_they_say_for_all_examples_are_other_data(scales):
    first, second = (measured(data=[(x, y, s) for x, y in ragged(X, Y)], forward=scaled) for s in scales)
    assert [entry.split(":")[0] for entry in differences(first, second)] == ["objective.data"]
