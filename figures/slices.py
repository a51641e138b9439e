"""Pictures of slices, all on one scale; where several are compared, from the loss of each model upwards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from figures.style import SEQUENTIAL, legend, line_styles, new_figure, theme, wrapped
from landscape.answers import LineSlice, PlaneSlice
from landscape.results import Array

Slices = Mapping[str, LineSlice] | Mapping[str, PlaneSlice]


def draw_lines(results: Mapping[str, LineSlice]) -> Figure:
    """Losses along lines, over one another; crosses on the lower edge mark points where the loss is not finite.

    Of several lines the rise L(w + t d) − L(w) is drawn, where ``shows_rise`` says so; the legend has each L(w).
    """
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        heights = _heights(results)
        for label, result in results.items():
            order = np.argsort(result.coordinates)
            at, height = result.coordinates[order], heights[label][order]
            colour, dash = styles[label]["color"], styles[label]["linestyle"]
            lost = ~np.isfinite(height)
            padded = np.pad(lost, 1, constant_values=True)
            alone = np.flatnonzero(~lost & padded[:-2] & padded[2:]).tolist()  # no line leads to these
            name = ", ".join([label, *_at_model(results, label)])
            (curve,) = ax.plot(at, np.where(lost, np.nan, height), color=colour, linestyle=dash, label=name)
            if alone:
                curve.set(marker="o", markevery=alone)
            if lost.any():
                ax.plot(at[lost], np.full(lost.sum(), 0.02), "x", color=colour, transform=ax.get_xaxis_transform())
        ax.set(
            xlabel="coordinate t along the direction d",
            ylabel="rise in loss, L(w + t d) − L(w)" if shows_rise(results) else "loss L(w + t d)",
        )
        legend(figure, ax, count=len(results))
    return figure


def draw_planes(results: Mapping[str, PlaneSlice]) -> Figure:
    """Contours of the loss on one colour scale; hatched where the loss is not finite; a cross marks the model.

    Of several planes the rise L(w + d) − L(w) is drawn, where ``shows_rise`` says so; each title has its L(w).
    """
    columns = min(3, len(results))
    rows = math.ceil(len(results) / columns)
    names, lines = wrapped(list(results), width=(60, 28, 22)[columns - 1])
    titles = ["\n".join([name, *_at_model(results, label)]) for name, label in zip(names, results, strict=True)]
    with theme():
        height = (4.1, 2.4, 1.7)[columns - 1] + 0.14 * (lines + 1) + 0.45 / rows  # a row, and its share of the labels
        figure, axes = new_figure(rows, columns, height=height, share=True)
        figure.set_layout_engine("compressed")  # the axes are square: no wide gaps between them
        heights = _heights(results)
        finite = np.concatenate([height[np.isfinite(height)] for height in heights.values()])
        levels, norm, scale = _root_scale(finite) if shows_rise(results) else _loss_scale(finite)
        image = None
        for ax, title, (label, result) in zip(axes, titles, results.items(), strict=False):
            x, y, values = _grid(label, result, heights[label])
            ax.set_facecolor("white")
            ax.patch.set(hatch="xxx", edgecolor="#b8bec6")
            image = ax.contourf(x, y, values, levels=levels, norm=norm, cmap=SEQUENTIAL)
            ax.contour(x, y, values, levels=levels, norm=norm, colors="white", linewidths=0.4)
            ax.plot(0, 0, "+", color="#d01c1c", markersize=8, markeredgewidth=1.6)
            ax.set_title(title, fontsize=8.5)
            ax.set_aspect("equal")
            ax.grid(visible=False)
        for ax in axes[len(results) :]:
            ax.set_visible(False)
        if image is not None:
            bar = figure.colorbar(image, ax=axes[: len(results)], shrink=0.9, pad=0.02)
            bar.set_label(("rise in loss, L(w + d) − L(w)" if shows_rise(results) else "loss") + scale)
            bar.set_ticks(list(levels[::4]), labels=_told_apart(levels[::4]))
            bar.ax.minorticks_off()
        figure.supxlabel("along the first direction", fontsize=9)
        figure.supylabel("along the second direction", fontsize=9)
    return figure


def shows_rise(results: Slices) -> bool:
    """Whether rises above L(w) are drawn: of several results, where the model itself lies on the grid of each."""
    return len(results) > 1 and all(_loss_of_model(result) is not None for result in results.values())


def _heights(results: Slices) -> dict[str, Array]:
    """What is drawn of each result: its losses, or their rises above the loss of the model."""
    if not shows_rise(results):
        return {label: result.losses for label, result in results.items()}
    with np.errstate(invalid="ignore"):  # of a model whose own loss is not finite there is no rise
        return {label: result.losses - _loss_of_model(result) for label, result in results.items()}


def _at_model(results: Slices, label: str) -> list[str]:
    """``L(w) = 0.123``, where rises above it are drawn."""
    return [f"L(w) = {_loss_of_model(results[label]):#.3g}"] if shows_rise(results) else []


def _loss_of_model(result: LineSlice | PlaneSlice) -> float | None:
    """L(w), the loss at the origin; None where that is no point of the grid."""
    axes = (result.coordinates,) if isinstance(result, LineSlice) else (result.y, result.x)
    places = [np.flatnonzero(np.abs(axis) <= 1e-9 * np.abs(axis).max()) for axis in axes]
    if not all(place.size for place in places):
        return None
    return float(result.losses[tuple(place[0] for place in places)])


def _told_apart(levels: Array) -> list[str]:
    """Numbers with three digits, or with as many as it takes until no two read the same."""
    for digits in range(3, 17):
        labels = [f"{level:.{digits}g}".replace("-", "−") for level in levels]
        if len(set(labels)) == len(labels):
            break
    return labels


def _grid(label: str, result: PlaneSlice, height: Array) -> tuple[Array, Array, Array]:
    """Coordinates in ascending order, and the heights there, masked where they are not finite."""
    if min(height.shape) < 2:
        raise ValueError(
            f"the plane of {label} has {len(result.x)} x {len(result.y)} points; contours need two along each axis"
        )
    across, up = np.argsort(result.x), np.argsort(result.y)
    return result.x[across], result.y[up], np.ma.masked_invalid(height[np.ix_(up, across)])


def _loss_scale(finite: Array) -> tuple[Array, mpl.colors.Normalize, str]:
    """Levels, norm and name: logarithmic where positive losses span more than a factor of twenty."""
    low, high = _span(finite)
    if low > 0 and high / low > 20:
        return np.geomspace(low, high, 17), mpl.colors.LogNorm(low, high), " (log scale)"
    return np.linspace(low, high, 17), mpl.colors.Normalize(low, high), ""


def _root_scale(finite: Array) -> tuple[Array, mpl.colors.Normalize, str]:
    """Levels, norm and name of a scale on which the contours of a round bowl, flat or steep, are evenly spaced."""
    low, high = _span(finite)
    roots = _signed_root(np.array([low, high]))
    levels = _signed_square(np.linspace(roots[0], roots[1], 17))
    levels[[0, -1]] = low, high
    return levels, mpl.colors.FuncNorm((_signed_root, _signed_square), low, high), "\n(square-root scale)"


def _span(finite: Array) -> tuple[float, float]:
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def _signed_root(values: Array) -> Array:
    found: Array = np.sign(values) * np.sqrt(np.abs(values))
    return found


def _signed_square(values: Array) -> Array:
    found: Array = np.sign(values) * np.square(values)
    return found
