"""Pictures of sharpness: one row per result, of all that its mean is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.style import SOFT, legend, legend_of, line_styles, new_figure, theme, wrapped
from landscape.answers import FisherRaoNorm, KeskarSharpness, RelativeFlatness, Sampled, Sharpness
from landscape.results import Array

_SMALL: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": SOFT, "mfc": "white", "markersize": 4.5}
_MEAN: dict[str, Any] = {"marker": "D", "markersize": 6, "capsize": 4, "linewidth": 1.6, "markeredgecolor": "white"}
_BESIDE = "(dots; diamonds: mean ± standard error)"


def draw_sharpness(results: Mapping[str, Sharpness] | Mapping[str, FisherRaoNorm]) -> Figure:
    """The value of every shard, and the mean with its standard error; one row per result.

    A shard that has fewer examples than was asked for, as the last one may have, is hollow.
    """
    small = {label: result.shard_sizes < result.microbatch_size for label, result in results.items()}
    figure, ax = _rows(results, lambda result: result.per_shard, small)
    sizes = {result.microbatch_size for result in results.values()}
    left = {int(n) for result in results.values() for n in result.shard_sizes if n < result.microbatch_size}
    if left:
        with theme():
            legend_of(figure, [Line2D([], [], **_SMALL)], [f"smaller shard ({_listed(left)} examples)"])
    first = next(iter(results.values()))
    what = "w'Fw" if isinstance(first, FisherRaoNorm) else "rise in loss"
    kind = "" if type(first) is Sharpness else f"{first.title}: "
    ax.set_xlabel(f"{kind}{what} per shard of {_listed(sizes)} examples\n{_BESIDE}")
    return figure


def draw_samples(results: Mapping[str, Sampled]) -> Figure:
    """Every sample, and the mean with its standard error; one row per result."""
    figure, ax = _rows(results, lambda result: result.samples, {})
    first = next(iter(results.values()))
    each = "subspace" if isinstance(first, KeskarSharpness) else "pair of draws"
    unit = ", in % of 1 + loss" if isinstance(first, KeskarSharpness) else ""
    ax.set_xlabel(f"{first.title}{unit}, per {each}\n{_BESIDE}")
    return figure


def draw_layers(results: Mapping[str, RelativeFlatness]) -> Figure:
    """Relative flatness of every layer with its standard error; one row per layer, results beside one another."""
    layers = list(dict.fromkeys(name for result in results.values() for name in result.layers.tolist()))
    names, lines = wrapped(layers)
    with theme():
        figure, (ax,) = new_figure(height=max(2.0, 1.2 + (0.2 + 0.14 * lines + 0.08 * len(results)) * len(layers)))
        styles = line_styles(list(results))
        for place, (label, result) in enumerate(results.items()):
            rows = np.array([layers.index(name) for name in result.layers.tolist()], dtype=float)
            rows += (place - (len(results) - 1) / 2) * 0.7 / len(results)
            look = {key: styles[label][key] for key in ("color", "marker")}
            known = np.isfinite(result.values)
            ax.errorbar(
                result.values[known],
                rows[known],
                xerr=result.stderrs[known],
                linestyle="none",
                capsize=2,
                linewidth=1.2,
                label=label,
                **look,
            )
        ax.set_yticks(range(len(layers)), names)
        ax.set_ylim(len(layers) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("relative flatness of each layer, large where it is sharp (bars: standard error)")
        legend(figure, ax, count=len(results))
    return figure


def _rows(results: Mapping[str, Any], parts: Callable[[Any], Array], small: Mapping[str, Array]) -> tuple[Figure, Axes]:
    """Dots for the parts of each result, in its row, and a diamond for their mean."""
    names, lines = wrapped(list(results))
    with theme():
        figure, (ax,) = new_figure(height=max(2.0, 1.2 + (0.28 + 0.14 * lines) * len(results)))
        styles = line_styles(list(results))
        for row, (label, result) in enumerate(results.items()):
            values = parts(result)
            # Spread sideways by a fixed pattern, so that values that are alike can be told apart.
            offset = row + 0.24 * np.sin(2.4 * np.arange(len(values)))
            if not (np.isfinite(result.value) or np.isfinite(values).any()):
                ax.text(0.02, row, "not finite", transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
                continue
            hollow = small.get(label, np.zeros(len(values), dtype=bool))
            ax.plot(values[~hollow], offset[~hollow], ".", color=SOFT, alpha=0.55, markersize=5)
            ax.plot(values[hollow], offset[hollow], **_SMALL)
            error = None if np.isnan(result.stderr) else result.stderr
            ax.errorbar(result.value, row, xerr=error, color=styles[label]["color"], zorder=5, **_MEAN)
        ax.set_yticks(range(len(results)), names)
        ax.set_ylim(len(results) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    return figure, ax


def _listed(sizes: set[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
