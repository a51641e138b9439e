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
    limits = _distinct_thresholds(results)
    with theme():
        highest = max(float((result.largest_eigenvalues + result.residuals).max()) for result in results.values())
        lowest = min(float((result.largest_eigenvalues - result.residuals).min()) for result in results.values())
        seen = {label: _least(result) <= NEAR * highest for label, result in limits.items()}
        words = {
            label: result.threshold + ("" if seen[label] else f" (above this picture, from {_least(result):.3g} on)")
            for label, result in limits.items()
        }
        wrapped_words = wrapped(list(words.values()), width=100)[0] if words else []
        lines = sum(text.count("\n") + 1 for text in wrapped_words) + (len(results) if wrapped_words else 1)
        figure, (ax,) = new_figure(height=3.0 + 0.17 * lines)
        styles = line_styles(list(results))
        for label, result in results.items():
            style, epochs, values = styles[label], result.epochs, result.largest_eigenvalues
            ax.plot(epochs, values, label=label if len(results) > 1 else "largest eigenvalue", linewidth=1.2, **style)
            ax.errorbar(epochs, values, yerr=result.residuals, fmt="none", ecolor=style["color"], capsize=2.5)
            unsure = ~result.converged
            ax.plot(
                epochs[unsure], values[unsure], style["marker"], color=style["color"], mfc="white", zorder=5, ls="none"
            )
        for (label, result), text in zip(limits.items(), wrapped_words, strict=True):
            known = np.isfinite(result.thresholds) if seen[label] else np.zeros(len(result.epochs), dtype=bool)
            colour = SOFT if len(results) == 1 else styles[label]["color"]
            at, limit = result.epochs[known], result.thresholds[known]
            ax.plot(at, limit, color=colour, linestyle=(0, (1, 1.5)), linewidth=1.4, label=text)
        top = max([highest, *(1.05 * _least(result) for label, result in limits.items() if seen[label])])
        bottom = min(0.0, lowest)
        margin = 0.06 * (top - bottom) or 1.0
        ax.set_ylim(bottom - (margin if bottom < 0 else 0), top + margin)
        late = not all(result.converged.all() for result in results.values())
        ax.set(
            xlabel="epochs trained" + (" (hollow: not converged)" if late else ""),
            ylabel="largest Hessian eigenvalue λ₁\n(bars: residual ‖Hv − λ₁v‖)",
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax, count=len(results) + len(limits))
    return figure


def _least(result: CurvatureInTraining) -> float:
    return float(result.thresholds[np.isfinite(result.thresholds)].min())


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
