"""Pictures of the loss over planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from figures.heights import (
    at_model,
    finite_of,
    heights,
    interpolated,
    linear_scale,
    loss_scale,
    root_scale,
    shows_rise,
    splits,
    told_apart,
)
from figures.style import INK, MARKERS, SCORES, SEQUENTIAL, legend_of, new_figure, theme, wrapped
from landscape.answers import PlaneSlice
from landscape.results import Array

MODEL = "#d01c1c"
MOST_WITH_ALL = 3  # results beside one another of which held-out losses and scores are drawn, too
_HALO = [withStroke(linewidth=2.2, foreground="white")]


@dataclass(frozen=True)
class _Panel:
    title: str
    result: PlaneSlice
    values: Array
    scores: bool = False


def draw_planes(results: Mapping[str, PlaneSlice]) -> Figure:
    """Contours of the loss on one colour scale; hatched where the loss is not finite; a cross marks the model.

    Finite points among others that are not, which no contour reaches, are dots in the colour of their height.

    Of several planes the rise L(w + d) − L(w) is drawn, where ``shows_rise`` says so; each title has its L(w). Of up to
    three, held-out losses and scores have panels of their own, where all have them. The path of a training is a line
    with a dot for each checkpoint, and other marked places are in the legend.
    """
    rows = _rows(results)
    columns = max(map(len, rows))
    panels = [panel for row in rows for panel in row]
    height = _height(columns, panels)
    titles = sum(max(panel.title.count("\n") for panel in row) + 1 for row in rows)
    with theme():
        # A row of panels with its ticks, the titles, and the labels below.
        whole = height * len(rows) + 0.14 * titles + 0.45 + 0.1 * (len(rows) == 1)
        figure, grid = new_figure(len(rows), columns, height=whole / len(rows), share=_on_one_grid(results))
        figure.set_layout_engine("compressed")  # the axes are square: no wide gaps between them
        axes = [grid[i * columns + j] for i, row in enumerate(rows) for j in range(len(row))]
        for scores in (False, True):
            chosen = [(ax, panel) for ax, panel in zip(axes, panels, strict=True) if panel.scores is scores]
            if chosen:
                _filled(figure, chosen, results, ticks=(8, 5, 4)[columns - 1], low=height * len(chosen) / columns < 1.6)
        for ax in grid:
            if ax not in axes:
                ax.set_visible(False)
        entries = _drawn_upon(axes, panels)
        if interpolated(results):
            figure.supxlabel(f"along the first direction\n{interpolated(results)}", fontsize=9)
        else:
            figure.supxlabel("along the first direction", fontsize=9)
        figure.supylabel("along the second direction", fontsize=9)
        legend_of(figure, list(entries.values()), list(entries))
    return figure


def _height(columns: int, panels: Sequence[_Panel]) -> float:
    """Inches that a row of panels takes: less than a square where all planes are wide."""
    highest = max(float(np.ptp(panel.result.y) / np.ptp(panel.result.x)) for panel in panels if len(panel.result.x) > 1)
    square, wide = ((4.1, 5.4), (2.4, 2.5), (1.7, 1.75))[columns - 1]
    return min(square, wide * highest + 0.4) if highest >= 0.25 else square


def _on_one_grid(results: Mapping[str, PlaneSlice]) -> bool:
    """Whether all planes have the same ends; else each has its own, as hatches mean losses that are not finite."""
    ends = [(r.x.min(), r.x.max(), r.y.min(), r.y.max()) for r in results.values()]
    return bool(np.allclose(ends, ends[0], rtol=1e-9, atol=0.0))


def _rows(results: Mapping[str, PlaneSlice]) -> list[list[_Panel]]:
    """What is drawn, row by row."""
    train, test = splits(results)
    rises, others = heights(results), heights(results, held_out=True)
    if len(results) > MOST_WITH_ALL:
        return _in_rows([_panel(label, results[label], rises[label], 3, at_model(results, label)) for label in results])
    scores = {label: result.scores for label, result in results.items() if result.scores is not None}
    held = {label: result.held_out_scores for label, result in results.items() if result.held_out_scores is not None}
    others, scores, held = (found if len(found) == len(results) else {} for found in (others, scores, held))
    several = bool(others or scores)
    kinds = [(rises, train, False), (others, test, False), (scores, train, True), (held, test, True)]
    rows: list[list[_Panel]] = []
    columns = len(results) if len(results) > 1 else 2 if several else 1
    for values, split, scored in kinds:
        word = results[next(iter(values))].score if scored and values else "loss"
        what = (f"{word} on {split}" if others or held else word) if several else ""
        row = []
        for label, height in values.items():
            own = [] if scored else at_model(results, label, held_out=values is others)
            row.append(_panel(label, results[label], height, columns, [what, *own], first=not rows, scores=scored))
        rows += [row] if row else []
    if len(results) == 1 and several:  # one result: data beside held-out data
        return _in_pairs([row[0] for row in rows])
    return rows


def _in_rows(panels: list[_Panel]) -> list[list[_Panel]]:
    columns = min(3, len(panels))
    return [panels[i : i + columns] for i in range(0, len(panels), columns)]


def _in_pairs(panels: list[_Panel]) -> list[list[_Panel]]:
    """Losses in one row and scores in the other; both in one where there is a single one of each."""
    if len(panels) == 2:
        return [panels]
    return [[p for p in panels if not p.scores], [p for p in panels if p.scores]]


def _panel(
    label: str,
    result: PlaneSlice,
    values: Array,
    columns: int,
    words: Sequence[str],
    *,
    first: bool = True,
    scores: bool = False,
) -> _Panel:
    """A panel with its title: in the first row the label, and what is shown of a path."""
    if min(values.shape) < 2:
        raise ValueError(
            f"the plane of {label} has {len(result.x)} x {len(result.y)} points; contours need two along each axis"
        )
    parts = [label, *_of_path(result, columns), *words] if first else words
    broken, _ = wrapped([part for part in parts if part], width=(60, 34, 26)[min(columns, 3) - 1])
    return _Panel("\n".join(broken), result, values, scores)


def _of_path(result: PlaneSlice, columns: int) -> list[str]:
    """How much of a path its plane shows."""
    words = []
    if result.path is not None and result.explained is not None:
        shares = result.explained if columns < 3 else result.explained.sum(keepdims=True)
        words.append(f"path: {' + '.join(f'{100 * share:.1f} %' for share in shares.tolist())} of variance")
    if result.path is not None and result.path_distances is not None:
        words.append(f"at most {float(result.path_distances.max()):.2g} out of plane")
    return words


def _filled(
    figure: Figure, chosen: Sequence[tuple[Axes, _Panel]], results: Mapping[str, PlaneSlice], *, ticks: int, low: bool
) -> None:
    """Contours of one quantity on one scale, with its bar, which may be low; each axis has that many ticks at most."""
    scores = chosen[0][1].scores
    finite = finite_of(panel.values for _, panel in chosen)
    rise = shows_rise(results) and not scores
    if scores:
        levels, norm, scale = linear_scale(finite)
        words = ", ".join(dict.fromkeys(panel.result.score for _, panel in chosen))
    else:
        levels, norm, scale = root_scale(finite) if rise else loss_scale(finite)
        between = "\n" if low else ", "
        words = f"rise in loss{between}L(w + d) − L(w)" if rise else "loss"
    image = None
    for ax, panel in chosen:
        x, y, values = _grid(panel.result, panel.values)
        ax.set_facecolor("white")
        ax.patch.set(hatch="xxx", edgecolor="#b8bec6")
        image = ax.contourf(x, y, values, levels=levels, norm=norm, cmap=SCORES if scores else SEQUENTIAL)
        ax.contour(x, y, values, levels=levels, norm=norm, colors="white", linewidths=0.4)
        rows, columns = np.nonzero(_alone(~np.ma.getmaskarray(values)))
        if len(rows):
            dots: dict[str, Any] = {"c": values[rows, columns], "cmap": image.cmap, "norm": norm}
            ax.scatter(x[columns], y[rows], s=14, edgecolors=INK, linewidths=0.5, zorder=2.5, clip_on=False, **dots)
        ax.set_title(panel.title, fontsize=8.5)
        ax.set_aspect("equal" if 0.25 <= np.ptp(x) / np.ptp(y) <= 4 else "auto")
        ax.grid(visible=False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    if image is not None:
        bar = figure.colorbar(image, ax=[ax for ax, _ in chosen], shrink=0.9, pad=0.02)
        bar.set_label(words + scale)
        bar.set_ticks(list(levels[::4]), labels=told_apart(levels[::4]))
        bar.ax.minorticks_off()


def _alone(finite: Array) -> Array:
    """Which finite points are a corner of no cell with three such corners, which is what contours fill."""
    corners = [(slice(None, -1), slice(None, -1)), (slice(None, -1), slice(1, None))]
    corners += [(slice(1, None), slice(None, -1)), (slice(1, None), slice(1, None))]
    filled = np.sum([finite[corner] for corner in corners], axis=0) >= 3
    found = finite.copy()
    for corner in corners:
        found[corner] &= ~filled
    return found


def _drawn_upon(axes: Sequence[Axes], panels: Sequence[_Panel]) -> dict[str, Line2D]:
    """The model, marked places and paths; returns what the legend has of them."""
    entries: dict[str, Line2D] = {}
    styles: dict[str, dict[str, Any]] = {}
    for ax, panel in zip(axes, panels, strict=True):
        result = panel.result
        if result.path is not None:
            entries |= _path(ax, result.path)
        if result.marks is not None and result.mark_names is not None:
            for (x, y), name in zip(result.marks.tolist(), result.mark_names.tolist(), strict=True):
                style = styles.setdefault(name, {"marker": MARKERS[(1 + len(styles)) % len(MARKERS)]})
                (entries[name],) = ax.plot(
                    x, y, ls="none", mfc="white", mec=INK, mew=1.2, ms=6.5, clip_on=False, zorder=4, **style
                )
        (cross,) = ax.plot(0, 0, "+", color=MODEL, markersize=8, markeredgewidth=1.6, path_effects=_HALO, zorder=5)
        if entries:
            entries.setdefault("the model, w", cross)
    return entries


def _path(ax: Axes, path: Array) -> dict[str, Line2D]:
    """A line with a dot for each checkpoint, a ring where it starts and a square where it ends."""
    (line,) = ax.plot(*path.T, "-o", color=INK, linewidth=1.1, markersize=2.2, path_effects=_HALO, zorder=3)
    ring: dict[str, Any] = {"ls": "none", "color": INK, "mec": INK, "mew": 1.2, "zorder": 3.5}
    (start,) = ax.plot(*path[0], "o", mfc="white", ms=6, **ring)
    (end,) = ax.plot(*path[-1], "s", mfc=INK, ms=5, **ring)
    return {"path of training": line, "start": start, "end": end}


def _grid(result: PlaneSlice, height: Array) -> tuple[Array, Array, Array]:
    """Coordinates in ascending order, and the heights there, masked where they are not finite."""
    across, up = np.argsort(result.x), np.argsort(result.y)
    return result.x[across], result.y[up], np.ma.masked_invalid(height[np.ix_(up, across)])
