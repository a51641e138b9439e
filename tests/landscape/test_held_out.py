"""Held-out losses and scores, read off in the same pass over the grid."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from problems import classes, normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import Objective, accuracy, filter_normalized, line_slice, plane_slice


def pair(name="conv_batch_norm", **settings):
    """An objective and one of the same model over nine other examples."""
    given = problem(name)
    inputs, targets = normal(9, *given.x.shape[1:], seed=20), classes(9, 3, seed=21)
    other = Objective(given.model, given.loss, ragged(inputs, targets, (4, 4, 1)), split="test", **settings)
    return given.objective(), other


def test_held_out_losses_and_scores_are_those_of_a_slice_of_their_own():
    objective, other = pair()
    directions = filter_normalized(objective, seed=0), filter_normalized(objective, seed=1)
    x, y = [0.0, 1.0, -0.5], [2.0, 0.0]
    together = plane_slice(objective, directions, x=x, y=y, held_out=other, score=accuracy)
    for prefix, alone in (("", objective), ("held_out_", other)):
        apart = plane_slice(alone, directions, x=x, y=y, score=accuracy)
        assert np.array_equal(getattr(together, f"{prefix}losses"), apart.losses)
        assert np.array_equal(getattr(together, f"{prefix}scores"), apart.scores)
    assert not np.allclose(together.losses, together.held_out_losses, rtol=0.01)


def test_each_point_is_set_once_and_the_data_are_gone_through_once():
    objective, other = pair("tanh_mlp")
    calls = []
    score = type("Counting", (), {"__call__": lambda self, o, t: (calls.append(len(t)), o.sum() * 0)[1]})()
    t = np.linspace(-1, 1, 10)  # without zero
    line_slice(objective, torch.ones(31), coordinates=t, held_out=other, score=score)
    assert calls[2:] == [13, 9] * len(t)  # after a look at three examples of each; batches are put together


def test_the_manifest_says_which_data_were_held_out():
    objective, other = pair()
    result = line_slice(objective, torch.ones(objective.space.dim), coordinates=[0.0], held_out=other)
    held = result.manifest["held_out"]
    assert held["data"] == other.manifest()["objective"]["data"] != result.manifest["objective"]["data"]
    assert (held["num_examples"], held["split"]) == (9, "test")
    assert "loss" not in held  # it is the same
    alone = line_slice(objective, torch.ones(objective.space.dim), coordinates=[0.0])
    assert "held_out" not in alone.manifest


def moved(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    return other


def shifted(model):
    other = copy.deepcopy(model)
    other[1].running_mean.add_(1)
    return other


OTHERS = {
    "other weights": (moved, "at the same weights; the weights differ by up to 0.5"),
    "other statistics": (shifted, "at the same weights; the running statistics of batch norm differ"),
    "another architecture": (lambda m: nn.Sequential(*m, nn.Identity()), "is of another architecture; layers differ"),
    "other sizes": (
        lambda m: nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double(),
        "is of another architecture; parameters differ",
    ),
    "another precision": (lambda m: copy.deepcopy(m).float(), "has weights of torch.float32"),
}


@pytest.mark.parametrize(("change", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_a_held_out_objective_of_another_model_is_refused(change, words):
    given = problem("conv_batch_norm")
    model = change(given.model)
    inputs = given.x.to(next(model.parameters()).dtype)
    other = Objective(model, functional.cross_entropy, ragged(inputs, given.y))
    with pytest.raises(ValueError, match=f"held_out .*{words}"):
        line_slice(given.objective(), torch.ones(41), coordinates=[0.0], held_out=other)


def test_what_is_no_objective_is_refused():
    objective, _ = pair()
    with pytest.raises(TypeError, match="held_out must be given as an Objective; got list"):
        line_slice(objective, torch.ones(objective.space.dim), coordinates=[0.0], held_out=[])


def test_parts_of_the_weights_are_varied_in_both():
    objective, other = (each.select("4.*") for each in pair())
    result = line_slice(objective, torch.ones(27), coordinates=[0.0, 1.0], held_out=other)
    expected = other.loss(other.weights + 1).item()
    assert result.held_out_losses[1] == pytest.approx(expected, rel=1e-13)
