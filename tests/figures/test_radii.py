from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from figures import draw


def lines(ax):
    """The curves, without the lines that mark a level."""
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


def test_a_curve_is_drawn_through_its_values_with_a_band_of_one_standard_error(make):
    results = make("curve", ["a", "b"])
    ax = draw(results).axes[0]
    bands = [part for part in ax.collections if isinstance(part, PolyCollection)]
    for curve, band, result in zip(lines(ax), bands, results.values(), strict=True):
        assert curve.get_xdata().tolist() == result.rhos.tolist()
        assert curve.get_ydata().tolist() == result.values.tolist()
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx((result.values + result.stderrs).max())
        assert heights.min() == pytest.approx((result.values - result.stderrs).min())
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in lines(ax)}) == 2  # told apart in grey


@pytest.mark.parametrize(("highest", "scale"), [(1.9, "linear"), (2.1, "log")])
def test_scales_are_logarithmic_where_they_span_more_than_a_factor_of_twenty(make, highest, scale):
    (curve,) = make("curve", ["a"]).values()
    rhos, values = np.linspace(0.1, highest, 7), np.linspace(0.1, highest, 7)
    ax = draw({"a": dataclasses.replace(curve, rhos=rhos, values=values)}).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == (scale, scale)


def test_values_below_zero_have_a_linear_scale_and_zeros_are_left_out_of_a_logarithmic_one(make):
    (curve,) = make("curve", ["a"]).values()
    below = dataclasses.replace(curve, values=np.where(np.arange(7) == 0, -1e-3, curve.values))
    assert draw({"a": below}).axes[0].get_yscale() == "linear"
    nothing = dataclasses.replace(curve, values=np.where(np.arange(7) == 0, 0.0, curve.values))
    ax = draw({"a": nothing}).axes[0]
    assert ax.get_yscale() == "log"
    assert len(lines(ax)[0].get_xdata()) == 6


def test_radii_at_which_nothing_finite_was_found_are_crossed_on_the_upper_edge(make):
    (curve,) = make("curve", ["a"]).values()
    lost = dataclasses.replace(
        curve,
        values=np.where(np.arange(7) > 4, np.inf, curve.values),
        stderrs=np.where(np.arange(7) > 4, np.nan, curve.stderrs),
    )
    ax = draw({"a": lost}).axes[0]
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert crosses.get_xdata().tolist() == curve.rhos[5:].tolist()
    assert len(lines(ax)[0].get_xdata()) == 5


@pytest.mark.parametrize(("low", "high"), [(-300.0, 300.0), (0.0, 306.0), (-307.0, 1.0)])
def test_scales_over_hundreds_of_decades_show_every_value_and_have_a_few_whole_decades_for_ticks(make, low, high):
    wide = np.logspace(low, high, 7)
    (curve,) = make("curve", ["a"]).values()
    figure = draw({"a": dataclasses.replace(curve, rhos=wide, values=wide[::-1], stderrs=wide[::-1] / 10)})
    figure.draw_without_rendering()  # where warnings of overflow are errors
    (ax,) = figure.axes
    for axis, (left, right) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        assert left <= wide.min() < wide.max() <= right
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert 4 <= len(labels) <= 9
        assert all(label.startswith("$10^{") for label in labels)
        assert not axis.get_minorticklocs().size


def test_curves_of_several_kinds_are_named_in_the_legend(make):
    (curve,) = make("curve", ["a"]).values()
    other = dataclasses.replace(curve, kind="average-case sharpness", radius="ρ: deviation", microbatch_size=None)
    figure = draw({"a": curve, "b": other})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a, worst-case sharpness (ρ: bound on ‖ε‖₂)",
        "b, average-case sharpness (ρ: deviation)",
    ]
    assert figure.axes[0].get_ylabel() == "sharpness\n(rise in loss)"


def test_sharpness_over_sizes_has_a_tick_and_a_point_for_every_size(make):
    results = make("sizes", ["a", "b"])
    ax = draw(results).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "8", "128"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    bands = [part for part in ax.collections if isinstance(part, PolyCollection)]
    for curve, band, result in zip(lines(ax), bands, results.values(), strict=True):
        assert curve.get_xdata().tolist() == [1, 8, 128]
        assert curve.get_ydata().tolist() == result.values.tolist()
        assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx((result.values + result.stderrs)[0])


def test_sigma_is_marked_on_its_target_with_its_interval(make):
    (result,) = make("sigma", ["b"]).values()
    result = dataclasses.replace(result, high=1.5 * result.sigma)
    ax = draw({"b": result}).axes[0]
    (level,) = [line for line in ax.lines if line.get_marker() in ("None", None, "") and len(line.get_xdata()) == 2]
    assert set(level.get_ydata()) == {0.1}
    (diamond,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == (result.sigma, 0.1)
    (bar,) = [part for part in ax.collections if not isinstance(part, PolyCollection)]
    assert bar.get_segments()[0][:, 0] == pytest.approx([result.low, result.high])


def test_a_sigma_that_does_not_exist_is_not_marked(make):
    (result,) = make("sigma", ["a"]).values()
    none = dataclasses.replace(result, sigma=np.inf, low=np.inf, high=np.inf)
    assert not [line for line in draw({"a": none}).axes[0].lines if line.get_marker() == "D"]


def test_layers_are_drawn_one_to_a_row_and_those_of_other_models_are_added(make):
    one, two = make("relative flatness", ["a", "b"]).values()
    other = dataclasses.replace(two, layers=np.array(["stem.weight", "new.weight", "x.weight", "head.weight"]))
    ax = draw({"a": one, "b": other}).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [*one.layers.tolist(), "new.weight", "x.weight"]
    points = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    assert points[0].get_xdata().tolist() == one.values.tolist()
    assert np.round(points[1].get_ydata()).tolist() == [0, 4, 5, 3]
