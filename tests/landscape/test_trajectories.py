from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import normal, quadratic, symmetric
from sklearn.decomposition import PCA

from landscape import plane_slice, trajectory_plane

A = symmetric(torch.linspace(-1, 3, 6).double())
W = normal(6, seed=8)
AXES = torch.linalg.qr(normal(6, 3, seed=9)).Q.T  # three orthonormal rows


def objective():
    return quadratic(A, w=W)


def along(coordinates) -> list[torch.Tensor]:
    """w + Σ x_k a_k for each row of coordinates along the first axes."""
    steps = torch.as_tensor(np.asarray(coordinates), dtype=torch.float64)
    return list(W + steps @ AXES[: steps.shape[1]])


def crown(n: int = 12) -> np.ndarray:
    """An ellipse in the first two axes, and in turn 0.1 above and below their plane."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([3 * np.cos(angle), 2 * np.sin(angle), 0.1 * (-1.0) ** np.arange(n)], axis=1)


def test_a_path_in_a_plane_is_shown_whole_and_nothing_is_outside():
    steps = np.array([[5.0, 1.0], [3.0, -1.0], [2.0, 0.5], [0.0, 0.0]])
    plane = trajectory_plane(objective(), along(steps))
    assert plane.explained.sum() == pytest.approx(1, abs=1e-14)
    assert plane.path_distances.max() < 1e-14
    first, second = plane.directions
    for (x, y), weights in zip(plane.path, along(steps), strict=True):
        assert torch.allclose(W + x * first + y * second, weights, atol=1e-13)


def test_a_path_that_weaves_through_a_plane_has_the_distances_and_shares_that_it_was_given():
    steps = crown()  # the three axes are uncorrelated, each with mean zero
    plane = trajectory_plane(objective(), along(steps))
    np.testing.assert_allclose(plane.path_distances, 0.1, rtol=1e-12)
    # Σ 9 cos² = 54, Σ 4 sin² = 24, Σ 0.01 = 0.12 over twelve points
    np.testing.assert_allclose(plane.explained, np.array([54, 24]) / 78.12, rtol=1e-12)
    np.testing.assert_allclose(np.abs(plane.path), np.abs(steps[:, :2]), atol=1e-12)


def test_coordinates_start_at_the_final_weights_and_not_at_the_mean_of_the_path():
    steps = np.array([[8.0, 0.0], [6.0, 2.0], [1.0, 0.5], [0.0, 0.0]])
    plane = trajectory_plane(objective(), along(steps))
    np.testing.assert_allclose(plane.path[-1], 0, atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(plane.path, axis=1), np.linalg.norm(steps, axis=1), rtol=1e-12)


def test_the_plane_goes_through_the_final_weights_even_where_the_path_passes_them_by():
    steps = np.array([[3.0, 1.0, 0.7], [-2.0, 1.5, 0.7], [0.5, -1.0, 0.7]])
    plane = trajectory_plane(objective(), along(steps))
    assert plane.explained.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(plane.path_distances, 0.7, rtol=1e-12)


def test_directions_and_shares_are_those_of_a_principal_component_analysis_by_another_library():
    weights = list(W + 5 + normal(9, 6, seed=4) * torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.1]))
    plane = trajectory_plane(objective(), weights)
    theirs = PCA(n_components=2).fit(np.stack([one.numpy() for one in weights]) - W.numpy())
    np.testing.assert_allclose(plane.explained, theirs.explained_variance_ratio_, rtol=1e-12)
    for ours, component in zip(plane.directions, theirs.components_, strict=True):
        assert abs(ours.numpy() @ component) == pytest.approx(1, abs=1e-12)


def test_directions_have_length_one_are_orthogonal_and_point_to_where_the_path_begins():
    steps = np.array([[-5.0, 1.0, 0.3], [-3.0, -1.0, 0.1], [-2.0, 0.5, 0.9], [0.0, 0.0, 0.0]])
    plane = trajectory_plane(objective(), along(steps))
    first, second = plane.directions
    assert first.norm().item() == pytest.approx(1, abs=1e-14)
    assert second.norm().item() == pytest.approx(1, abs=1e-14)
    assert abs(first @ second).item() < 1e-15
    assert all(side[np.abs(side) > np.abs(side).max() / 3][0] > 0 for side in plane.path.T)


def test_a_second_direction_in_which_next_to_nothing_happens_is_found_to_all_digits():
    steps = np.array([[1e5, 0.3], [2e4, -0.4], [1e4, 0.2], [0.0, 0.0]])
    plane = trajectory_plane(objective(), along(steps))
    assert abs(plane.directions[0] @ plane.directions[1]).item() < 1e-14
    assert plane.path_distances.max() < 1e-9
    assert plane.explained.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("entries", [12 * 4, 1], ids=["of four weights, the last of two", "of one weight"])
def test_weights_are_taken_piece_by_piece_to_the_same_plane(monkeypatch, entries):
    weights = along(crown())
    whole = trajectory_plane(objective(), weights)
    monkeypatch.setattr("landscape.trajectories._ENTRIES", entries)
    pieces = trajectory_plane(objective(), weights)
    np.testing.assert_allclose(pieces.path, whole.path, atol=1e-13)
    np.testing.assert_allclose(pieces.path_distances, whole.path_distances, atol=1e-14)
    for one, other in zip(pieces.directions, whole.directions, strict=True):
        assert torch.allclose(one, other, atol=1e-14)


def test_arrays_and_weights_in_single_precision_do_as_well():
    weights = along(crown())
    plane = trajectory_plane(objective(), [weights[0].numpy(), *(one.float() for one in weights[1:])])
    np.testing.assert_allclose(plane.path_distances, 0.1, rtol=1e-5)
    assert plane.directions[0].dtype == torch.float64


def test_the_path_goes_into_the_slice_of_its_plane():
    given = objective()
    plane = trajectory_plane(given, along(crown()))
    result = plane_slice(given, plane, x=[0.0, 1.0], y=[0.0])
    np.testing.assert_array_equal(result.path, plane.path)
    np.testing.assert_array_equal(result.path_distances, plane.path_distances)
    np.testing.assert_array_equal(result.explained, plane.explained)
    assert result.losses[0, 0] == given.loss(given.weights).item()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_checkpoints_are_refused(count):
    with pytest.raises(ValueError, match=f"at least three checkpoints to span a plane; got {count}"):
        trajectory_plane(objective(), along(crown())[:count])


def test_a_path_on_a_line_is_refused_in_single_precision_too():
    steps = [[5.0], [1.0], [0.3], [0.0]]
    with pytest.raises(ValueError, match="lie on one line and span no plane"):
        trajectory_plane(objective(), along(steps))
    single = quadratic(A.float(), w=W.float(), slopes=torch.zeros(13, 6))
    with pytest.raises(ValueError, match="lie on one line and span no plane"):
        trajectory_plane(single, [one.float() for one in along(steps)])


def test_every_line_is_refused_however_its_second_spread_is_rounded():
    for seed in range(30):  # in half of them it is the root of a number below zero
        steps = normal(3, 1, seed=seed) @ normal(1, 6, seed=seed + 100)
        with pytest.raises(ValueError, match="lie on one line and span no plane"):
            trajectory_plane(objective(), list(W + steps))


def test_what_rounding_moves_is_no_path_and_leaves_no_line():
    rounding = 4 * torch.finfo(torch.float64).eps * W.norm() * 1e8  # of weights as large as these
    given = quadratic(A, w=1e8 * W)
    many = torch.nn.functional.normalize(normal(400, 6, seed=3))
    with pytest.raises(ValueError, match="all checkpoints of the trajectory have the same weights"):
        trajectory_plane(given, list(1e8 * W + 0.5 * rounding * many))
    line = 1e4 * rounding * torch.linspace(-1, 1, 400)[:, None].double() * AXES[0]
    with pytest.raises(ValueError, match="lie on one line and span no plane"):
        trajectory_plane(given, list(1e8 * W + line + 0.5 * rounding * many))


def test_a_path_far_from_the_final_weights_has_its_shares_and_directions_to_all_digits():
    near, far = (trajectory_plane(objective(), along(crown() + np.array([0, 0, z]))) for z in (0.0, 1e7))
    np.testing.assert_allclose(far.explained, near.explained, rtol=1e-7)
    for one, other in zip(far.directions, near.directions, strict=True):
        assert abs(one @ other).item() == pytest.approx(1, abs=1e-14)


def test_a_path_that_does_not_move_is_refused():
    with pytest.raises(ValueError, match="all checkpoints of the trajectory have the same weights"):
        trajectory_plane(objective(), [W] * 4)


@pytest.mark.parametrize(("names", "called"), [((), "checkpoint 1 of the trajectory"), ("abc", "b")])
def test_weights_of_another_model_and_those_that_are_not_finite_are_refused_by_name(names, called):
    weights = along(crown())[:3]
    weights[1] = torch.zeros(5)
    with pytest.raises(ValueError, match=rf"^{called} must have shape \(6,\).*got \(5,\)"):
        trajectory_plane(objective(), weights, names=names)
    weights[1] = torch.full((6,), torch.nan)
    with pytest.raises(ValueError, match=f"^{called} has weights that are not finite"):
        trajectory_plane(objective(), weights, names=names)


def test_names_are_one_for_each_checkpoint():
    with pytest.raises(ValueError, match="one entry for each of 12 checkpoints; got 2"):
        trajectory_plane(objective(), along(crown()), names=["a", "b"])
