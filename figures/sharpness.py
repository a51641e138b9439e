"""Pictures of sharpness."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from figures.style import SOFT, line_styles, new_figure, theme, wrapped
from landscape.answers import Sharpness


def draw_sharpness(results: Mapping[str, Sharpness]) -> Figure:
    """The rise in loss of every shard, and the mean with its standard error; one row per result."""
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
            ax.plot(result.per_shard, row + offset, ".", color=SOFT, alpha=0.55, markersize=5)
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
        sizes = sorted({result.microbatch_size for result in results.values()})
        ax.set_yticks(range(len(results)), names)
        ax.set_ylim(len(results) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
        ax.set_xlabel(
            f"rise in loss per shard of {', '.join(map(str, sizes))} examples\n(dots; diamonds: mean ± standard error)"
        )
    return figure
