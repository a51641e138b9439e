from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from figures.paths import draw_paths

NAMES = ["straight line", "aligned", "Bezier curve"]


def test_each_path_is_drawn_with_its_losses_and_its_errors_in_percent(make):
    results = make("path", NAMES)
    loss, error = draw_paths(results).axes
    for ax, kind, shown in ((loss, "losses", lambda v: v), (error, "scores", lambda v: 100 * (1 - v))):
        for name, result in results.items():
            expected = [shown(getattr(result, f"{which}{kind}")) for which in ("", "held_out_")]
            drawn = [line.get_ydata() for line in ax.lines]
            for values in expected:
                assert any(len(y) == len(values) and np.allclose(y, values) for y in drawn), name
    assert loss.get_ylabel() == "loss"
    assert error.get_ylabel() == "error (%)"


def test_the_bars_are_the_barriers_above_the_line_between_the_ends(make):
    results = make("path", NAMES)
    loss, error = draw_paths(results).axes
    for ax, name, scale in ((loss, "barrier", 1), (error, "score_barrier", 100)):
        bars = [container.lines[2][0].get_segments()[0] for container in ax.containers]
        for (low, high), result in zip(bars, results.values(), strict=True):
            barrier = getattr(result, name)
            assert high[1] - low[1] == pytest.approx(scale * barrier.height, rel=1e-9)
            assert low[0] == high[0] == barrier.at


def test_the_legend_has_the_barriers_with_their_errors(make, texts):
    results = make("path", NAMES)
    drawn = [text for text, _ in texts(draw_paths(results))]
    barrier = results["aligned"].barrier
    assert f"aligned: barrier {barrier.height:.3g} at t = 0.5 (held out 0.105 ± 0.01)" in drawn


def test_one_path_has_its_barrier_above_it(make, texts):
    words = "straight line: barrier 0.35 at t = 0.5 (held out 0.42 ± 0.01)"
    for label, title in (("a to b", f"a to b, {words}"), ("straight line", words), ("", words)):
        assert title in [text for text, _ in texts(draw_paths(make("path", [label])))]


def test_a_path_without_score_held_out_data_or_barrier_is_drawn_all_the_same(make, texts):
    (result,) = make("path", ["a"]).values()
    absent = {
        entry.name: None
        for entry in dataclasses.fields(result)
        if entry.name.startswith(("held_out", "score")) and entry.name != "score"
    }
    flat = dataclasses.replace(result, losses=np.full(25, 0.3), score="", **absent)
    figure = draw_paths({"a": flat})
    (ax,) = figure.axes
    assert not ax.containers
    drawn = "\n".join(text for text, _ in texts(figure))
    assert "no barrier" in drawn
    assert "held" not in drawn


def test_points_that_are_not_finite_are_crosses_and_the_barrier_is_unknown(make, texts):
    (result,) = make("path", ["a"]).values()
    losses = result.losses.copy()
    losses[12] = np.nan
    figure = draw_paths({"a": dataclasses.replace(result, losses=losses)})
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[0.5]]
    assert not figure.axes[0].containers
    assert "barrier unknown, the loss is not finite at t = 0.5" in "\n".join(text for text, _ in texts(figure))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_text_leaves_the_page(count, make, texts):
    figure = draw_paths(make("path", NAMES[:count]))
    width, height = figure.get_size_inches() * 100
    for text, (left, bottom, right, top) in texts(figure):
        assert left >= -1, text
        assert bottom >= -1, text
        assert right <= width + 1, text
        assert top <= height + 1, text
