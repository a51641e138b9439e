"""Pictures of a table of runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from analyses.results import MEASURES, RunTable
from figures.style import INK, SOFT, new_figure, theme, wrapped
from landscape.results import Array

FLATNESS = ("largest_eigenvalue", "trace", "sharpness")
_RUN: dict[str, Any] = {"fmt": "o", "color": SOFT, "markersize": 3.5, "linewidth": 0.9, "capsize": 2, "alpha": 0.85}
_MEAN: dict[str, Any] = {"marker": "D", "color": INK, "markersize": 5, "zorder": 5}


def panels(table: RunTable) -> tuple[str, ...]:
    """The measures that are drawn: three of flatness, and the test accuracy, or the test loss where there is none."""
    return (*FLATNESS, "test_accuracy" if table.tells_classes else "test_loss")


def draw_flatness_vs_m(table: RunTable) -> Figure:
    """Flatness and test accuracy against the number of micro-batches; the base optimizer stands apart on the left."""
    counts = sorted(set(table.num_microbatches.tolist()))
    position = {count: i for i, count in enumerate(counts)}
    with theme():
        figure, axes = new_figure(2, 2, height=2.5)
        for ax, measure in zip(axes, panels(table), strict=True):
            _panel(ax, table, measure, position)
        for ax in axes[:2]:
            ax.tick_params(labelbottom=False)
        for ax in axes[2:]:
            ax.set_xlabel("number of micro-batches per batch at training")
    return figure


def draw_measures(table: RunTable) -> Figure:
    """Flatness and test accuracy of every group of runs."""
    groups = table.group_names
    names, lines = wrapped(groups)
    rows = np.array([groups.index(group) for group in table.groups.tolist()])
    with theme():
        figure, axes = new_figure(2, 2, height=max(1.7, 0.8 + (0.16 + 0.14 * lines) * len(groups)))
        for ax, measure in zip(axes, panels(table), strict=True):
            values, errors = _finite(table, measure)
            ax.errorbar(values, rows + _shifts(table), xerr=errors, **_RUN)
            for row, group in enumerate(groups):
                of_group = values[table.of_group(group)]
                if np.isnan(of_group).all():
                    ax.text(0.02, row, "not finite", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
                ax.plot(of_group.mean(), row, **_MEAN)
            ax.set_yticks(range(len(groups)), names)
            ax.set_ylim(len(groups) - 0.5, -0.5)
            ax.margins(x=0.08)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            _plain_numbers(ax.xaxis)
            ax.set_xlabel(MEASURES[measure].label)
        for ax in axes[1::2]:
            ax.tick_params(labelleft=False)
    return figure


def _panel(ax: Axes, table: RunTable, measure: str, position: dict[int, int]) -> None:
    """One measure against the number of micro-batches; ``position`` is where each number stands."""
    places = np.array([position[count] for count in table.num_microbatches.tolist()])
    values, errors = _finite(table, measure)
    if np.isnan(values).all():
        ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center", fontsize=8)
    ax.errorbar(places + _shifts(table), values, yerr=errors, **_RUN)
    means = {place: values[places == place].mean() for place in position.values()}
    inside = [place for count, place in position.items() if count > 0]
    ax.plot(inside, [means[place] for place in inside], linestyle="-", linewidth=1.4, **_MEAN)
    if 0 in position:
        base = position[0]
        ax.axhline(means[base], color=INK, linestyle=(0, (2, 2)), linewidth=0.9, zorder=1)
        ax.plot(base, means[base], **_MEAN | {"markersize": 6}, markerfacecolor="white", markeredgewidth=1.4)
    ax.set_xticks(list(position.values()), [_tick(table, count) for count in position])
    ax.set_xlim(-0.5, len(position) - 0.5)
    ax.set_title(MEASURES[measure].label)
    if MEASURES[measure].flatness:
        low, high = ax.get_ylim()
        bottom = min(0.0, low)
        ax.set_ylim(bottom, high + 0.04 * (high - bottom))
    _plain_numbers(ax.yaxis)


def _tick(table: RunTable, count: int) -> str:
    """A number of micro-batches, and the method where that has a name of its own: the base optimizer, and SAM."""
    if count > 1:
        return str(count)
    method = str(table.groups[table.num_microbatches == count][0])
    return f"1\n{method}" if count == 1 else method


def _shifts(table: RunTable) -> Array:
    """How far each run, ``(n,)``, stands beside the place of its group, so that its seeds can be told apart."""
    if not table.has_repeats:
        return np.zeros(len(table.names))
    known = ~table.of_unknown_training
    _, ranks = np.unique(table.seeds[known], return_inverse=True)
    most = max(1, ranks.max())
    shifts = np.zeros(len(table.names))
    shifts[known] = min(0.3, 0.5 / most) * (ranks - most / 2)
    return shifts


def _finite(table: RunTable, measure: str) -> tuple[Array, Array]:
    """Values and errors of a measure as displayed, with NaN, which is not drawn, for what is not finite."""
    columns = (table.column(measure) * MEASURES[measure].scale, table.error(measure) * MEASURES[measure].scale)
    values, errors = (np.where(np.isfinite(column), column, np.nan) for column in columns)
    return values, errors


def _plain_numbers(axis: Axis) -> None:
    """Every tick a number that stands for itself, and a range in which ticks of few digits differ."""
    low, high = axis.get_view_interval()
    size = max(abs(low), abs(high))
    if high - low < 1e-3 * size:
        middle = (low + high) / 2
        axis.set_view_interval(middle - 5e-4 * size, middle + 5e-4 * size, ignore=True)
    if 1e-3 <= size < 1e6:
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", "−")))
