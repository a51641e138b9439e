"""Pictures of the loss along lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.heights import at_model, heights, interpolated, shows_rise, splits
from figures.style import SOFT, WIDTH, legend, line_styles, new_figure, theme
from landscape.answers import LineSlice
from landscape.results import Array

_LETTER = 0.068  # inches across, of a mark's name
_LINE = 0.15  # inches up


def draw_lines(results: Mapping[str, LineSlice]) -> Figure:
    """Losses along lines, over one another, and scores below; crosses on the lower edge: the loss is not finite there.

    Of several lines the rise L(w + t d) − L(w) is drawn, where ``shows_rise`` says so; the legend has each L(w). Of one
    line the loss on held-out data is a second, dashed curve, of several it has panels of its own.
    """
    train, test = splits(results)
    held_out = any(result.held_out_losses is not None for result in results.values())
    scored = [result.score for result in results.values() if result.scores is not None]
    apart = held_out and len(results) > 1
    with theme():
        columns = 2 if apart else 1
        figure, axes = new_figure(2 if scored else 1, columns, height=2.4 if scored else 3.2, rows_alike=True)
        upper, lower = axes[:columns], axes[columns:]
        if apart:
            styles = line_styles(list(results))
            _curves(upper[0], results, heights(results), styles, _names(results, test))
            _curves(upper[1], results, heights(results, held_out=True), styles, {}, held_out=True)
            for panel, name in zip(upper, (train, test), strict=True):
                panel.set_title(f"on {name}")
        else:
            styles = line_styles([*results, test] if held_out else list(results))
            names = dict.fromkeys(results, train) if held_out else _names(results, test)
            _curves(upper[0], results, heights(results), styles, names)
            for label in results if held_out else ():
                aside = {label: styles[test]}
                _curves(upper[0], results, heights(results, held_out=True), aside, {label: test}, held_out=True)
        for panel, other in zip(lower, (False, True), strict=False):
            _scores(panel, results, styles, held_out=other)
        if lower and held_out and not apart:
            _scores(lower[0], results, dict.fromkeys(results, styles[test]), held_out=True)
        if lower:
            lower[0].set_ylabel(", ".join(dict.fromkeys(scored)))
        between = "\n" if lower else ", "
        upper[0].set_ylabel(f"rise in loss{between}L(w + t d) − L(w)" if shows_rise(results) else "loss L(w + t d)")
        above = _marks(upper, lower, results)
        figure.set_figheight(figure.get_figheight() + above)
        if apart and above:
            for panel in upper:
                panel.set_title(panel.get_title("left"), pad=6 + 72 * above)
        under = "\n".join(["coordinate t along the direction d", *_notes(results)])
        if columns == 1:
            axes[-1].set_xlabel(under)
        else:
            figure.supxlabel(under, fontsize=9)
            for panel in axes:
                panel.xaxis.set_major_locator(MaxNLocator(5))  # or numbers touch one another
        legend(figure, upper[0], count=len(upper[0].get_legend_handles_labels()[0]))
    return figure


def _names(results: Mapping[str, LineSlice], test: str) -> dict[str, str]:
    """What the legend says of each: its label, and L(w) where rises above it are drawn."""
    names = {}
    for label in results:
        other = [f"{value} on {test}" for value in at_model(results, label, held_out=True)]
        names[label] = ", ".join([label, *at_model(results, label), *other])
    return names


def _notes(results: Mapping[str, LineSlice]) -> list[str]:
    """What stands under the axis: the meaning of bands, and of points that were not evaluated."""
    notes = []
    if any(result.stderrs is not None or result.held_out_stderrs is not None for result in results.values()):
        notes.append(f"bands: ± 2 standard errors{' of the loss' if shows_rise(results) else ''}")
    if interpolated(results):
        notes.append(interpolated(results))
    return notes


def _curves(
    ax: Axes,
    results: Mapping[str, LineSlice],
    values: Mapping[str, Array],
    styles: Mapping[str, dict[str, Any]],
    names: Mapping[str, str],
    *,
    held_out: bool = False,
) -> None:
    """One curve for each, with its band."""
    for label, height in values.items():
        result = results[label]
        order = np.argsort(result.coordinates)
        errors = result.held_out_stderrs if held_out else result.stderrs
        _curve(ax, result.coordinates[order], height[order], styles[label], names.get(label, ""))
        if errors is not None:
            low, high = (height[order] + sign * 2 * errors[order] for sign in (-1, 1))
            known = np.isfinite(low) & np.isfinite(high)
            ax.fill_between(
                result.coordinates[order],
                np.where(known, low, np.nan),
                np.where(known, high, np.nan),
                color=styles[label]["color"],
                alpha=0.15,
                linewidth=0,
            )


def _curve(ax: Axes, at: Array, height: Array, style: Mapping[str, Any], name: str) -> None:
    lost = ~np.isfinite(height)
    padded = np.pad(lost, 1, constant_values=True)
    alone = np.flatnonzero(~lost & padded[:-2] & padded[2:]).tolist()  # no line leads to these
    colour, dash = style["color"], style["linestyle"]
    (curve,) = ax.plot(at, np.where(lost, np.nan, height), color=colour, linestyle=dash, label=name or "_")
    if alone:
        curve.set(marker="o", markevery=alone)
    if lost.any():
        ax.plot(at[lost], np.full(lost.sum(), 0.02), "x", color=colour, transform=ax.get_xaxis_transform())


def _scores(
    ax: Axes, results: Mapping[str, LineSlice], styles: Mapping[str, dict[str, Any]], *, held_out: bool
) -> None:
    for label, result in results.items():
        scores = result.held_out_scores if held_out else result.scores
        if scores is not None:
            order = np.argsort(result.coordinates)
            _curve(ax, result.coordinates[order], scores[order], styles[label], "")


def _marks(upper: Sequence[Axes], lower: Sequence[Axes], results: Mapping[str, LineSlice]) -> float:
    """Dotted lines at marked places, with their names above the panels; returns the height of these in inches."""
    named: dict[float, list[str]] = {}
    for result in results.values():
        if result.marks is not None and result.mark_names is not None:
            for place, name in zip(result.marks.tolist(), result.mark_names.tolist(), strict=True):
                called = named.setdefault(place, [])
                if name not in called:
                    called.append(name)
    if not named:
        return 0.0
    for ax in (*upper, *lower):
        for place in named:
            ax.axvline(place, color=SOFT, linestyle=(0, (1, 2)), linewidth=0.9, zorder=0.5)
    low, high = upper[0].get_xlim()
    width = 0.86 * WIDTH / len(upper)
    ends: list[float] = []  # where the last name of each level ends, in inches
    sizes: list[int] = []  # the lines that each level takes
    stacked: list[tuple[float, int, str, str]] = []
    for place in sorted(named):
        text = textwrap.fill(", ".join(named[place]), max(8, int(0.45 * width / _LETTER)))
        across = _LETTER * max(map(len, text.split("\n")))
        middle = (place - low) / (high - low) * width
        side = "left" if middle - across / 2 < 0 else "right" if middle + across / 2 > width else "center"
        start = middle - {"left": 0.0, "center": across / 2, "right": across}[side]
        level = next((i for i, end in enumerate(ends) if end + 0.1 < start), len(ends))
        if level == len(ends):
            ends.append(0.0)
            sizes.append(0)
        ends[level] = start + across
        sizes[level] = max(sizes[level], text.count("\n") + 1)
        stacked.append((place, level, side, text))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for ax in upper:
        for place, level, side, text in stacked:
            ax.annotate(
                text,
                (place, 1),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, 3 + 72 * _LINE * float(starts[level])),
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=8,
                color=SOFT,
            )
    return _LINE * float(starts[-1])
