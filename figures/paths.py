"""Pictures of the loss along paths between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import SOFT, legend, line_styles, new_figure, theme, wrapped
from landscape.answers import Barrier, PathLosses
from landscape.results import Array

_HOLLOW = 8  # circles on a curve of held-out data, about


def draw_paths(results: Mapping[str, PathLosses]) -> Figure:
    """Losses along paths over one another, and below them errors or scores; bars are the barriers.

    A barrier goes from the line between the ends, dotted, up to the highest point above it. Held-out data have thin
    lines with hollow circles and a band of one standard error. Crosses on the lower edge mark points where the loss is
    not finite.
    """
    scored = all(result.scores is not None for result in results.values())
    held_out = any(result.held_out_losses is not None for result in results.values())
    with theme():
        alone = len(results) == 1
        labels = [_label(label, result, alone=alone) for label, result in results.items()]
        names, lines = wrapped(labels, width=95)
        extra = 0 if alone else 0.17 * lines * len(results)
        figure, axes = new_figure(1 + scored, height=(3.3 if not scored else 2.2) + extra / (1 + scored))
        styles = line_styles(list(results))
        for name, (label, result) in zip(names, results.items(), strict=True):
            style = {key: styles[label][key] for key in ("color", "linestyle")}
            _draw(axes[0], result, "losses", "stderrs", result.barrier, style, name)
            if scored:
                _draw(axes[1], result, "scores", "score_stderrs", result.score_barrier, style, name, _shown(result))
        axes[0].set_ylabel("loss")
        if scored:
            score = next(iter(results.values())).score
            axes[1].set_ylabel("error (%)" if score == "accuracy" else score)
            axes[0].tick_params(labelbottom=False)
        if alone:
            (result,) = results.values()
            axes[0].set_title(names[0], fontsize=8.5)
        axes[-1].set_xlabel("t along the path, 0 at the first checkpoint and 1 at the second" + _key(results, held_out))
        legend(figure, axes[0], count=len(results))
    return figure


def _draw(
    ax: Axes,
    result: PathLosses,
    kind: str,
    errors: str,
    barrier: Barrier | None,
    style: Mapping[str, Any],
    name: str,
    shown: Callable[[Array], Array] = np.asarray,
) -> None:
    """One path: its curve, that of held-out data, the line between the ends, and the barrier."""
    t, values = result.t, shown(getattr(result, kind))
    lost = ~np.isfinite(values)
    ax.plot(t, np.where(lost, np.nan, values), label=name, **style)
    if lost.any():
        ax.plot(t[lost], np.full(lost.sum(), 0.02), "x", color=style["color"], transform=ax.get_xaxis_transform())
    others = getattr(result, f"held_out_{kind}")
    if others is not None:
        others, spread = shown(others), np.abs(shown(getattr(result, f"held_out_{errors}")) - shown(np.zeros(len(t))))
        places = [int(np.argmin(np.abs(t - place))) for place in np.linspace(0, 1, _HOLLOW)]
        if np.isfinite(spread).any():
            ax.fill_between(t, others - spread, others + spread, color=style["color"], alpha=0.13, linewidth=0)
        ax.plot(t, others, linewidth=0.8, marker="o", markersize=3.6, mfc="white", markevery=places, **style)
    ax.plot([0, 1], values[[0, -1]], color=SOFT, linestyle=(0, (1, 2)), linewidth=0.9, zorder=1)
    if barrier is not None and math.isfinite(barrier.height) and barrier.height > 0:
        chord = (1 - barrier.at) * values[0] + barrier.at * values[-1]
        top = values[t == barrier.at][0]
        ax.errorbar(
            barrier.at,
            (chord + top) / 2,
            yerr=abs(top - chord) / 2,
            fmt="none",
            ecolor=style["color"],
            elinewidth=0.9,
            capsize=3,
        )
    ax.set_xlim(-0.02, 1.02)


def _shown(result: PathLosses) -> Callable[[Array], Array]:
    """Accuracies are drawn as errors in percent, other scores as they are."""
    if result.score != "accuracy":
        return np.asarray
    return lambda scores: 100 * (1 - scores)


def _label(label: str, result: PathLosses, *, alone: bool) -> str:
    """What a path is, and its barriers."""
    held_out = result.held_out_barrier
    words = _words(result.barrier)
    if held_out is not None and math.isfinite(held_out.height):
        error = held_out.stderr
        spread = f" ± {error:.1g}" if error is not None and math.isfinite(error) else ""
        words += f" (held out {held_out.height:.3g}{spread})" if held_out.height > 0 else " (held out none)"
    both = alone and label not in ("", result.curve)
    return f"{label}, {result.curve}: {words}" if both else f"{label or result.curve}: {words}"


def _words(barrier: Barrier) -> str:
    if not math.isfinite(barrier.height):
        return f"barrier unknown, the loss is not finite at t = {barrier.at:.2g}"
    return f"barrier {barrier.height:.3g} at t = {barrier.at:.2g}" if barrier.height > 0 else "no barrier"


def _key(results: Mapping[str, PathLosses], held_out: bool) -> str:
    """What is drawn how."""
    split = {str(result.manifest.get("objective", {}).get("split", "")) for result in results.values()}
    data = f" ({split.pop()} data)" if len(split) == 1 and any(split) else ""
    bars = f"\nbars: barriers above the dotted line between the ends{data}"
    return bars + ("\nthin, with circles and a band: held-out data ± standard error" if held_out else "")
