from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest

from figures.curvature import draw_density, draw_eigenvalues, draw_trace
from figures.sharpness import draw_sharpness


def hollow(ax) -> list[float]:
    """The eigenvalues that are drawn with a white face."""
    white = [line for line in ax.lines if mpl.colors.to_hex(line.get_markerfacecolor()) == "#ffffff"]
    return [float(value) for line in white for value in line.get_ydata()]


def test_eigenvalues_that_did_not_converge_are_hollow_and_no_others(make):
    (result,) = make("eigenvalues", ["a"]).values()
    for converged in ([True] * 5, [True, False, True, False, True], [False] * 5):
        changed = dataclasses.replace(result, converged=np.array(converged))
        ax = draw_eigenvalues({"a": changed}).axes[0]
        assert hollow(ax) == result.eigenvalues[~changed.converged].tolist()
        assert ax.get_xlabel() == ("rank" if all(converged) else "rank (hollow: not converged)")


def test_an_eigenvalue_stands_at_its_rank_with_its_residual_as_its_bar(make):
    (result,) = make("eigenvalues", ["a"]).values()
    ax = draw_eigenvalues({"a": result}).axes[0]
    (drawn,) = ax.containers
    points, _, (bars,) = drawn
    np.testing.assert_array_equal(points.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(points.get_ydata(), result.eigenvalues)
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * result.residuals)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_ranks_and_probes_are_counted_in_whole_numbers(make, number):
    (pairs,), (trace,) = (make(kind, ["a"]).values() for kind in ("eigenvalues", "trace"))
    few = {name: getattr(pairs, name)[:number] for name in ("eigenvalues", "residuals", "converged")}
    trace = dataclasses.replace(trace, samples=trace.samples[:number])
    for figure in (draw_eigenvalues({"a": dataclasses.replace(pairs, **few)}), draw_trace({"a": trace})):
        ax = figure.axes[0]
        low, high = ax.get_xlim()
        ticks = [tick for tick in ax.xaxis.get_majorticklocs() if low <= tick <= high]
        assert ticks == list(range(1, number + 1))


def test_the_curve_of_a_trace_is_the_running_mean_and_ends_at_the_estimate(make):
    (result,) = make("trace", ["a"]).values()
    ax = draw_trace({"a": result}).axes[0]
    curve = ax.lines[0].get_ydata()
    assert curve[2] == pytest.approx(result.samples[:3].mean())
    assert curve[-1] == pytest.approx(result.estimate)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(result.estimate - 2 * result.stderr)
    assert band.max() == pytest.approx(result.estimate + 2 * result.stderr)


def test_densities_share_both_axes_and_are_the_means_over_probes(make):
    results = make("density", ["a", "b"])
    axes = draw_density(results).axes
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    width = max(result.kernel_width for result in results.values())
    for ax, result in zip(axes, results.values(), strict=True):
        at, drawn = ax.lines[0].get_data()
        expected = result.density(at, width=width).mean(axis=0)
        np.testing.assert_allclose(drawn, expected.clip(drawn.min()), rtol=1e-12)
        assert ax.get_yscale() == "log"
        band = result.density_band(at, width=width)
        drawn_band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert drawn_band.max() == pytest.approx(band.high.max())
    assert f"width {width:.2g}; bands: 95 % over probes; dots: eigenvalues" in axes[-1].get_xlabel()


def test_eigenvalues_found_separately_stand_at_the_height_of_one_eigenvalue(make, texts):
    plain, result = make("density", ["a", "b"]).values()
    figure = draw_density({"b": result})
    (ax,) = figure.axes
    dots = ax.lines[1]
    np.testing.assert_array_equal(dots.get_xdata(), result.outliers)
    width = result.kernel_width
    np.testing.assert_allclose(dots.get_ydata(), 1 / (result.dim * width * np.sqrt(2 * np.pi)))
    curve = np.interp(result.outliers, *ax.lines[0].get_data())
    np.testing.assert_allclose(curve, dots.get_ydata(), rtol=1e-9)  # the curve has them too
    assert ax.get_xscale() == "symlog"
    low, high = ax.get_xlim()
    assert low < min(result.nodes.min(), result.outliers.min()) < result.outliers.max() < high
    assert "dots" not in draw_density({"a": plain}).axes[0].get_xlabel()
    mass, error = result.mass_at_zero()
    share = f"{100 * mass:.1f} ± {100 * error:.1f} % of the eigenvalues within {width:.2g} of zero"
    assert share in [text for text, _ in texts(figure)]


def test_a_small_error_of_the_mass_at_zero_is_no_zero(make, texts):
    (result,) = make("density", ["a"]).values()
    nodes, weights = np.array([[0.0, 1.0]] * 2), np.array([[0.9668, 0.0332], [0.9672, 0.0328]])
    figure = draw_density({"a": dataclasses.replace(result, nodes=nodes, weights=weights, outliers=np.empty(0))})
    assert "96.70 ± 0.02 % of the eigenvalues within 0.005 of zero" in [text for text, _ in texts(figure)]


def test_a_density_of_one_probe_and_one_node_is_drawn(make):
    (result,) = make("density", ["a"]).values()
    one = dataclasses.replace(result, nodes=np.array([[2.0]]), weights=np.array([[1.0]]))
    draw_density({"a": one})


def test_sharpness_shows_every_shard_and_the_mean_with_its_error(make):
    results = make("sharpness", ["a", "b"])
    ax = draw_sharpness(results).axes[0]
    for row, (result, drawn) in enumerate(zip(results.values(), ax.containers, strict=True)):
        dots = [line for line in ax.lines if line.get_marker() == "." and round(line.get_ydata().mean()) == row]
        np.testing.assert_array_equal(dots[0].get_xdata(), result.per_shard)
        assert (drawn[0].get_xdata()[0], drawn[0].get_ydata()[0]) == (result.value, row)
        ((start, end),) = drawn[2][0].get_segments()
        assert end[0] - start[0] == pytest.approx(2 * result.stderr)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


def test_a_shard_of_fewer_examples_is_hollow_and_no_other(make):
    (result,) = make("sharpness", ["a"]).values()
    for sizes in (np.full(9, 32), np.array([32] * 8 + [20]), np.full(9, 20)):
        ax = draw_sharpness({"a": dataclasses.replace(result, shard_sizes=sizes)}).axes[0]
        white = [line for line in ax.lines if mpl.colors.to_hex(line.get_markerfacecolor()) == "#ffffff"]
        grey = [line for line in ax.lines if line.get_marker() == "."]
        drawn = [np.concatenate([line.get_xdata() for line in lines]) for lines in (white, grey)]
        np.testing.assert_array_equal(drawn[0], result.per_shard[sizes < 32])
        np.testing.assert_array_equal(drawn[1], result.per_shard[sizes == 32])


def test_sharpness_over_a_single_shard_is_drawn_without_an_error(make):
    (result,) = make("sharpness", ["a"]).values()
    one = dataclasses.replace(result, stderr=float("nan"), per_shard=result.per_shard[:1], shard_sizes=np.array([32]))
    (drawn,) = draw_sharpness({"a": one}).axes[0].containers
    assert not drawn.has_xerr
