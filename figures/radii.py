"""Sharpness over a grid of radii or of shard sizes, and the rise under noise around the PAC-Bayes σ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from figures.style import INK, SOFT, legend, line_styles, new_figure, theme
from landscape.answers import PacBayesSigma, SharpnessCurve, SharpnessOverSizes
from landscape.results import Array

_FAR = 200  # decades from 1, from where on matplotlib's limits and ticks may overflow
_MARGIN = 0.05  # beyond what is drawn, as matplotlib has it
_TICKS = 6  # about so many
_WIDE = 20.0  # the ratio of largest to smallest from which on a scale is logarithmic


def draw_curves(results: Mapping[str, SharpnessCurve]) -> Figure:
    """Sharpness against its radius, with bands of one standard error; both scales logarithmic where they span a lot.

    Crosses on the upper edge mark radii where the value is not finite.
    """
    kinds = {result.kind for result in results.values()}
    radii = {result.radius for result in results.values()}
    with theme():
        figure, (ax,) = new_figure()
        heights = [result.values for result in results.values()]
        logarithmic = _is_wide(heights)
        styles = line_styles(list(results))
        for label, result in results.items():
            style = styles[label]
            name = label if len(kinds) == 1 else f"{label}, {result.kind}"
            name += "" if len(radii) == 1 else f" ({result.radius})"
            _curve(ax, result.rhos, result.values, result.stderrs, style, label=name, above_zero=logarithmic)
        if _is_wide([result.rhos for result in results.values()]):
            _logarithmic(ax, "x")
        if logarithmic:
            _logarithmic(ax, "y")
        else:
            ax.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
        sizes = {result.microbatch_size for result in results.values()}
        shards = f"shards of {sizes.pop()} examples; " if len(sizes) == 1 and None not in sizes else ""
        radius = radii.pop() if len(radii) == 1 else "radius ρ, of the norm that the legend names"
        ax.set_xlabel(f"{radius}\n({shards}bands: standard error)")
        ax.set_ylabel(f"{kinds.pop() if len(kinds) == 1 else 'sharpness'}\n(rise in loss)")
        legend(figure, ax, count=len(results))
    return figure


def draw_sizes(results: Mapping[str, SharpnessOverSizes]) -> Figure:
    """m-sharpness against the examples in a shard, on a scale of powers of two, with bands of one standard error.

    Crosses on the upper edge mark sizes where the value is not finite.
    """
    radii = {f"ρ = {result.rho:g} ({result.radius.removeprefix('ρ: ')})" for result in results.values()}
    with theme():
        figure, (ax,) = new_figure()
        logarithmic = _is_wide([result.values for result in results.values()])
        styles = line_styles(list(results))
        for label, result in results.items():
            x, style = result.microbatch_sizes, styles[label]
            _curve(ax, x, result.values, result.stderrs, style, label=label, above_zero=logarithmic)
        sizes = sorted({int(size) for result in results.values() for size in result.microbatch_sizes})
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        if logarithmic:
            _logarithmic(ax, "y")
        else:
            ax.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
        ax.set_xlabel(f"examples in a shard\n({'; '.join(sorted(radii))}; bands: standard error)")
        ax.set_ylabel("m-sharpness\n(rise in loss)")
        legend(figure, ax, count=len(results))
    return figure


def draw_sigmas(results: Mapping[str, PacBayesSigma]) -> Figure:
    """What noise costs against its standard deviation σ; a diamond where it meets the target, with its interval."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        logarithmic = _is_wide([result.rises[result.rises > 0] for result in results.values()])
        for label, result in results.items():
            style = styles[label]
            _curve(ax, result.sigmas, result.rises, result.stderrs, style, label=label, above_zero=logarithmic)
            if not 0 < result.sigma < np.inf:
                continue
            ends = [[result.sigma - result.low], [result.high - result.sigma if np.isfinite(result.high) else 0]]
            look: dict[str, Any] = {"color": style["color"], "marker": "D", "markeredgecolor": "white", "capsize": 4}
            ax.errorbar(result.sigma, result.target, xerr=ends, zorder=5, **look)
        for target in {result.target for result in results.values()}:
            ax.axhline(target, color=SOFT, linewidth=0.8, zorder=1)
        _logarithmic(ax, "x")
        if logarithmic:
            _logarithmic(ax, "y")
        levels = ", ".join(f"{level * 100:g}" for level in sorted({result.level for result in results.values()}))
        ax.set_xlabel(f"standard deviation σ of the noise in each weight\n(diamonds: σ with its {levels} % interval)")
        ax.set_ylabel("mean rise in loss, or fall in score,\nunder noise (band: standard error)")
        legend(figure, ax, count=len(results))
    return figure


def _curve(
    ax: Axes,
    x: Array,
    y: Array,
    stderrs: Array,
    style: Mapping[str, Any],
    *,
    label: str,
    above_zero: bool,
) -> None:
    """A line with its band; what has no place on the axes is left out, and marked where it is not finite."""
    shown = np.isfinite(y) & ((y > 0) if above_zero else True)
    at, height, half = x[shown], y[shown], np.nan_to_num(stderrs[shown])
    look = {key: style[key] for key in ("color", "linestyle", "marker")}
    ax.plot(at, height, label=label, markersize=4, markeredgecolor="white", markeredgewidth=0.6, **look)
    lower = np.maximum(height - half, height * 1e-3) if above_zero else height - half
    ax.fill_between(at, lower, height + half, color=style["color"], alpha=0.16, linewidth=0)
    lost = ~np.isfinite(y)
    if lost.any():
        colour = style["color"] or INK
        ax.plot(x[lost], np.full(lost.sum(), 0.98), "x", color=colour, transform=ax.get_xaxis_transform())


def _logarithmic(ax: Axes, axis: Literal["x", "y"]) -> None:
    """A logarithmic scale; where it goes near the ends of what doubles hold, its margins and ticks stay within."""
    ends = np.array([getattr(ax.dataLim, f"minpos{axis}"), getattr(ax.dataLim, f"{axis}max")])
    if not (0 < ends[0] < ends[1] < np.inf and abs(np.log10(ends)).max() > _FAR):
        getattr(ax, f"set_{axis}scale")("log")
        return
    places = np.log10(ends)
    low, high = np.clip(places + _MARGIN * (places[1] - places[0]) * np.array([-1, 1]), -307, 308)
    getattr(ax, f"set_{axis}lim")(10**low, 10**high)  # first, as matplotlib's own limits overflow
    getattr(ax, f"set_{axis}scale")("log")
    step = max(1, round((high - low) / _TICKS))
    decades = np.arange(math.ceil(low / step) * step, high, step)
    getattr(ax, f"set_{axis}ticks")(10.0**decades, [f"$10^{{{decade:.0f}}}$" for decade in decades])
    getattr(ax, f"{axis}axis").set_minor_locator(NullLocator())


def _is_wide(columns: list[Array]) -> bool:
    """Whether positive numbers span so much that a logarithmic scale shows them better; zeros alone do not hinder."""
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    if not values.size or (values < 0).any():
        return False
    positive = values[values > 0]
    return bool(positive.size > 1 and positive.max() / _WIDE > positive.min())
