"""What a picture of planes has besides the contours of the loss: paths, marks, held-out data and scores."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from made_up_slices import LONG, plane, plane_with_path, whole_line, whole_plane
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet

from figures import draw
from figures.planes import draw_planes
from figures.style import SCORES, SEQUENTIAL


def filled(figure):
    return [s for ax in figure.axes for s in ax.collections if isinstance(s, QuadContourSet) and s.filled]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_a_path_is_a_line_with_a_dot_for_each_checkpoint_a_start_and_an_end():
    figure = draw_planes({"a": plane_with_path()})
    path, start, end, cross = figure.axes[0].lines
    np.testing.assert_array_equal(path.get_xydata(), plane_with_path().path)
    assert (path.get_linestyle(), path.get_marker()) == ("-", "o")
    assert start.get_xydata().tolist() == [[5.0, -1.0]]
    assert end.get_xydata().tolist() == [[0.0, 0.0]]
    assert cross.get_marker() == "+"
    assert legend_of(figure) == ["path of training", "start", "end", "the model, w"]


def test_the_title_says_how_much_of_the_path_the_plane_shows():
    title = draw_planes({"a": plane_with_path()}).axes[0].get_title("left")
    assert title == "a\npath: 81.0 % + 12.4 % of variance\nat most 0.42 out of plane"
    narrow = draw_planes({name: plane_with_path() for name in "abc"}).axes[0].get_title("left")
    assert narrow == "a\npath: 93.4 % of variance\nat most 0.42 out of plane\nL(w) = 0.100"


def test_marks_are_told_apart_by_their_shape_and_named_in_the_legend():
    marks, names = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 1.5]]), np.array(["a", "b", "c"])
    figure = draw_planes({"one": plane(marks=marks, mark_names=names)})
    drawn = figure.axes[0].lines[:3]
    assert [tuple(mark.get_xydata()[0]) for mark in drawn] == [(0, 0), (4, 0), (1, 1.5)]
    assert len({mark.get_marker() for mark in drawn}) == 3
    assert legend_of(figure) == ["a", "b", "c", "the model, w"]


def test_a_mark_of_one_name_looks_the_same_in_every_panel():
    one = plane(marks=np.array([[1.0, 0.0], [4.0, 0.0]]), mark_names=np.array(["a", "b"]))
    other = plane(marks=np.array([[2.0, 0.0], [3.0, 0.0]]), mark_names=np.array(["b", "c"]))
    figure = draw_planes({"one": one, "other": other})
    (_, b, *_), (same, c, *_) = (ax.lines for ax in figure.axes[:2])
    assert b.get_marker() == same.get_marker() != c.get_marker()


def test_a_plane_without_marks_and_path_has_no_legend():
    assert draw_planes({"a": plane()}).legends == []


def test_held_out_losses_share_the_scale_of_the_losses_and_scores_have_their_own():
    figure = draw_planes({"a": whole_plane()})
    assert [ax.get_title("left").split("\n")[-1] for ax in figure.axes[:4]] == [
        "loss on train",
        "loss on test",
        "accuracy on train",
        "accuracy on test",
    ]
    own, other, score, held = filled(figure)
    np.testing.assert_array_equal(own.levels, other.levels)
    np.testing.assert_array_equal(score.levels, held.levels)
    assert own.levels[-1] == pytest.approx(plane().losses.max() + 1)
    assert score.levels[-1] == pytest.approx(1 / 1.1)
    assert (own.cmap.name, score.cmap.name) == (SEQUENTIAL, SCORES)  # the better, the lighter
    assert [ax.get_ylabel().split(" (")[0] for ax in figure.axes[4:]] == ["loss", "accuracy"]


def test_of_three_planes_each_row_is_a_quantity_and_held_out_losses_rise_from_their_own():
    figure = draw_planes({name: whole_plane(i) for i, name in enumerate("abc")})
    titles = [ax.get_title("left").split("\n") for ax in figure.axes[:12]]
    assert titles[3] == ["loss on test", "L(w) = 1.10"]
    assert titles[6] == ["accuracy on train"]
    np.testing.assert_allclose(filled(figure)[3].levels[[0, -1]], [0, 3 * (36 + 8)], atol=1e-12)


def test_more_than_three_planes_have_their_losses_alone():
    figure = draw_planes({name: whole_plane() for name in "abcd"})
    assert len(filled(figure)) == 4


def test_what_not_all_planes_have_is_drawn_of_none():
    figure = draw_planes({"a": whole_plane(), "b": plane()})
    assert len(filled(figure)) == 2


def test_planes_of_several_extents_have_axes_of_their_own():
    figure = draw_planes({"a": plane(), "b": plane(x=np.linspace(-1, 1, 5))})
    assert [ax.get_xlim() for ax in figure.axes[:2]] == [(-2, 6), (-1, 1)]
    figure = draw_planes({"a": plane(), "b": plane(1)})
    assert figure.axes[0].get_shared_x_axes().joined(*figure.axes[:2])


def test_losses_that_span_much_have_a_logarithmic_scale():
    assert isinstance(filled(draw_planes({"a": plane()}))[0].norm, LogNorm)


def test_interpolation_is_said_below_the_axis():
    evaluated = np.zeros((5, 9), dtype=bool)
    evaluated[::2, ::2] = True
    partly = plane(evaluated=evaluated, interpolation_error=0.44)
    label = draw_planes({"a": partly}).get_supxlabel()
    assert label.endswith("15 of 45 points evaluated, the others interpolated: largest error seen 1 % of the range")


def lost(i=0):
    given = plane_with_path(i)
    return dataclasses.replace(given, losses=np.where(given.losses > 20, np.nan, given.losses))


CASES = {
    "one": {"SGD": plane_with_path()},
    "one with all, long": {LONG: whole_plane()},
    "two, long": {LONG: plane_with_path(), f"{LONG}, 2": lost(1)},
    "three": {f"mSAM, {2**i} micro-batches": lost(i) for i in range(3)},
    "marked": {"SGD": plane(marks=np.array([[0, 0], [4, 1.0]]), mark_names=np.array(["a", LONG]))},
    "lines": {f"mSAM, {2**i} micro-batches": whole_line(i) for i in range(3)},
    "six lines, long": {f"{LONG}, {i}": whole_line(i) for i in range(6)},
}


@pytest.mark.parametrize("results", CASES.values(), ids=CASES.keys())
def test_no_two_texts_overlap_and_none_is_cut_off(results, texts):
    figure = draw(results)
    boxes = texts(figure)
    width, height = figure.bbox.size
    assert len(boxes) > 5
    for text, (left, bottom, right, top) in boxes:
        assert min(left, bottom) >= 0, text
        assert right <= width, text
        assert top <= height, text
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{first!r} and {second!r} overlap"
