from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, normal, problem, quadratic, symmetric

from landscape import HessianOperator, filter_normalized, line_slice, plane_slice, top_eigenvalues

A = symmetric(torch.linspace(-1, 3, 6).double())
W, SLOPES = normal(6), normal(N, 6, seed=1)
B = SLOPES.mean(dim=0)
D1, D2 = normal(6, seed=2), normal(6, seed=3)


def objective():
    return quadratic(A, w=W, slopes=SLOPES)


def closed_form(w):
    return (w @ A @ w / 2 + B @ w).item()


@pytest.mark.parametrize(
    "coordinates",
    [np.linspace(-1, 1, 11), np.linspace(0, 2, 5), [3.0, -1.0, 0.0], [0.5], range(3)],
    ids=["centred", "from zero", "in any order", "one point", "integers"],
)
def test_a_line_through_a_quadratic_is_the_closed_form(coordinates):
    result = line_slice(objective(), D1, coordinates=coordinates)
    assert result.coordinates.tolist() == list(coordinates)
    assert np.allclose(result.losses, [closed_form(W + t * D1) for t in coordinates], rtol=1e-12, atol=1e-13)
    assert result.length == pytest.approx(D1.norm().item(), rel=1e-14)


GRIDS = {
    "not square": (np.linspace(-1, 1, 5), np.linspace(-1, 1, 3)),
    "not centred": (np.linspace(0, 2, 3), np.linspace(0.5, 0.7, 4)),
    "zero at the start": ([0.0, 1.0], [0.0, 1.0, 2.0]),
    "one row": (np.linspace(-1, 1, 4), [0.0]),
    "one column": ([0.0], np.linspace(-1, 1, 4)),
}


@pytest.mark.parametrize(("x", "y"), GRIDS.values(), ids=GRIDS.keys())
def test_a_plane_through_a_quadratic_is_the_closed_form_with_a_row_for_each_y(x, y):
    result = plane_slice(objective(), (D1, D2), x=x, y=y)
    assert result.losses.shape == (len(y), len(x))
    expected = [[closed_form(W + u * D1 + v * D2) for u in x] for v in y]
    assert np.allclose(result.losses, expected, rtol=1e-12, atol=1e-13)
    assert result.x.tolist() == list(x)
    assert result.y.tolist() == list(y)


def test_losses_below_zero_are_ordinary():
    down = -(A @ W + B)
    result = line_slice(objective(), down, coordinates=np.linspace(-1, 1, 13))
    assert np.allclose(result.losses, [closed_form(W + t * down) for t in result.coordinates], rtol=1e-11, atol=1e-12)
    assert result.losses.min() < 0 < result.losses.max()
    assert result.summary()["lowest_loss"] == result.losses.min()


def test_at_zero_both_slices_are_the_loss_itself():
    given = problem("conv_batch_norm").objective()
    d1, d2 = filter_normalized(given, seed=0), filter_normalized(given, seed=1)
    at_zero = given.loss(given.weights).item()
    assert line_slice(given, d1, coordinates=[0.0]).losses[0] == at_zero
    assert plane_slice(given, (d1, d2), x=[0.0, 1.0], y=[0.0]).losses[0, 0] == at_zero


def test_the_lengths_and_the_angle_of_the_axes_are_said():
    result = plane_slice(objective(), (D1, D2), x=[0.0], y=[0.0])
    assert np.allclose(result.lengths, [D1.norm(), D2.norm()], rtol=1e-14)
    assert result.cosine == pytest.approx((D1 @ D2 / (D1.norm() * D2.norm())).item(), rel=1e-13)


def test_a_line_is_a_row_of_the_plane():
    given = problem("tanh_mlp").objective()
    d1, d2 = filter_normalized(given, seed=0), filter_normalized(given, seed=1)
    x = np.linspace(-1, 1, 5)
    plane = plane_slice(given, (d1, d2), x=x, y=[0.0])
    assert np.array_equal(plane.losses[0], line_slice(given, d1, coordinates=x).losses)


@pytest.mark.parametrize("far", [1e200, 1e308])
def test_an_overflow_stays_not_finite_and_is_counted(far):
    line = line_slice(objective(), D1, coordinates=[0.0, far])
    plane = plane_slice(objective(), (D1, D2), x=[0.0, far], y=[0.0, 1.0])
    assert np.isfinite(line.losses).tolist() == [True, False]
    assert np.isfinite(plane.losses).tolist() == [[True, False], [True, False]]
    assert line.summary()["num_not_finite"] == 1
    assert plane.summary()["num_not_finite"] == 2
    assert line.summary()["lowest_loss"] == line.summary()["highest_loss"] == line.losses[0]


