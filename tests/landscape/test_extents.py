from __future__ import annotations

import numpy as np
import pytest

from landscape import Axis, Plane, coordinates_around, grid_around

D = np.ones(3)


@pytest.mark.parametrize("marks", [[0.0, 1.0], [-3.0, 0.2], [2.0, 7.0], [-5.0], [1e-7, 0.0]])
@pytest.mark.parametrize("points", [2, 11, 50])
def test_a_line_takes_in_its_marks_and_the_model(marks, points):
    found = coordinates_around(Axis(D, np.array(marks)), points=points, margin=0.1)
    low, high = min(0, *marks, 0), max(0, *marks, 0)
    assert found[0] <= low - 0.0999 * (high - low)
    assert found[-1] >= high + 0.0999 * (high - low)
    assert 0.0 in found
    assert points <= len(found) <= points + 2
    np.testing.assert_allclose(np.diff(found), np.diff(found)[0], rtol=1e-9)


def test_a_grid_takes_in_marks_and_path_in_square_cells():
    plane = Plane((D, D), marks=np.array([[3.0, 1.0]]), path=np.array([[-1.0, 0.0], [0.5, 2.0]]))
    x, y = grid_around(plane, points=20, margin=0.25)
    assert x[0] <= -2
    assert x[-1] >= 4
    assert y[0] <= -1
    assert y[-1] >= 3
    assert 0.0 in x
    assert 0.0 in y
    assert np.diff(x)[0] == pytest.approx(np.diff(y)[0], rel=1e-12)
    assert 20 <= len(x) <= 22


def test_a_narrow_path_has_room_beside_it():
    x, y = grid_around(Plane((D, D), path=np.array([[10.0, 0.01], [0.0, 0.0]])), points=21, margin=0.0)
    assert np.ptp(x) == 10
    assert 4 <= np.ptp(y) <= 5


@pytest.mark.parametrize("thing", [Axis(D), Axis(D, np.array([0.0]), ["w"])])
def test_where_nothing_is_marked_on_a_line_there_is_nothing_to_take_in(thing):
    with pytest.raises(ValueError, match="nothing is marked on the axis"):
        coordinates_around(thing)


def test_where_nothing_is_marked_in_a_plane_there_is_nothing_to_take_in():
    with pytest.raises(ValueError, match="nothing is marked in the plane"):
        grid_around(Plane((D, D)))


def test_numbers_out_of_range_are_refused():
    axis = Axis(D, np.array([1.0]))
    with pytest.raises(ValueError, match="points must be at least 2; got 1"):
        coordinates_around(axis, points=1)
    with pytest.raises(ValueError, match=r"margin must be a share of at least 0; got -0\.1"):
        coordinates_around(axis, margin=-0.1)
    with pytest.raises(TypeError, match="margin must be a number"):
        grid_around(Plane((D, D), marks=np.array([[1.0, 0.0]])), margin="wide")
