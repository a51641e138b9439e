"""Pictures of the loss over planes as surfaces in three dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D

from figures.heights import WIDEST, at_model, finite_of, heights, interpolated, shows_rise, span, told_apart
from figures.planes import MODEL
from figures.style import INK, SEQUENTIAL, SOFT, WIDTH, theme, wrapped
from landscape.answers import PlaneSlice
from landscape.results import Array

MOST = 3  # surfaces beside one another
_FINEST = 80  # facets along each axis
_STEEPEST = 10  # times the median height of a plane, beyond which surfaces are cut off


@dataclass(frozen=True)
class Vertical:
    """The scale of the heights of surfaces.

    Attributes:
        low: the lowest height.
        high: the highest that is drawn.
        highest: the highest of all.
        logarithmic: whether heights are drawn by their logarithm.
        name: of what is drawn.
    """

    low: float
    high: float
    highest: float
    logarithmic: bool
    name: str

    @classmethod
    def of(cls, results: Mapping[str, PlaneSlice]) -> Vertical:
        """One scale for all: logarithmic where positive losses span more than a factor of twenty; else even.

        An even scale ends at ten times the median height of a plane above its lowest, of the steepest of them.
        """
        drawn = heights(results)
        low, highest = span(finite_of(drawn.values()))
        name = "rise in loss" if shows_rise(results) else "loss"
        if low > 0 and highest / low > WIDEST:
            return cls(low, highest, highest, logarithmic=True, name=f"{name} (log scale)")
        finite = [found for found in (finite_of([height]) for height in drawn.values()) if found.size]
        ends = [float(found.min() + _STEEPEST * (np.median(found) - found.min())) for found in finite]
        high = min(highest, max(ends)) if ends and max(ends) > low else highest
        return cls(low, high, highest, logarithmic=False, name=name)

    @property
    def cut(self) -> str:
        """A sentence on what is not drawn; empty where all is."""
        return f"cut off above {self.high:.3g}; the highest is {self.highest:.3g}" if self.high < self.highest else ""

    @property
    def _marked(self) -> list[float]:
        """A few round heights."""
        if self.logarithmic:
            for steps in ((1, 2, 5), (1, 3), (1,)):
                marked = self._inside(LogLocator(subs=steps, numticks=999))
                if len(marked) <= 5:
                    break
            return marked[:: max(1, -(-len(marked) // 5))]
        return self._inside(MaxNLocator(4))

    def _inside(self, locator: Locator) -> list[float]:
        return [float(value) for value in locator.tick_values(self.low, self.high) if self.low <= value <= self.high]

    @property
    def ticks(self) -> list[float]:
        """Where a few round heights are drawn."""
        return [float(place) for place in self.place(np.array(self._marked))]

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return told_apart(np.array(self._marked))

    def place(self, values: Array) -> Array:
        """Where heights are drawn; NaN where they are not finite."""
        clipped = np.where(np.isfinite(values), np.minimum(values, self.high), np.nan)
        return np.log10(clipped) if self.logarithmic else clipped


def draw_surface(results: Mapping[str, PlaneSlice]) -> Figure:
    """Surfaces of the loss beside one another, on one scale of heights and colours; holes: it is not finite there.

    Of several planes the rise L(w + d) − L(w) is drawn, where ``shows_rise`` says so. Contours and the path of a
    training are on the floor, with a cross for the model. What is far above the rest is cut off, and said to be.

    Raises:
        ValueError: if there are none or more than three, or if a plane has fewer than two points along an axis.
    """
    if not 1 <= len(results) <= MOST:
        raise ValueError(f"surfaces are drawn of one to {MOST} planes beside one another; got {len(results)}")
    scale = Vertical.of(results)
    count = len(results)
    names, lines = wrapped(list(results), width=(60, 34, 24)[count - 1])
    lines += shows_rise(results)
    path = ", the path of training" if any(result.path is not None for result in results.values()) else ""
    floor = f"on the floor: contours{path}, a cross for the model"
    notes = [note for note in (floor, scale.cut, interpolated(results)) if note]
    with theme():
        side = (4.4, 3.3, 2.25)[count - 1]  # inches, of a square around a surface
        foot = 0.62 + 0.16 * len(notes)
        height = side + 0.16 * lines + foot
        figure = Figure(figsize=(WIDTH, height))
        figure.set_layout_engine("none")  # which would take the room of a box for that of its surface
        low, high = scale.place(np.array([scale.low, scale.high]))
        norm = mpl.colors.Normalize(low, high)
        for i, (label, result) in enumerate(results.items()):
            left = (i + 0.5) / count - side / WIDTH / 2
            ax: Axes3D = figure.add_axes((left, foot / height, side / WIDTH, side / height), projection="3d")
            _surface(ax, result, label, scale.place(heights(results)[label]), norm)
            title = "\n".join([names[i], *at_model(results, label)])
            figure.text((i + 0.04) / count, 1 - 0.06 / height, title, fontsize=8.5, va="top")
            _dress(ax, scale, wide=count == 1, small=count == MOST)
        bar_axes = figure.add_axes((0.3, (foot - 0.12) / height, 0.4, 0.1 / height))
        bar = figure.colorbar(mpl.cm.ScalarMappable(norm, SEQUENTIAL), cax=bar_axes, orientation="horizontal")
        bar.set_ticks(scale.ticks, labels=scale.labels)
        bar.ax.minorticks_off()
        bar.set_label(f"{scale.name}{', L(w + d) − L(w)' if shows_rise(results) else ''}")
        figure.text(0.5, 0.04 / height, "\n".join(notes), ha="center", va="bottom", fontsize=8, color=SOFT)
    return figure


def _surface(ax: Axes3D, result: PlaneSlice, label: str, values: Array, norm: mpl.colors.Normalize) -> None:
    if min(values.shape) < 2:
        raise ValueError(
            f"the plane of {label} has {len(result.x)} x {len(result.y)} points; a surface needs two along each axis"
        )
    across, up = np.argsort(result.x), np.argsort(result.y)
    x, y, z = result.x[across], result.y[up], values[np.ix_(up, across)]
    floor = norm.vmin - 0.35 * (norm.vmax - norm.vmin)  # type: ignore[operator]
    masked = np.ma.masked_invalid(z)
    if np.isfinite(z).any():
        levels = np.linspace(norm.vmin, norm.vmax, 13)  # type: ignore[arg-type]
        ax.contour(x, y, masked, levels=levels, zdir="z", offset=floor, cmap=SEQUENTIAL, norm=norm, linewidths=0.8)
    every = [slice(None, None, max(1, -(-len(axis) // _FINEST))) for axis in (y, x)]
    facets = _facets(x[every[1]], y[every[0]], z[every[0], every[1]])
    heights_of = facets[:, :, 2].mean(axis=1)
    shown = np.isfinite(heights_of) & (facets[:, :, 2].min(axis=1) < norm.vmax)
    colours = mpl.colormaps[SEQUENTIAL](norm(heights_of[shown]))
    ax.add_collection3d(
        Poly3DCollection(list(facets[shown]), facecolors=colours, edgecolors=(1, 1, 1, 0.45), linewidths=0.25)
    )
    if result.path is not None:
        ax.plot(*result.path.T, floor, "-o", color=INK, linewidth=1.0, markersize=1.8, zorder=0)
    ax.plot([0], [0], [floor], "+", color=MODEL, markersize=7, markeredgewidth=1.5)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(floor, norm.vmax))


def _facets(x: Array, y: Array, z: Array) -> Array:
    """The corners of each cell of a grid, ``(cells, 4, 3)``."""
    grid = np.stack([*np.meshgrid(x, y), z], axis=-1)  # (ny, nx, 3)
    corners = [grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]]
    return np.stack(corners, axis=2).reshape(-1, 4, 3)


def _dress(ax: Axes3D, scale: Vertical, *, wide: bool, small: bool) -> None:
    """Axes that say what they are without getting into the way of the surface."""
    size = 6.5 if small else 8
    ax.view_init(elev=28, azim=-55)
    ax.set_box_aspect((1, 1, 0.72), zoom=1.0 if wide else 0.86)
    ax.set_xlabel("first direction", fontsize=size, labelpad=-8 if small else -4)
    ax.set_ylabel("second direction", fontsize=size, labelpad=-8 if small else -4)
    settings: dict[str, Any] = {"labelsize": size - 0.5, "pad": -3 if small else -2}
    ax.tick_params(**settings)
    ax.zaxis.set_tick_params(pad=0 if small else 2)
    for set_ticks, (low, high) in ((ax.set_xticks, ax.get_xlim()), (ax.set_yticks, ax.get_ylim())):
        edge = 0.08 * (high - low)  # none at the corner, where two axes meet
        set_ticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low + edge <= tick <= high - edge])
    ax.set_zticks(scale.ticks, scale.labels)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
