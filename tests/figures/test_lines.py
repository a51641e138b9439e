"""What a picture of lines has besides the curves: bands, held-out data, scores, marks, interpolated points."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up_slices import AT, LONG, line, whole_line
from matplotlib.collections import FillBetweenPolyCollection

from figures.heights import interpolated
from figures.lines import draw_lines


def curves(ax):
    """Those that are no crosses and no marks."""
    return [drawn for drawn in ax.lines if len(drawn.get_xdata()) == len(AT)]


def bands(ax):
    return [drawn for drawn in ax.collections if isinstance(drawn, FillBetweenPolyCollection)]


def texts_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_a_band_is_two_standard_errors_to_either_side_and_said_to_be():
    figure = draw_lines({"a": line(stderrs=np.full(9, 0.05))})
    (ax,) = figure.axes
    (band,) = bands(ax)
    corners = band.get_paths()[0].vertices
    at_zero = corners[np.isclose(corners[:, 0], 0)][:, 1]
    np.testing.assert_allclose([at_zero.min(), at_zero.max()], [0.0, 0.2], atol=1e-12)
    assert ax.get_xlabel().endswith("bands: ± 2 standard errors")


def test_of_rises_the_bands_are_said_to_be_those_of_the_loss():
    figure = draw_lines({"a": line(stderrs=np.full(9, 0.05)), "b": line(1)})
    assert "bands: ± 2 standard errors of the loss" in figure.axes[0].get_xlabel()
    assert len(bands(figure.axes[0])) == 1


def test_a_line_without_standard_errors_has_no_band_and_says_nothing_of_one():
    figure = draw_lines({"a": line()})
    assert bands(figure.axes[0]) == []
    assert figure.axes[0].get_xlabel() == "coordinate t along the direction d"


def test_held_out_losses_of_one_line_are_a_dashed_curve_and_both_are_named_by_their_split():
    figure = draw_lines({"a": line(held_out_losses=0.5 + AT**2)})
    own, other = curves(figure.axes[0])
    np.testing.assert_allclose(other.get_ydata(), 0.5 + AT**2)
    assert own.get_linestyle() == "-"
    assert other.get_linestyle() != "-"
    assert texts_of(figure) == ["train", "test"]


def test_without_splits_in_the_manifest_data_and_held_out_data_are_called_so():
    bare = dataclasses.replace(line(held_out_losses=0.5 + AT**2), manifest={})
    assert texts_of(draw_lines({"a": bare})) == ["data", "held-out data"]


def test_held_out_losses_of_several_lines_have_a_panel_and_rise_from_their_own_loss():
    figure = draw_lines({"a": whole_line(), "b": whole_line(1)})
    assert [ax.get_title("left") for ax in figure.axes[:2]] == ["on train", "on test"]
    for ax in figure.axes[:2]:
        for i, curve in enumerate(curves(ax)):
            np.testing.assert_allclose(curve.get_ydata(), (1 + i) * AT**2, atol=1e-12)
    assert texts_of(figure) == [f"{name}, L(w) = 0.100, L(w) = 0.500 on test" for name in "ab"]


def test_scores_are_in_a_panel_below_on_the_same_axis():
    figure = draw_lines({"a": whole_line()})
    upper, lower = figure.axes
    assert lower.get_ylabel() == "accuracy"
    own, other = curves(lower)
    np.testing.assert_allclose(own.get_ydata(), 1 / (1 + AT**2))
    np.testing.assert_allclose(other.get_ydata(), 0.5 / (1 + AT**2))
    assert own.get_color() == curves(upper)[0].get_color()
    assert other.get_color() == curves(upper)[1].get_color()
    assert upper.get_shared_x_axes().joined(upper, lower)
    assert upper.get_xlim() == lower.get_xlim()


def test_of_several_lines_scores_stand_below_the_losses_of_the_same_data():
    figure = draw_lines({"a": whole_line(), "b": whole_line(1)})
    _, _, own, other = figure.axes
    assert [len(curves(ax)) for ax in (own, other)] == [2, 2]
    np.testing.assert_allclose(curves(other)[0].get_ydata(), 0.5 / (1 + AT**2))
    assert own.get_ylim() == other.get_ylim()


def test_marks_are_lines_with_their_names_above_and_one_place_has_the_names_of_all():
    figure = draw_lines({"a": whole_line(), "b": whole_line(1)})
    for ax in figure.axes:
        assert [drawn.get_xdata()[0] for drawn in ax.lines if len(drawn.get_xdata()) == 2] == [0.0, 1.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["the model", "run 0, run 1"]


@pytest.mark.parametrize("places", [[0.0, 0.01, 0.02, 1.0], [-0.5, 0.0, 0.5, 1.5]])
def test_names_of_marks_that_are_close_or_long_do_not_touch(places, texts):
    names = ["the model", "a", LONG, "the last of them"]
    marked = line(marks=np.array(places), mark_names=np.array(names))
    boxes = texts(draw_lines({"a": marked}))
    for i, (first, a) in enumerate(boxes):
        assert a[0] >= 0, first
        assert a[3] <= 100 * draw_lines({"a": marked}).get_figheight(), first
        for second, b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (first, second)


def test_how_many_points_were_evaluated_and_the_largest_error_is_said():
    figure = draw_lines({"a": whole_line()})
    said = "5 of 9 points evaluated, the others interpolated: largest error seen 1 % of the range"
    assert figure.axes[-1].get_xlabel().endswith(said)
    several = {"a": whole_line(), "b": dataclasses.replace(whole_line(1), interpolation_error=0.09), "c": line()}
    assert interpolated(several) == f"as few as {said.replace('1 %', '2 %')}"


def test_an_error_that_is_not_known_is_said_to_be_so_and_where_all_was_evaluated_nothing_is():
    unknown = dataclasses.replace(whole_line(), interpolation_error=float("nan"))
    assert interpolated({"a": unknown}).endswith("interpolated: their error was not measured")
    assert interpolated({"a": line(evaluated=np.full(9, True))}) == ""


def test_points_of_held_out_data_that_are_not_finite_have_crosses_in_its_colour():
    lost = np.where(AT > 1, np.inf, 0.5 + AT**2)
    ax = draw_lines({"a": line(held_out_losses=lost)}).axes[0]
    (crosses,) = [drawn for drawn in ax.lines if drawn.get_marker() == "x"]
    assert crosses.get_xdata().tolist() == [1.25, 1.5]
    assert crosses.get_color() == curves(ax)[1].get_color()


def test_a_figure_grows_with_the_names_above_it_and_the_panels_stay():
    plain = draw_lines({"a": line()})
    marks = {"marks": np.array([0.0, 0.01, 0.02]), "mark_names": np.array([LONG, LONG + "2", LONG + "3"])}
    marked = draw_lines({"a": line(**marks)})
    assert marked.get_figheight() >= plain.get_figheight() + 3 * 0.15
    for figure in (plain, marked):
        figure.draw_without_rendering()
    high = [figure.axes[0].get_position().height * figure.get_figheight() for figure in (plain, marked)]
    assert high[1] == pytest.approx(high[0], rel=0.08)
