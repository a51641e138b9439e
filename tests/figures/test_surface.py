from __future__ import annotations

import dataclasses
import itertools

import matplotlib as mpl
import numpy as np
import pytest
from made_up_slices import LONG, plane, plane_with_path
from mpl_toolkits.mplot3d.art3d import Line3D, Poly3DCollection

from figures import draw_surface
from figures.surface import Vertical


def facets(ax):
    (surface,) = [drawn for drawn in ax.collections if isinstance(drawn, Poly3DCollection)]
    return surface


def corners(ax):
    """The corners of all facets, (n, 3)."""
    return np.concatenate(list(facets(ax)._faces))


def spaces(figure):
    return [ax for ax in figure.axes if ax.name == "3d"]


def flat(losses, **more):
    """A plane whose losses go down to zero, so that their scale is even."""
    return plane(losses=np.asarray(losses, dtype=float), **more)


BOWL = plane().losses - 0.1


def test_a_surface_goes_through_every_point_of_the_grid_in_any_order():
    given = flat(BOWL)
    mixed = flat(BOWL[::-1, ::-1], x=given.x[::-1], y=given.y[::-1])
    for one in (given, mixed):
        found = {tuple(np.round(corner, 9)) for corner in corners(spaces(draw_surface({"a": one}))[0])}
        assert found == {(x, y, round(x**2 + 2 * y**2, 9)) for x in given.x for y in given.y}


def test_of_several_surfaces_the_rises_are_drawn_on_one_scale():
    figure = draw_surface({"a": plane(), "b": plane(1)})
    first, second = spaces(figure)
    assert corners(first)[:, 2].max() == pytest.approx(44)
    assert corners(second)[:, 2].max() == pytest.approx(88)
    assert first.get_zlim() == second.get_zlim()
    assert "rise in loss, L(w + d) − L(w)" in [ax.get_xlabel() for ax in figure.axes]
    assert [text.get_text() for text in figure.texts[:2]] == ["a\nL(w) = 0.100", "b\nL(w) = 0.100"]


def test_facets_are_coloured_by_their_height_dark_where_it_is_high():
    surface = facets(spaces(draw_surface({"a": flat(BOWL)}))[0])
    mean = np.array([facet[:, 2].mean() for facet in surface._faces])
    lightness = surface._facecolor3d[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[np.argsort(mean, kind="stable")]) <= 1e-9).all()


def test_where_the_loss_is_not_finite_there_is_a_hole():
    losses = BOWL.copy()
    losses[0, 0], losses[2, 4] = np.nan, np.inf
    found = facets(spaces(draw_surface({"a": flat(losses)}))[0])
    assert len(found._faces) == 4 * 8 - 1 - 4
    assert np.isfinite(np.concatenate(list(found._faces))).all()


def test_positive_losses_that_span_much_are_drawn_by_their_logarithm():
    figure = draw_surface({"a": plane()})
    found = corners(spaces(figure)[0])
    assert found[:, 2].min() == pytest.approx(-1)  # of 0.1
    scale = Vertical.of({"a": plane()})
    assert scale.labels == ["0.1", "0.3", "1", "3", "10", "30"][: len(scale.labels)] or scale.labels == [
        "0.1",
        "1",
        "10",
    ]
    np.testing.assert_allclose(scale.ticks, np.log10([float(label) for label in scale.labels]))
    assert "loss (log scale)" in [ax.get_xlabel() for ax in figure.axes]
    wide = Vertical(low=1e-50, high=1e200, highest=1e200, logarithmic=True, name="loss")
    assert 3 <= len(wide.labels) == len(wide.ticks) <= 5


def test_what_is_far_above_the_rest_is_cut_off_and_said_to_be():
    losses = np.array([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1e6], [0.0, 1.0, 1.0, 1e6]])
    given = flat(losses, x=np.arange(4.0), y=np.arange(3.0))
    figure = draw_surface({"a": given})
    assert corners(spaces(figure)[0])[:, 2].max() == 10  # ten times the median
    assert any("cut off above 10; the highest is 1e+06" in text.get_text() for text in figure.texts)
    assert "cut off" not in " ".join(text.get_text() for text in draw_surface({"a": flat(BOWL)}).texts)


def test_the_path_and_the_model_are_on_the_floor_below_the_surface():
    (ax,) = spaces(draw_surface({"a": plane_with_path(losses=BOWL)}))
    path, model = [line for line in ax.lines if isinstance(line, Line3D)]
    x, y, z = path.get_data_3d()
    np.testing.assert_array_equal(np.stack([x, y], axis=1), plane_with_path().path)
    assert np.max(z) == ax.get_zlim()[0] < 0
    assert [float(values[0]) for values in model.get_data_3d()[:2]] == [0, 0]


@pytest.mark.parametrize("losses", [np.ones((5, 9)), np.full((5, 9), np.nan), np.zeros((5, 9))])
def test_a_flat_surface_and_one_without_a_finite_loss_are_drawn(losses):
    draw_surface({"a": flat(losses)}).draw_without_rendering()
    draw_surface({"a": flat(losses), "b": plane()}).draw_without_rendering()


def test_a_fine_grid_has_a_limited_number_of_facets():
    x = np.linspace(-1, 1, 401)
    given = flat(x[None, :] ** 2 + x[:, None] ** 2, x=x, y=x)
    assert len(facets(spaces(draw_surface({"a": given}))[0])._faces) <= 80**2


@pytest.mark.parametrize("count", [0, 4])
def test_none_and_more_than_three_surfaces_are_refused(count):
    with pytest.raises(ValueError, match=f"one to 3 planes beside one another; got {count}"):
        draw_surface({str(i): plane(i) for i in range(count)})


def test_a_plane_of_a_single_row_is_refused_by_name():
    thin = flat(np.ones((1, 9)), y=[0.0])
    with pytest.raises(ValueError, match="plane of thin has 9 x 1 points; a surface needs two"):
        draw_surface({"thin": thin})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_text_is_cut_off_and_titles_are_apart(count, texts):
    results = {f"{LONG}, {i}": plane_with_path(i) for i in range(count)}
    figure = draw_surface(results)
    width, height = figure.bbox.size
    boxes = texts(figure)
    for text, (left, bottom, right, top) in boxes:
        assert min(left, bottom) >= 0, text
        assert right <= width, text
        assert top <= height, text
    titles = [box for text, box in boxes if text.startswith("mASAM")]
    assert len(titles) == count
    for one, other in itertools.pairwise(titles):
        assert one[2] <= other[0]


def test_settings_of_matplotlib_are_put_back():
    before = dict(mpl.rcParams)
    draw_surface({"a": dataclasses.replace(plane(), manifest={})})
    assert dict(mpl.rcParams) == before
