"""Pictures of spectra: eigenvalues with their residuals, densities, and the convergence of a trace."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from figures.style import legend, line_styles, new_figure, theme
from landscape.answers import Eigenpairs, SpectralDensity, TraceEstimate


def draw_eigenvalues(results: Mapping[str, Eigenpairs]) -> Figure:
    """Eigenvalues by rank; bars are residuals, hollow markers did not converge."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        for label, result in results.items():
            rank = np.arange(1, len(result.eigenvalues) + 1)
            style = styles[label]
            ax.errorbar(
                rank, result.eigenvalues, yerr=result.residuals, label=label, capsize=2.5, linewidth=1.0, **style
            )
            unsure = ~result.converged
            ax.plot(
                rank[unsure], result.eigenvalues[unsure], style["marker"], color=style["color"], mfc="white", zorder=5
            )
        late = not all(result.converged.all() for result in results.values())
        ax.set(
            xlabel="rank" + (" (hollow: not converged)" if late else ""),
            ylabel="Hessian eigenvalue λ\n(bars: residual ‖Hv − λv‖)",
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax, count=len(results))
    return figure


def draw_trace(results: Mapping[str, TraceEstimate]) -> Figure:
    """The running mean over probes, and the final estimate with two standard errors."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        for label, result in results.items():
            count = np.arange(1, len(result.samples) + 1)
            colour, dash = styles[label]["color"], styles[label]["linestyle"]
            ax.plot(count, np.cumsum(result.samples) / count, color=colour, linestyle=dash, label=label)
            ax.fill_between(
                count,
                result.estimate - 2 * result.stderr,
                result.estimate + 2 * result.stderr,
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        ax.set(xlabel="probes", ylabel="Hessian trace, mean so far\n(band: final ± 2 standard errors)")
        legend(figure, ax, count=len(results))
    return figure


def draw_density(results: Mapping[str, SpectralDensity]) -> Figure:
    """Spectral densities on a log scale, one above the other on one range; bands are the lowest and highest probe."""
    with theme():
        used = np.concatenate([result.nodes[result.weights > 0] for result in results.values()])
        low, high = float(used.min()), float(used.max())
        width = max(0.005 * (high - low), 1e-12)
        at = np.linspace(low - 4 * width, high + 4 * width, 1500)
        # A single eigenvalue of the network peaks at 1/dim times the peak of the kernel; show a tenth of that.
        floor = 0.1 / max(result.dim for result in results.values()) / (width * np.sqrt(2 * np.pi))
        figure, axes = new_figure(len(results), height=2.6 if len(results) == 1 else 0.9, share=True)
        styles = line_styles(list(results))
        for ax, (label, result) in zip(axes, results.items(), strict=True):
            densities = result.density(at, width=width)
            colour = styles[label]["color"]
            lower, mean = densities.min(axis=0).clip(floor), densities.mean(axis=0).clip(floor)
            ax.fill_between(at, lower, densities.max(axis=0).clip(floor), color=colour, alpha=0.25, lw=0)
            ax.plot(at, mean, color=colour, linewidth=1.0)
            if len(results) > 1:
                ax.text(0.995, 0.9, label, transform=ax.transAxes, ha="right", va="top", fontsize=8.5)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(numticks=4))
        axes[0].set_ylim(bottom=floor)
        axes[-1].set_xlabel(f"Hessian eigenvalue λ (smoothed by a Gaussian kernel of width {width:.2g})")
        figure.supylabel("spectral density", fontsize=9)
    return figure
