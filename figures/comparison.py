"""Pictures of a table of runs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from analyses.results import MEASURES, RunTable
from figures.style import INK, SOFT, new_figure, theme, wrapped
from landscape.results import Array

PANELS = ("largest_eigenvalue", "trace", "sharpness", "test_accuracy")


def draw_flatness_vs_m(table: RunTable) -> Figure:
    """Flatness and test accuracy against the number of micro-batches; the base optimizer stands apart on the left."""
    counts = sorted(set(table.num_microbatches.tolist()))
    position = {count: i for i, count in enumerate(counts)}
    with theme():
        figure, axes = new_figure(2, 2, height=2.5)
        for ax, measure in zip(axes, PANELS, strict=True):
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
    with theme():
        figure, axes = new_figure(2, 2, height=max(1.7, 0.8 + (0.16 + 0.14 * lines) * len(groups)))
        for ax, measure in zip(axes, PANELS, strict=True):
            scale = MEASURES[measure].scale
            for row, group in enumerate(groups):
                mask = table.of_group(group)
                values, errors = _finite(table.column(measure)[mask] * scale, table.error(measure)[mask] * scale)
                if np.isnan(values).all():
                    ax.text(0.02, row, "not finite", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
                    continue
                ax.errorbar(
                    values,
                    np.full(len(values), row),
                    xerr=errors,
                    fmt="o",
                    color=SOFT,
                    ms=4,
                    capsize=2,
                    alpha=0.8,
                    lw=1,
                )
                ax.plot(values.mean(), row, "D", color=INK, markersize=5, zorder=5)
            ax.set_yticks(range(len(groups)), names)
            ax.set_ylim(len(groups) - 0.5, -0.5)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            _plain_numbers(ax.xaxis)
            ax.set_xlabel(MEASURES[measure].label)
        for ax in axes[1::2]:
            ax.tick_params(labelleft=False)
    return figure


def _panel(ax: Axes, table: RunTable, measure: str, position: dict[int, int]) -> None:
    scale = MEASURES[measure].scale
    places = np.array([position[count] for count in table.num_microbatches.tolist()])
    values, errors = _finite(table.column(measure) * scale, table.error(measure) * scale)
    if np.isnan(values).all():
        ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center", fontsize=8)
    seeds = sorted(set(table.seeds.tolist()))
    for i, seed in enumerate(seeds):
        mask = table.seeds == seed
        shift = 0.12 * (i - (len(seeds) - 1) / 2)
        ax.errorbar(
            places[mask] + shift,
            values[mask],
            yerr=errors[mask],
            fmt="o",
            color=SOFT,
            ms=3.5,
            lw=0.9,
            capsize=2,
            alpha=0.85,
        )
    means = {place: values[places == place].mean() for place in sorted(set(places.tolist()))}
    inside = [place for count, place in position.items() if count > 0]
    ax.plot(inside, [means[place] for place in inside], "-D", color=INK, markersize=5, linewidth=1.4, zorder=5)
    if 0 in position:
        ax.axhline(means[position[0]], color=INK, linestyle=(0, (2, 2)), linewidth=0.9, zorder=1)
        ax.plot(position[0], means[position[0]], "D", color="white", mec=INK, mew=1.4, markersize=6, zorder=5)
    names = {0: "none\nbase"}
    if 1 in position:
        names[1] = f"1\n{table.groups[table.num_microbatches == 1][0]}"
    ax.set_xticks(list(position.values()), [names.get(count, str(count)) for count in position])
    ax.set_xlim(-0.5, len(position) - 0.5)
    ax.set_title(MEASURES[measure].label)
    if MEASURES[measure].flatness:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    _plain_numbers(ax.yaxis)


def _finite(values: Array, errors: Array) -> tuple[Array, Array]:
    """Values and errors with NaN, which is not drawn, for what is not finite."""
    return np.where(np.isfinite(values), values, np.nan), np.where(np.isfinite(errors), errors, np.nan)


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
