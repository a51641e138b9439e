"""Directions that lead to other weights, and along eigenvectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from problems import N, normal, problem, quadratic, symmetric

from landscape import (
    HessianOperator,
    eigenvector_axis,
    eigenvector_plane,
    line_slice,
    plane_slice,
    plane_through,
    top_eigenvalues,
    towards,
)

VALUES = torch.tensor([-1.0, 0.3, 1.0, 2.0, 4.0, 7.0]).double()
A = symmetric(VALUES)
W = normal(6, seed=8)


def objective(w=W):
    return quadratic(A, w=w, slopes=torch.outer(torch.ones(N).double(), -A @ w))  # a stationary point at w


def pairs(given=None, k=3):
    return top_eigenvalues(HessianOperator(given or objective()), k=k, tol=1e-10)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_the_loss_along_an_eigenvector_is_its_eigenvalues_parabola(index):
    given, found = objective(), pairs()
    result = line_slice(given, eigenvector_axis(given, found, index=index), coordinates=[-2.0, 0.0, 3.0])
    expected = result.losses[1] + VALUES.flip(0)[index - 1].item() / 2 * np.array([4, 0, 9])
    np.testing.assert_allclose(result.losses, expected, rtol=1e-9)
    assert result.length == pytest.approx(1, abs=1e-12)


def test_over_the_plane_of_two_eigenvectors_the_loss_is_the_sum_of_both_parabolas():
    given, x, y = objective(), np.array([-1.0, 0.0, 2.0]), np.array([0.0, 1.5])
    result = plane_slice(given, eigenvector_plane(given, pairs(), indices=(1, 3)), x=x, y=y)
    rise = 7 / 2 * x[None, :] ** 2 + 2 / 2 * y[:, None] ** 2
    np.testing.assert_allclose(result.losses - result.losses[0, 1], rise, rtol=1e-9, atol=1e-12)
    assert abs(result.cosine) < 1e-12


def test_an_eigenvector_is_not_rescaled_filter_by_filter():
    given = problem("conv_batch_norm").objective()
    found = top_eigenvalues(HessianOperator(given), k=1)
    np.testing.assert_array_equal(eigenvector_axis(given, found).direction.numpy(), found.eigenvectors[:, 0])


def test_eigenpairs_of_other_weights_are_refused():
    found = pairs()
    with pytest.raises(ValueError, match="belong to other weights than the objective's"):
        eigenvector_axis(objective(W + 1), found)
    made_by_hand = dataclasses.replace(found, manifest={})
    assert eigenvector_axis(objective(W + 1), made_by_hand).direction.shape == (6,)


def test_eigenpairs_of_other_running_statistics_are_refused():
    given = problem("conv_batch_norm")
    found = top_eigenvalues(HessianOperator(given.objective()), k=1)
    with torch.no_grad():
        next(part for part in given.model.modules() if hasattr(part, "running_mean")).running_mean += 1
    with pytest.raises(ValueError, match="belong to other weights"):
        eigenvector_axis(given.objective(), found)


def test_eigenpairs_of_some_blocks_go_with_the_objective_of_those():
    given = problem("tanh_mlp").objective()
    block = given.select("0.*")
    found = top_eigenvalues(HessianOperator(block), k=1)
    assert eigenvector_axis(block, found).direction.shape == block.weights.shape
    with pytest.raises(ValueError, match=r"have 16 entries and the objective 31 weights; .*select the same blocks"):
        eigenvector_axis(given, found)


def test_a_pair_that_did_not_converge_is_no_eigenvector():
    found = dataclasses.replace(pairs(), converged=np.array([True, False, True]))
    with pytest.raises(ValueError, match=r"eigenpair 2 did not converge \(residual .*eigenvectors\[:, 1\]"):
        eigenvector_plane(objective(), found)
    eigenvector_plane(objective(), found, indices=(1, 3))


@pytest.mark.parametrize("index", [0, 4, -1])
def test_an_eigenpair_that_is_not_there_is_refused(index):
    with pytest.raises(ValueError, match=f"index must be between 1 and 3, .*; got {index}"):
        eigenvector_axis(objective(), pairs(), index=index)


def test_one_eigenvector_is_no_plane():
    with pytest.raises(ValueError, match="got 2 twice"):
        eigenvector_plane(objective(), pairs(), indices=(2, 2))


def test_a_line_to_other_weights_starts_at_the_model_and_is_at_them_at_one():
    given, other = objective(), normal(6, seed=3)
    axis = towards(given, other, name="run b", own_name="run a")
    result = line_slice(given, axis, coordinates=[0.0, 0.5, 1.0])
    at = [given.loss(w).item() for w in (W, (W + other) / 2, other)]
    np.testing.assert_allclose(result.losses, at, rtol=1e-12)
    assert result.marks.tolist() == [0.0, 1.0]
    assert result.mark_names.tolist() == ["run a", "run b"]
    assert torch.equal(towards(given, other.numpy(), name="run b").direction, axis.direction)


def test_there_is_no_line_to_the_weights_themselves():
    with pytest.raises(ValueError, match="b has the weights of the model: there is no line between them"):
        towards(objective(), W + 1e-17, name="b")


def test_weights_of_another_model_and_those_that_are_not_finite_are_refused_by_name():
    given = objective()
    with pytest.raises(ValueError, match=r"run b must have shape \(6,\), the weights of the same model; got \(7,\)"):
        towards(given, torch.zeros(7), name="run b")
    with pytest.raises(ValueError, match="run b has weights that are not finite"):
        plane_through(given, W + 1, torch.full((6,), torch.inf), names=("run c", "run a", "run b"))


def test_the_three_marks_of_a_plane_are_the_three_weights():
    given, first, second = objective(), normal(6, seed=3), normal(6, seed=4)
    plane = plane_through(given, first, second, names=("a", "b", "c"))
    d1, d2 = plane.directions
    places = [W + x * d1 + y * d2 for x, y in plane.marks]
    for place, weights in zip(places, (W, first, second), strict=True):
        assert torch.allclose(place, weights, atol=1e-14)
    assert d1.norm().item() == pytest.approx(1, abs=1e-14)
    assert d2.norm().item() == pytest.approx(1, abs=1e-14)
    assert abs(d1 @ d2).item() < 1e-15
    result = plane_slice(given, plane, x=[0.0, plane.marks[1, 0]], y=[0.0])
    assert result.losses[0, 1] == pytest.approx(given.loss(first).item(), rel=1e-12)
    assert result.mark_names.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("share", [-1.0, 0.3, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_three_weights_on_one_line_are_refused(share, dtype):
    given = quadratic(A.to(dtype), w=W.to(dtype), slopes=torch.zeros(N, 6, dtype=dtype))
    other = normal(6, seed=3)
    with pytest.raises(ValueError, match="a, b, c lie on one line and span no plane"):
        plane_through(given, other.to(dtype), (W + share * (other - W)).to(dtype), names=("a", "b", "c"))


@pytest.mark.parametrize(("first", "second", "pair"), [(0, 1, "a and b"), (1, 0, "a and c"), (1, 1, "b and c")])
def test_two_of_three_that_are_the_same_are_refused_by_name(first, second, pair):
    places = [W, W + 2]
    with pytest.raises(ValueError, match=f"{pair} have the same weights"):
        plane_through(objective(), places[first], places[second], names=("a", "b", "c"))


def test_nearly_parallel_is_not_parallel():
    step = normal(6, seed=3)
    plane = plane_through(objective(), W + step, W + 2 * step + 1e-4 * normal(6, seed=5))
    assert abs(plane.directions[0] @ plane.directions[1]).item() < 1e-14
    assert plane.marks[2, 1] == pytest.approx(1e-4, rel=5)


def test_what_only_rounding_keeps_apart_is_the_same_and_lies_on_one_line():
    w = W.float() + 100
    given = quadratic(A.float(), w=w, slopes=torch.zeros(N, 6))
    with pytest.raises(ValueError, match="b has the weights of the model"):
        towards(given, w.nextafter(torch.full((6,), torch.inf)), name="b")
    step = 0.1 * normal(6, seed=3).float()  # a few thousand times the rounding of w
    with pytest.raises(ValueError, match="lie on one line"):
        plane_through(given, w + step, w + 0.37 * step)
    plane_through(given, w + step, w + 0.1 * normal(6, seed=5).float())
