"""One look for all figures: quiet, readable in grey, the same everywhere."""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.files import atomic_write

WIDTH = 7.0  # inches, the text width of a page
INK = "#1b1f24"
SOFT = "#57606a"
GRID = "#e3e7ec"
SEQUENTIAL = "viridis_r"
SCORES = "viridis"  # of what is better where it is higher
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "regular",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "msam-landscape",
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Draw in this project's style; matplotlib's own settings are put back at the end."""
    with sns.axes_style("ticks", rc={"axes.grid": True}), mpl.rc_context(_RC):
        yield


def new_figure(
    rows: int = 1, columns: int = 1, *, height: float = 3.2, share: bool = False, rows_alike: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width, and its axes in reading order.

    Args:
        rows: of axes.
        columns: of axes.
        height: of one row, in inches.
        share: whether all axes share both scales.
        rows_alike: whether all axes share the horizontal scale, and those of a row the vertical one.
    """
    figure = Figure(figsize=(WIDTH, height * rows))
    axes = figure.subplots(
        rows, columns, squeeze=False, sharex=share or rows_alike, sharey="row" if rows_alike else share
    )
    for ax in axes.flat:
        sns.despine(ax=ax)
    return figure, list(axes.flat)


def line_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker for each label: the first is the reference, in solid ink; the others go light to dark."""
    shades = mpl.colormaps[SEQUENTIAL](np.linspace(0.3, 1.0, max(1, len(labels) - 1)))
    colours = [INK, *(mpl.colors.to_hex(shade) for shade in shades)] if len(labels) > 1 else [INK]
    dashes = ["-", *(DASHES[i % len(DASHES)] for i in range(len(labels) - 1))]
    return {
        label: {"color": colours[i], "linestyle": dashes[i], "marker": MARKERS[i % len(MARKERS)]}
        for i, label in enumerate(labels)
    }


def wrapped(labels: Sequence[str], *, width: int = 30) -> tuple[list[str], int]:
    """Labels broken into lines, so that they leave room for what they name, and the most lines that one takes."""
    broken = [textwrap.fill(label, width) for label in labels]
    return broken, max(label.count("\n") + 1 for label in broken)


def legend(figure: Figure, ax: Axes, *, count: int) -> None:
    """One legend for the figure, above the axes, so that it covers no data; none for a single label."""
    if count > 1:
        legend_of(figure, *ax.get_legend_handles_labels())


def legend_of(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend of these, above the axes, for which a figure grows; none where there is nothing to tell."""
    if labels:
        names, lines = wrapped(labels, width=95)
        columns = max(1, min(len(names), int(100 / (max(map(len, names)) + 10))))
        rows = math.ceil(len(names) / columns) * lines
        figure.set_figheight(figure.get_figheight() + 0.15 * max(0, rows - 2))
        figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.6)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure, whole or not at all; the ending of the name decides the format.

    Raises:
        ValueError: if the ending is of no known format.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    content = render(figure, format_of(path))
    with atomic_write(path) as stream:
        stream.write(content)
    return path


def format_of(path: str | Path) -> str:
    """The format that the ending of a figure's name decides.

    Raises:
        ValueError: if it is none that is known.
    """
    known = sorted(Figure().canvas.get_supported_filetypes())
    found = Path(path).suffix.removeprefix(".").lower() or "png"
    if found not in known:
        raise ValueError(f"cannot write a figure as {found!r}; choose one of {', '.join(known)}")
    return found


def render(figure: Figure, format: str) -> bytes:  # noqa: A002
    """A figure as the bytes of a ``png``, ``svg`` or ``pdf`` file, the same for the same figure."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
    stream = io.BytesIO()
    with theme():
        _lay_out(figure)
        figure.savefig(stream, format=format, metadata=undated)
    return stream.getvalue()


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once and for all: each further layout would start from the last, and move things by a pixel."""
    for _ in range(2):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
