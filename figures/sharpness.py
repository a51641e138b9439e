"""Pictures of sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.style import SOFT, line_styles, new_figure, theme, wrapped
from landscape.answers import Sharpness

_SMALL: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": SOFT, "mfc": "white", "markersize": 4.5}


def draw_sharpness(results: Mapping[str, Sharpness]) -> Figure:
    """The rise in loss of every shard, and the mean with its standard error; one row per result.

    A shard that has fewer examples than was asked for, as the last one may have, is hollow.
    """
    names, lines = wrapped(list(results))
    with theme():
        figure, (ax,) = new_figure(height=max(2.0, 1.2 + (0.28 + 0.14 * lines) * len(results)))
        styles = line_styles(list(results))
        for row, (label, result) in enumerate(results.items()):
            # Spread sideways by a fixed pattern, so that shards of like rise can be told apart.
            offset = 0.24 * np.sin(2.4 * np.arange(len(result.per_shard)))
            if not (np.isfinite(result.value) or np.isfinite(result.per_shard).any()):
                ax.text(0.02, row, "not finite", transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
                continue
            small = result.shard_sizes < result.microbatch_size
            ax.plot(result.per_shard[~small], row + offset[~small], ".", color=SOFT, alpha=0.55, markersize=5)
            ax.plot(result.per_shard[small], row + offset[small], **_SMALL)
            ax.errorbar(
                result.value,
                row,
                xerr=None if np.isnan(result.stderr) else result.stderr,
                color=styles[label]["color"],
                marker="D",
                markersize=6,
                capsize=4,
                linewidth=1.6,
                markeredgecolor="white",
                zorder=5,
            )
        sizes = {result.microbatch_size for result in results.values()}
        left = {int(n) for result in results.values() for n in result.shard_sizes if n < result.microbatch_size}
        if left:
            hollow = Line2D([], [], **_SMALL, label=f"smaller shard ({_listed(left)} examples)")
            figure.legend(handles=[hollow], loc="outside upper left")
        ax.set_yticks(range(len(results)), names)
        ax.set_ylim(len(results) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.set_xlabel(f"rise in loss per shard of {_listed(sizes)} examples\n(dots; diamonds: mean ± standard error)")
    return figure


def _listed(sizes: set[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
