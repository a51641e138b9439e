"""Pictures of the rescaling audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from figures.style import INK, SOFT, line_styles, new_figure, theme, wrapped
from landscape.answers import Audit

_MOST_TICKS = 7


def draw_audit(results: Mapping[str, Audit]) -> Figure:
    """The factor by which each rescaling changes each measure, on a logarithmic axis; one panel per result.

    A filled marker has moved, a hollow one may have, and an invariant measure has all its markers on the line at 1.
    Bars are the uncertainty of the change. What has no factor, for it changes its sign or was zero, is named.
    """
    seen = {label for result in results.values() for label in result.labels}
    others = sorted(seen.difference(Audit.known))
    styles = line_styles(["", *Audit.known, *others])  # one for each kind everywhere; the first is the model as it is
    shown = [label for label in (*Audit.known, *others) if label in seen]
    most = max(len(result.measures) for result in results.values())
    alone = len(results) == 1
    with theme():
        figure, axes = new_figure(len(results), height=max(1.8, 1.1 + 0.42 * most), share=False)
        reach = _reach(results.values())
        for ax, (label, result) in zip(axes, results.items(), strict=True):
            names, _ = wrapped(result.measures.tolist())
            ax.set_xscale("log")
            ax.axvline(1.0, color=INK, linewidth=1.0, zorder=1)
            _markers(ax, result, shown, styles)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_xlim(1 / reach, reach)
            _powers_of_two(ax, reach)
            ax.grid(visible=False, axis="y")
            if not alone:
                ax.set_title("\n".join(wrapped([label], width=70)[0]))
            if not len(result.rescalings):
                words = "no rescaling was found that leaves the function as it is"
                ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", fontsize=8.5, color=SOFT)
        unsure = any((result.verdicts == "unknown").any() for result in results.values())
        hollow = "; hollow: within three of them" if unsure else ""
        axes[-1].set_xlabel(
            f"measure after rescaling / before\n(1: invariant; bars: uncertainty of the change{hollow})"
        )
        handles = [
            Line2D([], [], linestyle="none", markersize=5.5, label=label, **_look(styles[label])) for label in shown
        ]
        if handles:
            columns = max(1, min(len(shown), int(100 / (max(map(len, shown)) + 5))))
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, handletextpad=0.3)
    return figure


def _markers(ax: Axes, result: Audit, shown: list[str], styles: dict[str, dict[str, Any]]) -> None:
    """All factors of one result, those of one measure a little below one another."""
    ratios, verdicts = result.ratios, result.verdicts
    for j, label in enumerate(result.labels):
        shift = 0.6 * ((shown.index(label) + 0.5) / len(shown) - 0.5)
        for i in range(len(result.measures)):
            ratio, place, look = float(ratios[i, j]), i + shift, _look(styles[label])
            if not (np.isfinite(ratio) and ratio > 0):
                words = "changes its sign" if ratio < 0 else "no factor"
                ax.text(1.02, place, f"{label}: {words}", va="center", fontsize=7, color=look["color"])
                continue
            error = float(result.change_stderrs[i, j] / abs(result.before[i]))
            if verdicts[i, j] != "invariant" and np.isfinite(error):
                ends = [max(ratio - error, ratio * 1e-3), ratio + error]
                ax.plot(ends, [place, place], color=look["color"], linewidth=1.0, zorder=3)
            inside = "white" if verdicts[i, j] == "unknown" else look["color"]
            ax.plot(ratio, place, linestyle="none", markersize=5.5, zorder=4, markerfacecolor=inside, **look)


def _look(style: dict[str, Any]) -> dict[str, Any]:
    return {"color": style["color"], "marker": style["marker"]}


def _reach(results: Iterable[Audit]) -> float:
    """How far the axis goes on either side of 1: to the largest factor, and to 2 at least."""
    found = [np.abs(np.log(r.ratios[np.isfinite(r.ratios) & (r.ratios > 0)])) for r in results]
    return float(1.25 * np.exp(max([np.log(2.0), *(float(logs.max(initial=0)) for logs in found)])))


def _powers_of_two(ax: Axes, reach: float) -> None:
    last = int(np.log2(reach))
    step = 1 + 2 * last // _MOST_TICKS
    powers = range(-(last // step) * step, last + 1, step)
    ax.set_xticks([2.0**power for power in powers], [f"{2.0**power:.4g}" for power in powers])
    ax.xaxis.set_minor_locator(NullLocator())
