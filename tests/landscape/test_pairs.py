"""What two checkpoints must have in common for a path between them, and the sentences where they have not."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, normal, problem, quadratic, ragged
from torch import nn

from landscape import Frozen, Objective, Recomputed, interpolate

X, Y = normal(N, 3, seed=7), torch.arange(N) % 3


def made(*layers: nn.Module, x=X, y=Y, loss=F.cross_entropy, split: str = "") -> Objective:
    return Objective(nn.Sequential(*layers).double(), loss, ragged(x, y), split=split)


def mlp(hidden: int = 4, **settings) -> Objective:
    return made(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 3), **settings)


REFUSED = {
    "another width": (lambda: mlp(5), "parameters differ: 0.weight ((4, 3) and (5, 3)), 0.bias ((4,) and (5,))"),
    "another depth": (lambda: made(nn.Linear(3, 3)), "2.weight ((3, 4) and none)"),
    "another activation": (
        lambda: made(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)),
        "layers differ: 1 (Tanh() and ReLU())",
    ),
    "other data": (lambda: mlp(x=X + 1), "differ in objective.data"),
    "another loss": (lambda: mlp(loss=F.multi_margin_loss), "objective.loss: 'cross_entropy' or 'multi_margin_loss'"),
    "another split": (lambda: mlp(split="test"), "objective.split: '' or 'test'"),
    "single precision": (
        lambda: Objective(
            nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), F.cross_entropy, ragged(X.float(), Y)
        ),
        "torch.float32 on cpu, and not of torch.float64",
    ),
    "no objective": (lambda: torch.zeros(31), "must be given as an Objective; got Tensor"),
}


@pytest.mark.parametrize(("other", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_second_checkpoint_is_refused_by_name(other, sentence):
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        interpolate(mlp(), other())


def test_weights_that_are_not_finite_are_refused():
    objective = mlp()
    for ends, place in (((0, 1), "second"), ((1, 0), "first")):
        pair = [objective, objective.at(objective.weights * float("nan"))]
        with pytest.raises(ValueError, match=f"weights of the {place} checkpoint are not all finite"):
            interpolate(pair[ends[0]], pair[ends[1]])


def test_frozen_parameters_and_buffers_that_differ_are_refused():
    first, second = problem("frozen").model, problem("frozen").model
    second[0].bias.data += 1
    pair = [Objective(model, F.cross_entropy, ragged(X, Y)) for model in (first, second)]
    with pytest.raises(ValueError, match=re.escape("lie on no path: 0.bias. Make them trainable")):
        interpolate(*pair)
    A = torch.eye(3).double()
    with pytest.raises(ValueError, match="lie on no path: A"):
        interpolate(quadratic(A), quadratic(2 * A))


def test_held_out_data_must_be_of_the_same_model():
    with pytest.raises(ValueError, match="held_out is of another architecture"):
        interpolate(mlp(), mlp(), held_out=mlp(5))
    with pytest.raises(TypeError, match="held_out must be given as an Objective; got list"):
        interpolate(mlp(), mlp(), held_out=[(X, Y)])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"points": 2}, "points must be at least 3; got 2"),
        ({"points": 4.5}, "points must be an integer"),
        ({"tolerance": 0}, "tolerance must be a positive, finite number; got 0"),
        ({"tolerance": float("nan")}, "tolerance must be a positive"),
        ({"score": "accuracy"}, "score must be a function"),
        ({"score": lambda outputs, targets: outputs}, "score must return a scalar"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        interpolate(mlp(), mlp(), **settings)


def test_with_batch_norm_it_must_be_said_what_it_normalises_by():
    objective = problem("conv_batch_norm").objective()
    with pytest.raises(ValueError, match=re.escape("(1.running_mean, 1.running_var); say what it normalises by")):
        interpolate(objective, objective)
    with pytest.raises(TypeError, match="training must be an Objective over the training data; got list"):
        Recomputed([(X, Y)])
    with pytest.raises(ValueError, match=re.escape("batch_norm=Recomputed(...) is of another architecture")):
        interpolate(objective, objective, batch_norm=Recomputed(mlp()))


def test_without_batch_norm_it_makes_no_difference_what_is_said():
    objective = mlp()
    other = objective.at(-objective.weights)
    plain = interpolate(objective, other, points=3)
    assert interpolate(objective, other, points=3, batch_norm=Frozen()) == plain
    assert interpolate(objective, other, points=3, batch_norm=Recomputed(objective)) == plain
