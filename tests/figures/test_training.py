"""The picture of the largest eigenvalue along training."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest

from figures.training import draw_training


def dotted(ax):
    """The thresholds that are drawn."""
    return [line for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata())]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_each_eigenvalue_stands_at_its_epoch_with_its_residual_as_its_bar(make):
    (result,) = make("course", ["a"]).values()
    ax = draw_training({"a": result}).axes[0]
    first = ax.lines[0]
    np.testing.assert_array_equal(first.get_xdata(), result.epochs)
    np.testing.assert_array_equal(first.get_ydata(), result.largest_eigenvalues)
    (drawn,) = ax.containers
    (bars,) = drawn[2]
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * result.residuals)


def test_what_did_not_converge_is_hollow_and_no_other(make):
    (result,) = make("course", ["a"]).values()
    for converged in (result.converged, np.full(12, True), np.full(12, False)):
        ax = draw_training({"a": dataclasses.replace(result, converged=converged)}).axes[0]
        white = [line for line in ax.lines if mpl.colors.to_hex(line.get_markerfacecolor()) == "#ffffff"]
        assert np.concatenate([line.get_xdata() for line in white]).tolist() == result.epochs[~converged].tolist()
        assert ax.get_xlabel() == "epochs trained" + ("" if converged.all() else " (hollow: not converged)")


def test_the_threshold_is_dotted_where_it_is_and_says_what_it_is(make):
    (result,) = make("course", ["a"]).values()
    figure = draw_training({"a": result})
    (line,) = dotted(figure.axes[0])
    np.testing.assert_array_equal(line.get_ydata(), result.thresholds)
    assert figure.axes[0].get_ylim()[1] > result.thresholds.max()
    assert legend_of(figure) == ["largest eigenvalue", result.threshold]


def test_without_a_threshold_there_is_no_line_and_no_legend(make):
    (result,) = make("course", ["a"]).values()
    none = dataclasses.replace(
        result, thresholds=np.full(12, np.nan), threshold="no stability threshold is drawn: adamw"
    )
    figure = draw_training({"a": none})
    assert dotted(figure.axes[0]) == []
    assert figure.legends == []


def test_thresholds_far_above_do_not_squeeze_the_eigenvalues_and_are_named(make):
    (result,) = make("course", ["a"]).values()
    far = dataclasses.replace(result, thresholds=np.linspace(90, 1e5, 12))
    figure = draw_training({"a": far})
    assert dotted(figure.axes[0]) == []
    assert figure.axes[0].get_ylim()[1] < 1.2 * (far.largest_eigenvalues + far.residuals).max()
    assert "(above this picture, from 90 on)" in " ".join(legend_of(figure)[1].split())
    rising = dataclasses.replace(result, thresholds=np.where(result.epochs > 30, np.inf, 7.0))
    figure = draw_training({"a": rising})
    (line,) = dotted(figure.axes[0])
    assert line.get_xdata().max() == 30  # where it is infinite it is not drawn


def test_runs_with_the_same_threshold_share_a_line(make):
    results = make("course", ["a", "b"])
    figure = draw_training(results)
    assert len(dotted(figure.axes[0])) == 2
    same = {label: dataclasses.replace(result, thresholds=np.full(12, 6.5)) for label, result in results.items()}
    figure = draw_training(same)
    assert len(dotted(figure.axes[0])) == 1
    assert legend_of(figure)[:2] == ["a", "b"]
    assert len(legend_of(figure)) == 3


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_eigenvalues_that_are_negative_or_zero_are_within_the_picture(sign, make):
    (result,) = make("course", ["a"]).values()
    values = sign * result.largest_eigenvalues
    low = dataclasses.replace(result, largest_eigenvalues=values, residuals=np.zeros(12))
    bottom, top = draw_training({"a": low}).axes[0].get_ylim()
    assert bottom <= values.min()
    assert top > values.max()
