"""Pictures of slices, all on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from figures.style import SEQUENTIAL, legend, line_styles, new_figure, theme, wrapped
from landscape.answers import LineSlice, PlaneSlice
from landscape.results import Array


def draw_lines(results: Mapping[str, LineSlice]) -> Figure:
    """Losses along lines, over one another; crosses on the lower edge mark points where the loss is not finite."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        for label, result in results.items():
            order = np.argsort(result.coordinates)
            at, losses = result.coordinates[order], result.losses[order]
            colour, dash = styles[label]["color"], styles[label]["linestyle"]
            lost = ~np.isfinite(losses)
            padded = np.pad(lost, 1, constant_values=True)
            alone = np.flatnonzero(~lost & padded[:-2] & padded[2:]).tolist()  # no line leads to these
            (curve,) = ax.plot(at, np.where(lost, np.nan, losses), color=colour, linestyle=dash, label=label)
            if alone:
                curve.set(marker="o", markevery=alone)
            if lost.any():
                ax.plot(at[lost], np.full(lost.sum(), 0.02), "x", color=colour, transform=ax.get_xaxis_transform())
        ax.set(xlabel="coordinate along a filter-normalised random direction", ylabel="loss")
        legend(figure, ax, count=len(results))
    return figure


def draw_planes(results: Mapping[str, PlaneSlice]) -> Figure:
    """Contours of the loss on one colour scale; hatched where the loss is not finite; a cross marks the model."""
    columns = min(3, len(results))
    rows = math.ceil(len(results) / columns)
    names, lines = wrapped(list(results), width=(60, 28, 22)[columns - 1])
    with theme():
        figure, axes = new_figure(rows, columns, height=(4.5, 2.9, 2.1)[columns - 1] + 0.14 * lines, share=True)
        figure.set_layout_engine("compressed")  # the axes are square: no wide gaps between them
        finite = np.concatenate([result.losses[np.isfinite(result.losses)] for result in results.values()])
        levels, norm = _scale(finite)
        image = None
        for ax, name, (label, result) in zip(axes, names, results.items(), strict=False):
            x, y, losses = _grid(label, result)
            ax.set_facecolor("white")
            ax.patch.set(hatch="xxx", edgecolor="#b8bec6")
            image = ax.contourf(x, y, losses, levels=levels, norm=norm, cmap=SEQUENTIAL)
            ax.contour(x, y, losses, levels=levels, norm=norm, colors="white", linewidths=0.4)
            ax.plot(0, 0, "+", color="#d01c1c", markersize=8, markeredgewidth=1.6)
            ax.set_title(name, fontsize=8.5)
            ax.set_aspect("equal")
            ax.grid(visible=False)
        for ax in axes[len(results) :]:
            ax.set_visible(False)
        if image is not None:
            bar = figure.colorbar(image, ax=axes[: len(results)], shrink=0.9, pad=0.02)
            bar.set_label("loss" + (" (log scale)" if isinstance(norm, mpl.colors.LogNorm) else ""))
            bar.set_ticks(list(levels[::4]), labels=_told_apart(levels[::4]))
            bar.ax.minorticks_off()
        figure.supxlabel("first filter-normalised direction", fontsize=9)
        figure.supylabel("second filter-normalised direction", fontsize=9)
    return figure


def _told_apart(levels: Array) -> list[str]:
    """Numbers with three digits, or with as many as it takes until no two read the same."""
    for digits in range(3, 17):
        labels = [f"{level:.{digits}g}" for level in levels]
        if len(set(labels)) == len(labels):
            break
    return labels


def _grid(label: str, result: PlaneSlice) -> tuple[Array, Array, Array]:
    """Coordinates in ascending order, and the losses there, masked where they are not finite."""
    if min(result.losses.shape) < 2:
        raise ValueError(
            f"the plane of {label} has {len(result.x)} x {len(result.y)} points; contours need two along each axis"
        )
    across, up = np.argsort(result.x), np.argsort(result.y)
    return result.x[across], result.y[up], np.ma.masked_invalid(result.losses[np.ix_(up, across)])


def _scale(finite: Array) -> tuple[Array, mpl.colors.Normalize]:
    """Levels for all planes together: logarithmic where positive losses span more than a factor of twenty."""
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-3
    if low > 0 and high / low > 20:
        return np.geomspace(low, high, 17), mpl.colors.LogNorm(low, high)
    return np.linspace(low, high, 17), mpl.colors.Normalize(low, high)
