"""What the panels of a table show where its numbers are nearly equal, tiny, or not finite."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analyses.results import MEASURES
from figures.comparison import draw_flatness_vs_m, draw_measures
from figures.sharpness import draw_sharpness
from landscape.answers import Sharpness

GROUPS = ["SGD", "SAM", "mSAM, 2 micro-batches"]
PICTURES = [draw_measures, draw_flatness_vs_m]


@pytest.fixture
def filled(table):
    """values -> a table in which every measure of the runs has these."""

    def of(values):
        made = table(GROUPS, [0, 1, 2], seeds=1)
        column = np.repeat(np.array(values)[:, None], len(MEASURES), axis=1)
        return dataclasses.replace(made, values=column, errors=np.zeros_like(column))

    return of


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize("values", [[2.4182] * 3, [2.4182, 2.418201, 2.418202], [1e-8, 2e-8, 3e-8], [0.0] * 3])
def test_the_number_at_a_tick_stands_for_itself_and_ticks_differ(draw, values, filled):
    figure = draw(filled(values))
    figure.draw_without_rendering()
    for ax in figure.axes:
        axis = ax.xaxis if draw is draw_measures else ax.yaxis
        assert axis.get_offset_text().get_text() == ""
        labels = [text.get_text() for text in axis.get_ticklabels()]
        assert len(labels) == len(set(labels)) > 1
        assert max(map(len, labels)) <= 8


@pytest.mark.parametrize("draw", PICTURES)
def test_measures_that_are_nowhere_finite_say_so(draw, filled, texts):
    shown = [text for text, _ in texts(draw(filled([np.nan, np.nan, np.inf])))]
    assert shown.count("not finite") >= 4
    assert "not finite" not in [text for text, _ in texts(draw(filled([1.0, 2.0, 3.0])))]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sharpness_that_is_nowhere_finite_says_so(value, make, texts):
    lost = Sharpness(
        value=value, stderr=np.nan, per_shard=np.full(9, value), shard_sizes=np.full(9, 32), microbatch_size=32
    )
    (good,) = make("sharpness", ["a"]).values()
    shown = [text for text, _ in texts(draw_sharpness({"a": lost, "b": good}))]
    assert shown.count("not finite") == 1
    assert "not finite" not in [text for text, _ in texts(draw_sharpness({"b": good}))]


def runs_of(ax) -> list:
    """The markers of the single runs, (x, y)."""
    return [container[0].get_xydata() for container in ax.containers]


def test_seeds_stand_apart_around_the_place_of_their_group_and_never_reach_the_next(table):
    for seeds in (2, 3, 10):
        (dots,) = runs_of(draw_flatness_vs_m(table(GROUPS, [0, 1, 2], seeds=seeds)).axes[0])
        shifts = dots[:, 0] - np.repeat([0, 1, 2], seeds)
        np.testing.assert_allclose(shifts.reshape(3, seeds).mean(axis=1), 0, atol=1e-12)
        assert len(set(shifts[:seeds].round(9))) == seeds
        assert np.abs(shifts).max() <= 0.25


@pytest.mark.parametrize("draw", PICTURES)
def test_single_runs_of_different_seeds_stand_at_the_place_of_their_group(draw, table):
    made = dataclasses.replace(table(GROUPS, [0, 1, 2], seeds=1), seeds=np.array([0, 1, 7]))
    (dots,) = runs_of(draw(made).axes[0])
    assert dots[:, 0 if draw is draw_flatness_vs_m else 1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("draw", PICTURES)
def test_a_dot_has_the_value_and_the_error_of_its_run_as_displayed(draw, table):
    made = table(GROUPS, [0, 1, 2])
    (errorbar,) = draw(made).axes[3].containers  # test accuracy, in percent
    along = 1 if draw is draw_flatness_vs_m else 0
    np.testing.assert_allclose(errorbar[0].get_xydata()[:, along], 100 * made.column("test_accuracy"))
    lengths = [np.ptp(segment[:, along]) for segment in errorbar[2][0].get_segments()]
    np.testing.assert_allclose(lengths, 200 * made.error("test_accuracy"))


@pytest.mark.parametrize("draw", PICTURES)
def test_the_test_loss_is_drawn_where_there_is_no_accuracy(draw, table):
    made = table(GROUPS, [0, 1, 2])
    values = made.values.copy()
    values[:, made.measures.tolist().index("test_accuracy")] = np.nan
    figure = draw(dataclasses.replace(made, values=values))
    (errorbar,) = figure.axes[3].containers
    drawn = errorbar[0].get_xydata()[:, 1 if draw is draw_flatness_vs_m else 0]
    np.testing.assert_allclose(drawn, made.column("test_loss"))
    assert "test loss" in {figure.axes[3].get_title(loc="left"), figure.axes[3].get_xlabel()}
