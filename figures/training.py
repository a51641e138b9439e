"""Pictures of what happens to the curvature along training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.results import CurvatureInTraining
from figures.style import SOFT, legend, line_styles, new_figure, theme, wrapped

NEAR = 4.0  # thresholds up to so many times the largest eigenvalue are within the picture


def draw_training(results: Mapping[str, CurvatureInTraining]) -> Figure:
    """The largest eigenvalue over epochs with its residual, hollow where it did not converge; thresholds are dotted."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        highest = max(float((result.largest_eigenvalues + result.residuals).max()) for result in results.values())
        lowest = min(float((result.largest_eigenvalues - result.residuals).min()) for result in results.values())
        top = highest
        for label, result in results.items():
            style = styles[label]
            ax.errorbar(
                result.epochs,
                result.largest_eigenvalues,
                yerr=result.residuals,
                label=label if len(results) > 1 else "λ₁",
                capsize=2.5,
                linewidth=1.2,
                **style,
            )
            unsure = ~result.converged
            ax.plot(
                result.epochs[unsure],
                result.largest_eigenvalues[unsure],
                style["marker"],
                color=style["color"],
                mfc="white",
                zorder=5,
            )
        for label, result in _distinct_thresholds(results).items():
            known = np.isfinite(result.thresholds)
            least = float(result.thresholds[known].min())
            if least <= NEAR * highest:
                top = max(top, 1.05 * least)
                where = ""
            else:
                where = f", from {least:.3g} up, is above this picture"
            ax.plot(
                result.epochs[known],
                result.thresholds[known],
                color=SOFT if len(results) == 1 else styles[label]["color"],
                linestyle=(0, (1, 1.5)),
                linewidth=1.4,
                label=wrapped([f"{result.threshold}{where}"], width=100)[0][0],
            )
        margin = 0.06 * (top - min(0.0, lowest))
        ax.set_ylim(min(0.0, lowest) - (margin if lowest < 0 else 0), top + margin)
        late = not all(result.converged.all() for result in results.values())
        ax.set(
            xlabel="epochs trained" + (" (hollow: not converged)" if late else ""),
            ylabel="largest Hessian eigenvalue λ₁\n(bars: residual ‖Hv − λ₁v‖)",
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax, count=len(ax.get_legend_handles_labels()[1]))
    return figure


def _distinct_thresholds(results: Mapping[str, CurvatureInTraining]) -> dict[str, CurvatureInTraining]:
    """The runs with a threshold, of those with the same one the first."""
    found: dict[str, CurvatureInTraining] = {}
    for label, result in results.items():
        same = any(
            np.array_equal(result.thresholds, other.thresholds) and np.array_equal(result.epochs, other.epochs)
            for other in found.values()
        )
        if result.has_threshold and not same:
            found[label] = result
    return found