def test_eigenvectors_of_a_result_are_directions_and_bend_the_loss_by_their_eigenvalue():
    given = objective()
    pairs = top_eigenvalues(HessianOperator(given), 2, tol=1e-10)
    v1, v2 = pairs.eigenvectors.T
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # the arrays of a result are frozen, of which torch warns once only
    try:
        line = line_slice(given, v1, coordinates=[-1.0, 0.0, 1.0])
        plane = plane_slice(given, (v1, v2), x=[-1.0, 0.0, 1.0], y=[-1.0, 0.0, 1.0])
    finally:
        torch.set_warn_always(always)
    assert line.losses[0] - 2 * line.losses[1] + line.losses[2] == pytest.approx(pairs.eigenvalues[0], rel=1e-9)
    bend = plane.losses[0, 1] - 2 * plane.losses[1, 1] + plane.losses[2, 1]
    assert bend == pytest.approx(pairs.eigenvalues[1], rel=1e-9)
    assert plane.cosine == pytest.approx(0, abs=1e-12)


def test_neither_the_objective_nor_the_directions_are_changed():
    given, d1, d2 = objective(), D1.clone(), D2.clone()
    line_slice(given, d1, coordinates=[1.0])
    plane_slice(given, (d1, d2), x=[1.0], y=[1.0])
    assert torch.equal(given.weights, W)
    assert torch.equal(d1, D1)
    assert torch.equal(d2, D2)


def test_the_points_done_are_reported():
    reports = []
    plane_slice(objective(), (D1, D2), x=[0.0, 1.0], y=[0.0, 1.0, 2.0], progress=lambda *report: reports.append(report))
    assert reports == [(i, 6) for i in range(1, 7)]


def test_the_coordinates_belong_to_the_protocol_and_the_directions_to_the_subject():
    first = line_slice(objective(), D1, coordinates=[0.0, 1.0]).manifest
    second = line_slice(objective(), D2, coordinates=[0.0, 1.0]).manifest
    assert first["measurement"] == second["measurement"] == {"name": "line_slice", "coordinates": [0.0, 1.0]}
    assert first["subject"]["direction"] != second["subject"]["direction"]
    assert "directions" in plane_slice(objective(), (D1, D2), x=[0.0], y=[0.0]).manifest["subject"]


BAD_DIRECTIONS = {
    "zero": (torch.zeros(6), "is zero: there is nothing to walk along"),
    "not finite": (torch.tensor([1.0, math.nan, 0, 0, 0, 0]), "has entries that are not finite"),
    "infinite": (np.array([1.0, np.inf, 0, 0, 0, 0]), "has entries that are not finite"),
    "short": (torch.ones(5), r"must have shape \(6,\), one per weight; got \(5,\)"),
    "block": (torch.ones(6, 1), r"must have shape \(6,\), one per weight; got \(6, 1\)"),
}


@pytest.mark.parametrize(("direction", "sentence"), BAD_DIRECTIONS.values(), ids=BAD_DIRECTIONS.keys())
def test_a_direction_that_makes_no_sense_is_refused(direction, sentence):
    with pytest.raises(ValueError, match=f"^direction {sentence}"):
        line_slice(objective(), direction, coordinates=[0.0])
    with pytest.raises(ValueError, match=f"the first direction {sentence}"):
        plane_slice(objective(), (direction, D2), x=[0.0], y=[0.0])
    with pytest.raises(ValueError, match=f"the second direction {sentence}"):
        plane_slice(objective(), (D1, direction), x=[0.0], y=[0.0])


@pytest.mark.parametrize("factor", [1.0, -3.0, 1e-6])
def test_parallel_directions_are_refused(factor):
    with pytest.raises(ValueError, match=r"the two directions are parallel \(cosine -?1\.0000000\)"):
        plane_slice(objective(), (D1, factor * D1), x=[0.0], y=[0.0])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [([], "not empty"), ([0.0, math.nan], "must be finite; got nan"), ([math.inf], "must be finite; got inf")],
)
def test_an_empty_grid_or_one_that_is_not_finite_is_refused(values, sentence):
    with pytest.raises(ValueError, match=f"coordinates.*{sentence}"):
        line_slice(objective(), D1, coordinates=values)
    with pytest.raises(ValueError, match=f"x.*{sentence}"):
        plane_slice(objective(), (D1, D2), x=values, y=[0.0])
    with pytest.raises(ValueError, match=f"y.*{sentence}"):
        plane_slice(objective(), (D1, D2), x=[0.0], y=values)


def test_a_grid_of_two_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"must be a list of numbers, not empty; got an array of shape \(2, 2\)"):
        line_slice(objective(), D1, coordinates=np.zeros((2, 2)))
