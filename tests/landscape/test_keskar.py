"""Keskar's sharpness where the box has a known highest point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, normal, problem, quadratic
from torch import nn

from landscape import KeskarSharpness, Objective, RandomSubspaces, keskar_sharpness
from landscape.climbing import random_start
from landscape.keskar import _columns

W = normal(6)
SLOPES = normal(N, 6, seed=1)
FLAT = torch.zeros(6, 6).double()
B = SLOPES.mean(dim=0)


def test_of_a_linear_function_it_is_the_sum_over_the_sides_of_the_box():
    result = keskar_sharpness(quadratic(FLAT, w=W, slopes=SLOPES), epsilon=0.01, steps=1)
    rise = 0.01 * ((W.abs() + 1) * B.abs()).sum()
    assert result.loss == pytest.approx((B @ W).item(), rel=1e-12)
    assert result.value == pytest.approx((100 * rise / (1 + B @ W)).item(), rel=1e-9)
    assert math.isnan(result.stderr)


def test_of_a_separable_quadratic_it_is_that_of_each_weight():
    a = torch.tensor([3.0, 1.0, -2.0]).double()
    w = torch.tensor([1.0, -0.5, 0.1]).double()
    result = keskar_sharpness(quadratic(a.diag(), w=w), epsilon=0.05, steps=60)
    side, g = 0.05 * (w.abs() + 1), a * w
    e = torch.where(a > 0, side * g.sign(), (-g / a).clamp(-side, side))
    expected = 100 * (g @ e + e @ (a * e) / 2) / (1 + w @ (a * w) / 2)
    assert result.value == pytest.approx(expected.item(), rel=1e-4)


def test_in_random_subspaces_it_is_their_mean():
    result = keskar_sharpness(
        quadratic(FLAT, w=W, slopes=SLOPES), epsilon=0.01, within=RandomSubspaces(dim=3, number=4), steps=1, seed=7
    )
    expected = []
    for i in range(4):
        columns = _columns(W, 3, 7, i)
        assert torch.allclose(columns.norm(dim=0), torch.ones(3).double())
        side = 0.01 * ((torch.linalg.pinv(columns) @ W).abs() + 1)
        expected.append((100 * (side * (columns.T @ B).abs()).sum() / (1 + B @ W)).item())
    assert np.allclose(result.samples, expected, rtol=1e-9)
    assert result.value == pytest.approx(np.mean(expected), rel=1e-9)
    assert result.stderr == pytest.approx(np.std(expected, ddof=1) / 2, rel=1e-9)


def test_where_w_has_no_slope_and_with_restarts_it_begins_at_random():
    a = torch.tensor([3.0, 1.0]).double()
    objective = quadratic(a.diag(), w=torch.zeros(2).double())
    for restarts in (1, 3):
        result = keskar_sharpness(objective, epsilon=0.1, restarts=restarts)
        assert result.value == pytest.approx(100 * 0.1**2 * 4 / 2, rel=1e-9)


def test_restarts_find_what_lies_on_the_other_side():
    model = nn.Linear(1, 1, bias=False).double()
    slope = lambda outputs, _: (0.01 * outputs + torch.relu(-outputs).square()).mean()  # noqa: E731
    objective = Objective(model, slope, [(torch.ones(2, 1).double(), torch.zeros(2, 1).double())])
    objective = objective.at(torch.zeros(1).double())
    found = [keskar_sharpness(objective, epsilon=1.0, restarts=number).value for number in (1, 6)]
    assert found == pytest.approx([100 * 0.01, 100 * (1 - 0.01)])


def test_a_loss_that_overflows_is_infinitely_high():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, targets: outputs.exp().mean(), data)
    assert keskar_sharpness(objective, epsilon=1e4).value == math.inf


def test_a_loss_that_is_no_number_somewhere_in_the_box_is_infinitely_high():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, _: (1 - outputs).sqrt().mean() + outputs.mean(), data)
    inside = objective.at(torch.tensor([0.5]).double())  # grows up to 0.75, and is none beyond 1
    assert keskar_sharpness(inside, epsilon=0.1).value < math.inf
    assert keskar_sharpness(inside, epsilon=0.5).value == math.inf


def test_a_loss_that_is_infinite_at_the_weights_themselves_is_refused():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(9, 1).double(), torch.zeros(9, 1).double())]
    objective = Objective(model, lambda outputs, _: outputs.exp().mean(), data).at(torch.tensor([1e3]).double())
    with pytest.raises(ValueError, match=r"must be positive and finite; L\(w\) is inf"):
        keskar_sharpness(objective)


def test_each_restart_in_each_subspace_has_a_corner_of_its_own_and_all_are_counted(monkeypatch):
    corners, done = [], []

    def recorded(ascent, scales, like, *numbers):
        corners.append(numbers)
        return random_start(ascent, scales, like, *numbers)

    monkeypatch.setattr("landscape.keskar.random_start", recorded)
    within = RandomSubspaces(dim=6, number=2)  # as many as there are weights
    result = keskar_sharpness(
        quadratic(FLAT, w=W, slopes=SLOPES),
        within=within,
        restarts=3,
        seed=7,
        progress=lambda *numbers: done.append(numbers),
    )
    assert corners == [(7, 0, 1), (7, 0, 2), (7, 1, 1), (7, 1, 2)]
    assert done == [(k, 6) for k in range(1, 7)]
    assert result.stderr == pytest.approx(np.std(result.samples, ddof=1) / math.sqrt(2), rel=1e-12)


def test_an_ascent_costs_a_gradient_for_each_step_and_the_last_point_none(monkeypatch):
    objective, gradients, taken = problem("tanh_mlp").objective(), [], Objective.loss_and_gradient
    monkeypatch.setattr(Objective, "loss_and_gradient", lambda own, w: gradients.append(w) or taken(own, w))
    keskar_sharpness(objective, steps=4)
    assert len(gradients) == 4


def test_it_is_kept_with_its_settings(tmp_path):
    objective = problem("tanh_mlp").objective()
    result = keskar_sharpness(objective, within=RandomSubspaces(dim=2, number=2), steps=3)
    assert KeskarSharpness.load(result.save(tmp_path / "a.npz")) == result
    assert result.manifest["measurement"]["subspace"] == result.subspace == 2
    assert result.value > 0
    assert result.lines()
    assert result.summary()["num_subspaces"] == 2
    assert len(result.to_frame()) == 2
    assert keskar_sharpness(objective, epsilon=0.0).value == 0


def test_what_makes_no_sense_is_refused():
    objective = quadratic(FLAT)
    with pytest.raises(ValueError, match="epsilon must be a finite number, zero or more; got -1"):
        keskar_sharpness(objective, epsilon=-1)
    with pytest.raises(ValueError, match="within must be RandomSubspaces of at most 6 dimensions"):
        keskar_sharpness(objective, within=RandomSubspaces(dim=7))
    with pytest.raises(ValueError, match="number must be at least 1; got 0"):
        RandomSubspaces(number=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        keskar_sharpness(objective, steps=0)
