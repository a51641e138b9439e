from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet

from figures import draw
from figures.lines import draw_lines
from figures.planes import draw_planes
from landscape.answers import LineSlice, PlaneSlice


def plane(losses, x=None, y=None) -> PlaneSlice:
    losses = np.asarray(losses, dtype=float)
    x = np.linspace(-1, 1, losses.shape[1]) if x is None else np.asarray(x, dtype=float)
    y = np.linspace(-1, 1, losses.shape[0]) if y is None else np.asarray(y, dtype=float)
    return PlaneSlice(x=x, y=y, losses=losses, lengths=np.ones(2), cosine=0.0)


def line(losses, at=None) -> LineSlice:
    at = np.linspace(-1, 1, len(losses)) if at is None else np.asarray(at, dtype=float)
    return LineSlice(coordinates=at, losses=np.asarray(losses, dtype=float), length=1.0)


def filled(figure) -> list[QuadContourSet]:
    return [s for ax in figure.axes for s in ax.collections if isinstance(s, QuadContourSet) and s.filled]


def colours_at(figure, ax, points) -> np.ndarray:
    """The colours, (n, 3) from 0 to 255, of the pixels at points of an axes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())
    across, up = np.round(ax.transData.transform(points)).astype(int).T
    return image[image.shape[0] - 1 - up, across, :3].astype(int)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]])
def test_x_is_drawn_across_and_y_upwards_on_a_grid_that_is_not_square_in_any_order(order):
    x, y = np.linspace(-1, 1, 7), np.linspace(-0.5, 0.5, 4)
    x, y = x[order], y[[place for place in order if place < 4]]
    losses = 10 + 5 * x[None, :] + 6 * y[:, None]  # (4, 7): a slanted plane
    figure = draw_planes({"a": plane(losses, x, y)})
    ax = figure.axes[0]
    assert ax.get_xlim() == (-1, 1)
    assert ax.get_ylim() == (-0.5, 0.5)
    (contours,) = filled(figure)
    cmap, norm = contours.cmap, contours.norm
    points = np.array([(-0.83, 0.3), (-0.83, -0.3), (0.83, 0.3), (0.83, -0.3), (0.4, 0.2)])
    expected = cmap(norm(10 + 5 * points[:, 0] + 6 * points[:, 1]))[:, :3] * 255
    np.testing.assert_allclose(colours_at(figure, ax, points), expected, atol=30)
    assert "first" in figure.get_supxlabel()
    assert "second" in figure.get_supylabel()


def test_the_corner_that_is_highest_is_the_darkest():
    losses = np.zeros((3, 5))
    losses[2, 0] = 1.0  # largest y, smallest x: the upper left
    figure = draw_planes({"a": plane(losses)})
    corners = [(-0.97, 0.96), (-0.97, -0.9), (0.9, 0.96), (0.9, -0.9)]
    assert colours_at(figure, figure.axes[0], corners).sum(axis=1).argmin() == 0


def test_all_planes_share_one_colour_scale_and_one_bar():
    figure = draw_planes({"a": plane([[1, 2], [3, 4]]), "b": plane([[5, 6], [7, 8]])})
    first, second = filled(figure)
    np.testing.assert_array_equal(first.levels, second.levels)
    assert (first.norm.vmin, first.norm.vmax) == (second.norm.vmin, second.norm.vmax) == (1, 8)
    (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "loss"


@pytest.mark.parametrize(("highest", "kind"), [(19.9, mpl.colors.Normalize), (20.1, mpl.colors.LogNorm)])
def test_the_scale_is_logarithmic_where_losses_span_more_than_a_factor_of_twenty(highest, kind):
    figure = draw_planes({"a": plane([[1, 2], [3, 4]]), "b": plane([[5, 6], [7, highest]])})
    assert {type(contours.norm) for contours in filled(figure)} == {kind}
    bar = figure.axes[-1].get_ylabel()
    assert bar == ("loss (log scale)" if kind is mpl.colors.LogNorm else "loss")


@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_losses_that_are_not_positive_have_a_linear_scale(lowest):
    figure = draw_planes({"a": plane([[lowest, 2], [3, 400]])})
    assert type(filled(figure)[0].norm) is mpl.colors.Normalize


def test_where_the_loss_is_not_finite_the_plane_is_hatched():
    losses = np.ones((5, 5)) + np.arange(5)
    losses[:, 3:] = (np.nan, np.inf)
    figure = draw_planes({"a": plane(losses)})
    ax = figure.axes[0]
    assert ax.patch.get_hatch()
    assert np.isfinite(filled(figure)[0].levels).all()
    assert filled(figure)[0].levels.max() == 3
    patch = [(x, y) for x in np.linspace(0.6, 0.9, 25) for y in np.linspace(-0.5, 0.5, 9)]
    colours = colours_at(figure, ax, patch)
    assert np.ptp(colours, axis=1).max() < 20  # grey hatches on white, no colour of the scale
    assert colours.sum(axis=1).min() < 700


def test_finite_points_that_no_contour_reaches_are_dots_in_their_colour():
    losses = np.full((4, 6), np.nan)
    losses[:2, :2] = [[1, 2], [3, np.inf]]  # a corner that contours fill by half
    losses[3, 5], losses[2, 3] = 5, 7
    (ax, *_) = draw_planes({"a": plane(losses)}).axes
    (dots,) = [found for found in ax.collections if not isinstance(found, QuadContourSet)]
    np.testing.assert_allclose(dots.get_offsets(), [[0.2, 1 / 3], [1, 1]])
    assert dots.get_array().tolist() == [7, 5]
    assert dots.norm is filled(ax.figure)[0].norm
    whole = draw_planes({"a": plane(np.arange(12).reshape(3, 4))}).axes[0]
    assert all(isinstance(found, QuadContourSet) for found in whole.collections)


@pytest.mark.parametrize("losses", [np.ones((3, 4)), np.full((3, 4), np.nan), np.zeros((2, 2))])
def test_a_flat_plane_and_one_without_a_finite_loss_are_drawn(losses):
    draw({"a": plane(losses), "b": plane(np.arange(12).reshape(3, 4) + 1)})
    draw({"a": plane(losses)})


def test_a_plane_of_a_single_column_is_refused_by_name():
    with pytest.raises(ValueError, match="plane of thin has 1 x 3 points"):
        draw({"thin": plane(np.ones((3, 1)))})


def test_a_cross_marks_the_model():
    ax = draw_planes({"a": plane([[1, 2], [3, 4]])}).axes[0]
    (cross,) = ax.lines
    assert (cross.get_xdata()[0], cross.get_ydata()[0], cross.get_marker()) == (0, 0, "+")


def test_a_line_is_drawn_in_the_order_of_its_coordinates():
    ax = draw_lines({"a": line([3.0, 1.0, 2.0], at=[1.0, -1.0, 0.0])}).axes[0]
    assert ax.lines[0].get_xdata().tolist() == [-1.0, 0.0, 1.0]
    assert ax.lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]


def test_a_cross_marks_each_point_of_a_line_where_the_loss_is_not_finite():
    ax = draw_lines({"a": line([np.nan, 1.0, 2.0, np.inf, 3.0])}).axes[0]
    curve, crosses = ax.lines
    np.testing.assert_array_equal(curve.get_ydata(), [np.nan, 1.0, 2.0, np.nan, 3.0])
    assert crosses.get_marker() == "x"
    assert crosses.get_xdata().tolist() == [-1.0, 0.5]
    assert crosses.get_color() == curve.get_color()


def test_a_line_that_is_finite_has_no_crosses():
    assert len(draw_lines({"a": line([1.0, 2.0])}).axes[0].lines) == 1


@pytest.mark.parametrize("factor", [1.0, 1.0001])
def test_the_labels_of_the_colour_bar_are_told_apart(factor):
    losses = np.linspace(2.4, 2.4 + 1e-5 * factor, 12).reshape(3, 4)
    bar = draw_planes({"a": plane(losses)}).axes[-1]
    labels = [text.get_text() for text in bar.get_yticklabels()]
    assert len(labels) == len(set(labels)) == 5


def test_a_point_that_no_line_leads_to_is_marked():
    ax = draw_lines({"a": line([np.nan, 1.0, np.nan, 2.0, 3.0])}).axes[0]
    assert ax.lines[0].get_marker() == "o"
    assert ax.lines[0].get_markevery() == [1]
    whole = draw_lines({"a": line([1.0, 2.0, np.nan])}).axes[0].lines[0]
    assert whole.get_marker() in ("None", None)


def test_a_line_of_a_single_point_is_marked():
    assert draw_lines({"a": line([1.0], at=[0.0])}).axes[0].lines[0].get_marker() == "o"


def bowl(depth: float, steepness: float) -> PlaneSlice:
    """depth + steepness · (x² + y²)"""
    x, y = np.linspace(-1, 1, 9), np.linspace(-1, 1, 7)
    return plane(depth + steepness * (x[None, :] ** 2 + y[:, None] ** 2), x, y)


def test_of_several_lines_the_rises_above_each_models_loss_are_drawn_and_the_legend_has_it():
    figure = draw_lines({"a": line([3.0, 1.0, 2.0]), "b": line([40.0, 30.0, 20.0], at=[1.0, 0.0, -1.0])})
    first, second = figure.axes[0].lines
    assert first.get_ydata().tolist() == [2.0, 0.0, 1.0]
    assert second.get_ydata().tolist() == [-10.0, 0.0, 10.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a, L(w) = 1.00", "b, L(w) = 30.0"]
    assert figure.axes[0].get_ylabel() == "rise in loss, L(w + t d) − L(w)"


def test_planes_of_one_shape_look_the_same_at_any_depth_and_each_title_has_its_loss():
    figure = draw_planes({"a": bowl(0.001, 2.0), "b": bowl(50.0, 2.0)})
    points = [(0.1, 0.1), (0.5, 0.3), (-0.9, 0.9)]
    first, second = (colours_at(figure, ax, points) for ax in figure.axes[:2])
    np.testing.assert_allclose(first, second, atol=2)
    assert [ax.get_title("left") for ax in figure.axes[:2]] == ["a\nL(w) = 0.00100", "b\nL(w) = 50.0"]
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "rise in loss, L(w + d) − L(w)\n(square-root scale)"
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0", "0.25", "1", "2.25", "4"]


def test_rises_below_zero_have_their_own_levels():
    figure = draw_planes({"a": bowl(2.0, -0.5), "b": bowl(1.0, 2.0)})
    levels = filled(figure)[0].levels
    assert (levels[0], levels[-1]) == (-1.0, 4.0)
    assert (np.diff(levels) > 0).all()
    roots = np.sign(levels) * np.sqrt(np.abs(levels))
    np.testing.assert_allclose(np.diff(roots), 3 / 16, rtol=1e-12)


@pytest.mark.parametrize("highest", [0.3, 0.7, 1.1, 1.3, 1.9])
def test_the_highest_rise_lies_on_the_scale_in_spite_of_rounding(highest):
    rise = plane([[0.0, 0.0, highest], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    levels = filled(draw_planes({"a": rise, "b": rise}))[0].levels
    assert levels[-1] == highest


def test_a_single_plane_or_line_keeps_its_loss():
    figure = draw_planes({"a": bowl(1.0, 1.0)})
    assert figure.axes[-1].get_ylabel() == "loss"
    assert figure.axes[0].get_title("left") == "a"
    ax = draw_lines({"a": line([3.0, 1.0, 2.0])}).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [3.0, 1.0, 2.0]
    assert ax.get_ylabel() == "loss L(w + t d)"


def test_where_a_grid_leaves_the_model_out_all_keep_their_losses():
    figure = draw_lines({"a": line([3.0, 1.0, 2.0]), "b": line([4.0, 5.0])})
    assert [curve.get_ydata().tolist() for curve in figure.axes[0].lines] == [[3.0, 1.0, 2.0], [4.0, 5.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.axes[0].get_ylabel() == "loss L(w + t d)"


def test_a_model_whose_own_loss_is_not_finite_has_no_rise_and_is_drawn_without_a_warning():
    figure = draw_lines({"a": line([1.0, np.inf, np.inf]), "b": line([4.0, 3.0, 4.0])})
    crosses = [drawn for drawn in figure.axes[0].lines if drawn.get_marker() == "x"]
    assert [cross.get_xdata().tolist() for cross in crosses] == [[-1.0, 0.0, 1.0]]
    lost = bowl(1.0, 1.0)
    draw_planes({"a": plane(lost.losses * np.inf, lost.x, lost.y), "b": lost})
