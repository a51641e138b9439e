"""Adaptive sampling on surfaces whose values are all known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import normal, problem, quadratic, symmetric
from scipy.interpolate import RBFInterpolator

from landscape import Adaptive, accuracy, filter_normalized, line_slice, plane_slice
from landscape.sampling import _chosen, _linear

GRID = np.linspace(-1, 1, 41)


class Table:
    """Points whose columns are known, and which of them were asked for."""

    def __init__(self, *columns):
        self.truth = np.stack([np.asarray(column).ravel() for column in columns], axis=1)
        self.values = np.full(self.truth.shape, math.nan)
        self.asked = []
        self.rounds = []

    def visit(self, indices):
        self.rounds.append([int(i) for i in indices])
        self.asked += [int(i) for i in indices if int(i) not in set(self.asked)]
        self.values[indices] = self.truth[indices]

    def from_first(self, array):
        return array


def plane(function, x=GRID, y=GRID):
    """A table and where its points are."""
    u, v = np.meshgrid(x, y)
    with np.errstate(all="ignore"):
        return Table(function(u, v)), np.stack([u, v], axis=-1).reshape(-1, 2)


SMOOTH = {
    "a bowl": (lambda u, v: u**2 + 3 * u * v + 5 * v**2, 25),
    "a curved valley": (lambda u, v: (1 - 2 * u) ** 2 + 30 * (v - 2 * u**2) ** 2, 10),
    "steep corners": (lambda u, v: np.exp(3 * (u**2 + v**2)), 6),
    "waves": (lambda u, v: np.cos(5 * u) * np.sin(4 * v), 6),
    "a logistic wall": (lambda u, v: np.log1p(np.exp(8 * (u + v / 2))), 6),
}


@pytest.mark.parametrize(("function", "gain"), SMOOTH.values(), ids=SMOOTH.keys())
def test_smooth_surfaces_are_within_the_tolerance_with_few_evaluations(function, gain):
    for seed in range(3):
        table, places = plane(function)
        found = Adaptive(tolerance=0.01, seed=seed).fill(table, places, losses=[0])
        size = np.ptp(table.truth)
        assert np.abs(found.values - table.truth).max() <= 0.01 * size
        assert found.error <= 0.005 * size + 1e-9
        assert len(table.asked) * gain <= table.truth.size
        assert sorted(table.asked) == np.flatnonzero(found.evaluated).tolist()
        assert np.array_equal(found.values[found.evaluated], table.truth[found.evaluated])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["a curved valley", "waves", "a logistic wall"])
def test_the_error_is_that_of_the_last_two_rounds_on_points_that_were_held_out(name, seed):
    table, places = plane(SMOOTH[name][0])
    found = Adaptive(tolerance=0.01, seed=seed).fill(table, places, losses=[0])
    errors = []
    for number in (-2, -1):
        known = [index for visited in table.rounds[:number] for index in visited]
        spline = RBFInterpolator(places[known], table.truth[known], kernel="quintic")
        held_out = table.rounds[number]
        errors.append(np.abs(spline(places[held_out]) - table.truth[held_out]).max())
    assert found.error == pytest.approx(max(errors), rel=1e-3)
    assert max(errors) <= 0.005 * np.ptp(table.truth)


def test_points_lie_where_the_surface_bends():
    table, places = plane(lambda u, v: np.tanh(6 * (u - 0.5)))
    found = Adaptive(tolerance=0.02).fill(table, places, losses=[0])
    near = np.abs(places[:, 0] - 0.5) < 0.3
    assert np.abs(found.values - table.truth).max() <= 0.02 * 2
    assert found.evaluated[near].mean() > 2 * found.evaluated[~near].mean()


@pytest.mark.parametrize(
    "function",
    [
        lambda u, v: np.random.default_rng(0).normal(size=u.shape),
        lambda u, v: np.sign(u + v / 3),
        lambda u, v: np.where(u > 0.3, np.nan, u**2),
        lambda u, v: np.where((u > 0.9) & (v > 0.9), np.inf, u**2),
    ],
    ids=["noise", "a step", "a half that is not finite", "a corner that is infinite"],
)
def test_a_surface_that_cannot_be_interpolated_is_evaluated_everywhere(function):
    table, places = plane(function)
    found = Adaptive(tolerance=0.01).fill(table, places, losses=[0])
    assert found.evaluated.all()
    assert np.array_equal(found.values, table.truth, equal_nan=True)
    assert math.isnan(found.error)
    if not np.isfinite(table.truth).all():
        assert len(table.rounds) == 2  # its nodes tell


def test_coordinates_that_are_one_up_to_rounding_span_no_surface_and_all_is_evaluated():
    table, places = plane(lambda u, v: u + v**2, x=np.array([0, 1e-20, 2e-20, 3e-20, 4e-20, 0.5, 1.0]))
    found = Adaptive(tolerance=0.5).fill(table, places, losses=[0])
    assert found.evaluated.all()
    assert np.array_equal(found.values, table.truth)


def test_a_surface_that_is_flat_takes_the_fewest():
    table, places = plane(lambda u, v: 0 * u + 3)
    found = Adaptive().fill(table, places, losses=[0])
    assert len(table.asked) <= 60
    assert sum(len(visited) for visited in table.rounds) == len(table.asked)  # none is chosen twice
    assert np.allclose(found.values, 3, rtol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_grid_with_few_values_along_an_axis_is_evaluated_everywhere(number):
    table, places = plane(lambda u, v: u + v, x=GRID, y=np.linspace(0, 1, number))
    found = Adaptive().fill(table, places, losses=[0])
    assert found.evaluated.all() == (number in (2, 4))
    assert np.allclose(found.values, table.truth, rtol=1e-12, atol=1e-12)


def test_grids_in_any_order_with_values_that_occur_twice():
    generator = np.random.default_rng(3)
    x = generator.permutation(np.concatenate([np.geomspace(0.01, 2, 30), [0.01, 2.0]]))
    table, places = plane(lambda u, v: (u - 1) ** 2 + v, x=x, y=generator.permutation(GRID))
    found = Adaptive(tolerance=0.01).fill(table, places, losses=[0])
    assert np.abs(found.values - table.truth).max() <= 0.01 * np.ptp(table.truth)
    assert len(table.asked) < table.truth.size / 5


def test_both_losses_are_held_to_the_tolerance_of_their_own_and_the_rest_is_linear():
    u, v = np.meshgrid(GRID, GRID)
    easy, hard, linear = 1000 * u, np.cos(4 * u) * np.cos(4 * v), u - v
    table = Table(easy, linear, hard)
    places = np.stack([u, v], axis=-1).reshape(-1, 2)
    found = Adaptive(tolerance=0.01).fill(table, places, losses=[0, 2])
    errors = np.abs(found.values - table.truth).max(axis=0)
    assert errors[2] <= 0.01 * np.ptp(hard)
    assert errors[0] <= 1e-6
    assert errors[1] <= 1e-12
    alone = Table(easy, linear)
    Adaptive(tolerance=0.01).fill(alone, places, losses=[0])
    assert len(alone.asked) < len(table.asked) < table.truth.shape[0] / 4


def test_each_loss_counts_in_shares_of_its_own_range():
    u, v = np.meshgrid(GRID, GRID)
    places, asked = np.stack([u, v], axis=-1).reshape(-1, 2), []
    for scale in (1.0, 2.0**20):
        table = Table(np.exp(2 * u + v), scale * np.cos(4 * u) * np.cos(4 * v))
        Adaptive(tolerance=0.01).fill(table, places, losses=[0, 1])
        asked.append(table.asked)
    assert asked[0] == asked[1]


def test_a_quarter_of_a_round_is_at_random():
    rounds = []
    for seed in (0, 1):
        table, places = plane(SMOOTH["waves"][0])
        Adaptive(tolerance=0.01, seed=seed).fill(table, places, losses=[0])
        rounds.append(table.rounds[:2])
    assert rounds[0][0] == rounds[1][0]  # the nodes
    first, second = (visited[1] for visited in rounds)
    assert len(first) == 8
    assert first[:6] == second[:6]
    assert set(first[6:]) != set(second[6:])


def test_what_is_evaluated_next_lies_where_it_is_unsure_and_far_from_each_other():
    u, v = np.meshgrid(GRID, GRID)
    places = np.stack([u, v], axis=-1).reshape(-1, 2)
    done = np.zeros(len(places), dtype=bool)
    done[:: len(places) // 36] = True
    rest = np.flatnonzero(~done)
    unsure = np.exp(-(places[rest] ** 2).sum(axis=1))[:, None]  # most in the middle
    chosen = _chosen(places, done, rest, unsure, 8, np.random.default_rng(0))[:6]
    far = np.linalg.norm(places[rest[chosen], None] - places[rest[chosen]], axis=2) + 9 * np.eye(6)
    assert np.linalg.norm(places[rest[chosen[0]]]) < 0.06
    assert far.min() > 4 * 0.05  # the points of the grid are 0.05 apart
    assert len(set(_chosen(places, done, rest, 0 * unsure, 8, np.random.default_rng(0)))) == 8


def test_columns_without_a_number_leave_the_others_as_they_are():
    u, v = np.meshgrid(GRID, GRID)
    table = Table(u**2 + v**2, u - v, np.where(u > 0, np.nan, u))
    found = Adaptive(tolerance=0.01).fill(table, np.stack([u, v], axis=-1).reshape(-1, 2), losses=[0])
    assert np.abs(found.values[:, 1] - table.truth[:, 1]).max() <= 1e-12
    assert np.isnan(found.values[~found.evaluated, 2]).all()
    assert not found.evaluated.all()


def test_a_point_that_rounding_puts_outside_has_the_value_of_the_nearest():
    places = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    found = _linear(places, np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[0.0, 0.0], [1 + 1e-3, 1.0]]))
    assert found.ravel() == pytest.approx([2.5, 4.0], abs=1e-12)


def test_with_many_points_a_hundred_neighbours_are_interpolated_between(monkeypatch):
    used = []

    def recorded(*arguments, neighbors, **settings):
        used.append(neighbors)
        return RBFInterpolator(*arguments, neighbors=neighbors, **settings)

    monkeypatch.setattr("scipy.interpolate.RBFInterpolator", recorded)
    monkeypatch.setattr("landscape.sampling._ALL_TOGETHER", 40)
    table, places = plane(SMOOTH["waves"][0])
    found = Adaptive(tolerance=0.01).fill(table, places, losses=[0])
    assert set(used) == {None, 100}
    assert np.abs(found.values - table.truth).max() <= 0.01 * np.ptp(table.truth)


def test_all_processes_have_the_surface_of_the_first():
    class OfTheFirst(Table):
        def from_first(self, array):
            return array + 1.0 if array.shape == self.truth.shape else array  # as if the first had computed that

    u, v = np.meshgrid(GRID, GRID)
    table = OfTheFirst(u**2 + v)
    found = Adaptive().fill(table, np.stack([u, v], axis=-1).reshape(-1, 2), losses=[0])
    assert np.allclose(found.values, table.truth + 1, rtol=0.02, atol=0.02)


def test_a_slice_says_what_it_evaluated_and_what_error_is_left():
    objective = problem("tanh_mlp").objective()
    d1, d2 = filter_normalized(objective, seed=0), filter_normalized(objective, seed=1)
    settings = {"x": GRID[::2], "y": GRID[::2], "score": accuracy, "held_out": objective.sample(9, seed=0)}
    whole = plane_slice(objective, (d1, d2), **settings)
    found = plane_slice(objective, (d1, d2), sampling=Adaptive(tolerance=0.02), **settings)
    for name in ("losses", "held_out_losses"):
        truth = getattr(whole, name)
        assert np.abs(getattr(found, name) - truth).max() <= 0.02 * np.ptp(truth)
        assert np.array_equal(getattr(found, name)[found.evaluated], truth[found.evaluated])
    assert np.array_equal(found.scores[found.evaluated], whole.scores[found.evaluated])
    assert 0 <= found.scores.min() <= found.scores.max() <= 1
    assert np.isfinite(found.held_out_stderrs).all()
    assert found.num_evaluated < 441 / 4
    assert 0 < found.interpolation_error <= 0.01 * max(np.ptp(whole.losses), np.ptp(whole.held_out_losses))
    assert found.manifest["measurement"]["sampling"] == {"name": "Adaptive", "tolerance": 0.02, "seed": 0}
    assert (whole.evaluated, "sampling" in whole.manifest["measurement"]) == (None, False)


def test_a_line_through_a_quadratic_takes_few_points():
    objective = quadratic(symmetric(torch.linspace(-1, 3, 6).double()), w=normal(6))
    whole = line_slice(objective, normal(6, seed=2), coordinates=GRID)
    found = line_slice(objective, normal(6, seed=2), coordinates=GRID, sampling=Adaptive(tolerance=0.001))
    assert np.allclose(found.losses, whole.losses, rtol=1e-9, atol=1e-9)
    assert found.num_evaluated == 14


def test_points_that_overflow_stay_visible():
    objective = quadratic(symmetric(torch.linspace(-1, 3, 6).double()), w=normal(6))
    t = np.concatenate([GRID, [1e200, -1e200]])
    found = line_slice(objective, normal(6, seed=2), coordinates=t, sampling=Adaptive())
    assert np.isfinite(found.losses).tolist() == [True] * 41 + [False] * 2
    assert found.evaluated.all()


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, math.nan])
def test_a_tolerance_that_is_no_share_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be between 0 and 1, a share of the range of losses"):
        Adaptive(tolerance=tolerance)


def test_what_is_no_sampling_is_refused():
    with pytest.raises(
        TypeError, match=r"sampling must be None, for all points, or Adaptive\(tolerance=...\); got 0.01"
    ):
        line_slice(problem("tanh_mlp").objective(), torch.ones(31), coordinates=[0.0], sampling=0.01)
    with pytest.raises(TypeError, match="seed must be an integer"):
        Adaptive(seed=0.5)
