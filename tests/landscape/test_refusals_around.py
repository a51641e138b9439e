"""Sharpness, slices, paths: what makes no sense is refused in one sentence, and gives no number that is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import N, linear_regression, normal, problem, quadratic, symmetric
from torch import nn

from landscape import (
    Adaptive,
    GradientAscent,
    HessianOperator,
    Objective,
    align,
    audit,
    average_case_curve,
    average_case_sharpness,
    bezier,
    eigenvector_axis,
    eigenvector_plane,
    filter_normalized,
    find_rescalings,
    interpolate,
    keskar_sharpness,
    line_slice,
    low_pass_flatness,
    m_sharpness,
    m_sharpness_grid,
    pac_bayes_sigma,
    plane_slice,
    plane_through,
    random_direction,
    relative_flatness,
    spectral_density,
    towards,
    trajectory_plane,
    worst_case_curve,
    worst_case_sharpness,
)
from landscape.curves import BendTraining
from landscape.extents import coordinates_around, grid_around
from landscape.planes import Axis, Plane
from landscape.several_steps import SeveralSteps

A = symmetric(torch.linspace(-1, 3, 6).double())
SAM = GradientAscent(0.1)
D1, D2 = normal(6, seed=3), normal(6, seed=4)


def form(w=None) -> Objective:
    return quadratic(A, w=normal(6) if w is None else w, slopes=normal(N, 6, seed=1))


def diverged() -> Objective:
    return form().at(torch.full((6,), math.nan).double())


def two():
    objective = form()
    return objective, objective.at(objective.weights + 1)


CALLS = {
    "size": (
        TypeError,
        "microbatch_sizes must be a list, .*; got 8",
        lambda: m_sharpness_grid(form(), SAM, microbatch_sizes=8),
    ),
    "words": (TypeError, "microbatch_sizes .*; got '12'", lambda: m_sharpness_grid(form(), SAM, microbatch_sizes="12")),
    "radius": (
        TypeError,
        "radii must .*; got 0.1",
        lambda: m_sharpness_grid(form(), SAM, microbatch_sizes=[2], radii=0.1),
    ),
    "rhos": (TypeError, "rhos must be a list, .*; got 0.1", lambda: worst_case_curve(form(), SAM, rhos=0.1)),
    "rhos, none": (TypeError, "rhos must be a list, .*; got None", lambda: average_case_curve(form(), SAM, rhos=None)),
    "ascent": (
        TypeError,
        r"perturbation must be one, .*; got 0\.1",
        lambda: m_sharpness(form(), 0.1, microbatch_size=2),
    ),
    "score of a sigma": (TypeError, "score must be a function .*; got 3", lambda: pac_bayes_sigma(form(), score=3)),
    "score": (
        TypeError,
        "score must be a function .*; got 3",
        lambda: line_slice(form(), D1, coordinates=[0.0], score=3),
    ),
    "pattern": (
        TypeError,
        "layers must be a pattern .*; got 3",
        lambda: relative_flatness(HessianOperator(form()), layers=3),
    ),
    "measures": (TypeError, "measures must map names", lambda: audit(form(), {"length": 3})),
    "rescaling": (
        TypeError,
        "rescalings must be .*; got 3",
        lambda: audit(form(), {"x": lambda _: 1.0}, rescalings=[3]),
    ),
    "seed": (ValueError, "seed must be at least 0; got -1", lambda: Adaptive(seed=-1)),
    "width": (ValueError, "width must be finite", lambda: spectral_density(HessianOperator(form()), width=math.inf)),
    "statistics": (TypeError, "batch_norm must be .*; got 3", lambda: interpolate(*two(), batch_norm=3)),
    "optimizer": (
        TypeError,
        "optimizer must make a torch optimizer .*; it made 3",
        lambda: bezier(*two(), training=BendTraining(optimizer=lambda _: 3)),
    ),
    "complex": (
        TypeError,
        "direction must be .* of real .*; got complex",
        lambda: line_slice(form(), D1 + 1j, coordinates=[0.0]),
    ),
    "array": (TypeError, "direction .*; got complex", lambda: line_slice(form(), D1.numpy() + 1j, coordinates=[0.0])),
    "nothing": (TypeError, "direction .*; got NoneType", lambda: line_slice(form(), None, coordinates=[0.0])),
    "weights": (TypeError, "the other weights .*; got complex", lambda: towards(form(), D1 + 1j)),
    "steps": (TypeError, "checkpoint 2 of .*; got complex", lambda: trajectory_plane(form(), [D1, D2, D1 + 1j])),
    "no steps": (TypeError, "weights must be a list, .*; got None", lambda: trajectory_plane(form(), None)),
    "text": (
        TypeError,
        "coordinates must be a list of real numbers",
        lambda: line_slice(form(), D1, coordinates=["a"]),
    ),
    "complex grid": (TypeError, "x must be .* real", lambda: plane_slice(form(), (D1, D2), x=np.array([1j]), y=[0.0])),
    "nested": (TypeError, "y must be .* real", lambda: plane_slice(form(), (D1, D2), x=[0.0], y=[[1.0], [1.0, 2.0]])),
    "one": (ValueError, "directions must be the two .*; got 1", lambda: plane_slice(form(), (D1,), x=[0.0], y=[0.0])),
    "three": (ValueError, "the two .*; got 3", lambda: plane_slice(form(), (D1, D2, D1), x=[0.0], y=[0.0])),
    "none": (TypeError, "directions must be a list, .*; got None", lambda: plane_slice(form(), None, x=[0.0], y=[0.0])),
    "other": (ValueError, "orthogonal_to has entries", lambda: filter_normalized(form(), seed=0, orthogonal_to=D1 / 0)),
    "mark": (ValueError, "finite coordinates; got nan", lambda: coordinates_around(Axis(D1, np.array([0, math.nan])))),
    "pairs": (TypeError, "pairs must be the Eigenpairs .*; got int", lambda: eigenvector_axis(form(), 3)),
    "indices": (
        ValueError,
        "indices must name two eigenpairs; got 3",
        lambda: eigenvector_plane(form(), None, indices=(1, 2, 3)),
    ),
    "marks": (
        ValueError,
        "coordinates; got inf",
        lambda: grid_around(Plane((D1, D2), marks=np.array([[0, math.inf]]))),
    ),
    "names of marks": (
        ValueError,
        "mark_names must have one for each of 2 marks; got 1",
        lambda: Axis(D1, [0.0, 1.0], ("a",)),
    ),
    "places": (ValueError, r"marks must have shape \(k, 2\)", lambda: Plane((D1, D2), marks=np.zeros((2, 3)))),
    "path": (ValueError, r"path must have shape \(k, 2\)", lambda: Plane((D1, D2), path=np.zeros(3))),
    "distances": (
        ValueError,
        r"path_distances must have one for each place of path; got shape \(2,\)",
        lambda: Plane((D1, D2), path=np.zeros((3, 2)), path_distances=np.zeros(2)),
    ),
}


AROUND = {
    "m-sharpness": lambda o: m_sharpness(o, SAM, microbatch_size=2),
    "over sizes": lambda o: m_sharpness_grid(o, SAM, microbatch_sizes=[2]),
    "worst case": lambda o: worst_case_sharpness(o, SAM, microbatch_size=2),
    "average case": lambda o: average_case_sharpness(o, SAM),
    "low pass": lambda o: low_pass_flatness(o, sigma=0.1),
    "Keskar": keskar_sharpness,
    "sigma": pac_bayes_sigma,
    "audit": audit,
    "rescalings": find_rescalings,
    "random": lambda o: random_direction(o, seed=0),
    "filters": lambda o: filter_normalized(o, seed=0),
    "eigenvector": lambda o: eigenvector_axis(o, None),
    "towards": lambda o: towards(o, D1),
    "plane": lambda o: plane_through(o, D1, D2),
    "trajectory": lambda o: trajectory_plane(o, [D1, D2, D1 + D2]),
    "line": lambda o: line_slice(o, D1, coordinates=[0.0]),
    "slice": lambda o: plane_slice(o, (D1, D2), x=[0.0], y=[0.0]),
    "path": lambda o: interpolate(o, form()),
    "curve": lambda o: bezier(o, form()),
    "alignment": lambda o: align(o, form()),
}


@pytest.mark.parametrize("name", AROUND)
def test_something_else_than_an_objective_is_refused_with_the_way_to_one(name):
    for other, words in (
        (nn.Linear(6, 1), r"got Linear. Make one of the model, its loss and data"),
        (HessianOperator(form()), r"got HessianOperator. Pass the one that it was made of, \.objective"),
        (D1, r"got Tensor. Pass Objective\(model, loss, data\)"),
    ):
        with pytest.raises(TypeError, match=f"^objective must be an Objective; {words}"):
            AROUND[name](other)


def test_marks_without_names_are_numbered():
    line = line_slice(form(), Axis(D1, [0.0, 1.0]), coordinates=[0.0, 1.0])
    assert line.marks.tolist() == [0.0, 1.0]
    assert line.mark_names.tolist() == ["mark 1", "mark 2"]


def test_the_checkpoints_of_a_trajectory_may_come_one_by_one():
    steps = [form().weights + step for step in (D1, D2, 0 * D1)]
    one_by_one = trajectory_plane(form(), (step for step in steps))
    assert (one_by_one.path == trajectory_plane(form(), steps).path).all()


@pytest.mark.parametrize("name", CALLS)
def test_what_makes_no_sense_is_refused_in_one_sentence(name):
    kind, words, call = CALLS[name]
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "measure",
    [
        lambda objective: pac_bayes_sigma(objective, num_draws=2),
        lambda objective: keskar_sharpness(objective),
        lambda objective: relative_flatness(HessianOperator(objective), num_probes=2),
        lambda objective: audit(objective, {"loss": lambda o: o.loss(o.weights).item()}),
    ],
)
def test_weights_that_are_not_finite_give_no_number(measure):
    with pytest.raises(ValueError, match="finite"):
        measure(diverged())


def test_a_loss_of_minus_one_or_less_has_no_sharpness_by_keskar():
    for level in (1.0, 3.0):
        below = Objective(
            nn.Linear(2, 1).double(),
            lambda outputs, _, level=level: 0 * outputs.mean() - level,
            [(normal(3, 2), normal(3, 1))],
        )
        with pytest.raises(ValueError, match=r"relative to 1 \+ L\(w\), which must be positive"):
            keskar_sharpness(below)


def test_a_direction_given_as_an_array_or_through_another_precision_is_the_same():
    lines = [line_slice(form(), d, coordinates=torch.tensor([0.0, 1.0])) for d in (D1, D1.numpy(), D1.tolist())]
    np.testing.assert_array_equal(lines[0].losses, lines[1].losses)
    np.testing.assert_array_equal(lines[0].losses, lines[2].losses)
    objective = problem("tanh_mlp").objective()
    first = filter_normalized(objective, seed=0)
    second = filter_normalized(objective, seed=1, orthogonal_to=first.numpy())
    assert torch.equal(second, filter_normalized(objective, seed=1, orthogonal_to=first))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_whose_squares_are_no_numbers_of_single_precision_are_right(scale):
    model = nn.Linear(3, 1, bias=False)
    objective = Objective(model, nn.functional.mse_loss, [(torch.ones(2, 3), torch.zeros(2, 1))])
    d1, d2 = torch.tensor([3.0, 4.0, 0.0]) * scale, torch.tensor([0.0, 0.0, 2.0]) * scale
    plane = plane_slice(objective, (d1, d2), x=[0.0], y=[0.0])
    assert plane.cosine == 0
    np.testing.assert_allclose(plane.lengths, [5 * scale, 2 * scale], rtol=1e-6)
    assert line_slice(objective, d1, coordinates=[0.0]).length == pytest.approx(5 * scale, rel=1e-6)
    with pytest.raises(ValueError, match="parallel"):
        plane_slice(objective, (d1, 2 * d1), x=[0.0], y=[0.0])


def test_a_radius_whose_square_overflows_does_not_leave_the_weights_where_they_are():
    objective, _ = linear_regression()
    worst = worst_case_sharpness(objective, GradientAscent(1e200), microbatch_size=N)
    assert worst.value == math.inf
    steps = SeveralSteps(GradientAscent(1e200), steps=3)
    assert not math.isfinite(m_sharpness(objective, steps, microbatch_size=N).value)


@pytest.mark.parametrize("size", [1, 2, N])
def test_a_gradient_whose_length_overflows_has_no_sharpness(size):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    data = [(normal(N, 2), normal(N, 1))]
    objective = Objective(model, lambda y, z: 1e200 * (y - z).square().mean(), data)
    assert math.isfinite(objective.gradient(objective.weights).abs().max())
    assert math.isnan(m_sharpness(objective, GradientAscent(0.1), microbatch_size=size).value)
