"""Pictures of spectra: eigenvalues with residuals, densities, diagonals, the convergence of traces and norms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from figures.style import legend, line_styles, new_figure, theme
from landscape.answers import DiagonalEstimate, Eigenpairs, NormEstimate, SpectralDensity, TraceEstimate

LINEAR = 10  # widths of the kernel, around zero, that are drawn to a linear scale


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
        _whole_numbers(ax, max(len(result.eigenvalues) for result in results.values()))
        legend(figure, ax, count=len(results))
    return figure


def _whole_numbers(ax: Axes, most: int) -> None:
    """Let the horizontal axis count from one to ``most``, even where that is one."""
    ax.set_xlim(1 - 0.05 * most, most + 0.05 * most)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def draw_trace(results: Mapping[str, TraceEstimate]) -> Figure:
    """The running mean over samples, and the final estimate with two standard errors."""
    bands = {label: (result.estimate, result.stderr) for label, result in results.items()}
    return _running_means(results, bands, "Hessian trace")


def draw_norm(results: Mapping[str, NormEstimate]) -> Figure:
    """The running mean of the square of the norm, and its final estimate with two standard errors."""
    bands = {label: (r.estimate**2, 2 * r.estimate * r.stderr) for label, r in results.items()}
    return _running_means(results, bands, "‖H‖² (Frobenius)")


def _running_means(
    results: Mapping[str, TraceEstimate] | Mapping[str, NormEstimate],
    bands: Mapping[str, tuple[float, float]],
    quantity: str,
) -> Figure:
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        for label, result in results.items():
            count = np.arange(1, len(result.samples) + 1)
            colour, dash = styles[label]["color"], styles[label]["linestyle"]
            ax.plot(count, np.cumsum(result.samples) / count, color=colour, linestyle=dash, label=label)
            middle, error = bands[label]
            ax.fill_between(count, middle - 2 * error, middle + 2 * error, color=colour, alpha=0.15, linewidth=0)
        ax.set(xlabel="probes", ylabel=f"{quantity}, mean so far\n(band: final ± 2 standard errors)")
        _whole_numbers(ax, max(len(result.samples) for result in results.values()))
        legend(figure, ax, count=len(results))
    return figure


def draw_diagonal(results: Mapping[str, DiagonalEstimate]) -> Figure:
    """The entries of the diagonal in descending order; bands are two standard errors."""
    with theme():
        figure, (ax,) = new_figure()
        styles = line_styles(list(results))
        for label, result in results.items():
            order = np.argsort(-result.estimates)
            share = np.arange(len(order)) / max(1, len(order) - 1)
            middle, error = result.estimates[order], result.stderrs[order]
            colour, dash = styles[label]["color"], styles[label]["linestyle"]
            ax.plot(share, middle, color=colour, linestyle=dash, label=label)
            ax.fill_between(share, middle - 2 * error, middle + 2 * error, color=colour, alpha=0.15, linewidth=0)
        ax.set(
            xlabel="share of the weights, largest first",
            ylabel="diagonal entry of the Hessian\n(band: ± 2 standard errors)",
        )
        legend(figure, ax, count=len(results))
    return figure


def draw_density(results: Mapping[str, SpectralDensity]) -> Figure:
    """Spectral densities on a log scale, one above the other on one range, with bootstrap bands over the probes.

    The axis of the eigenvalues is logarithmic on both sides of a linear range around zero, so that the bulk and the
    outliers have room. Eigenvalues that are known one by one are stems with a dot at the height of their kernel.
    """
    with theme():
        width = max(result.kernel_width for result in results.values())
        single = {label: 1 / (result.dim * width * np.sqrt(2 * np.pi)) for label, result in results.items()}
        floor = 0.1 * min(single.values())  # below the peak of a single eigenvalue
        alone = len(results) == 1
        figure, axes = new_figure(len(results), height=3.0 if alone else 1.15, share=True)
        styles = line_styles(list(results))
        for ax, (label, result) in zip(axes, results.items(), strict=True):
            colour = styles[label]["color"]
            band = result.density_band(result.grid(width=width), width=width)
            low, mean, high = (curve.clip(floor) for curve in (band.low, band.mean, band.high))
            if np.isfinite(low).all():
                ax.fill_between(band.at, low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(band.at, mean, color=colour, linewidth=1.0)
            peaks = np.full(len(result.outliers), single[label])
            ax.vlines(result.outliers, floor, peaks, color=colour, linewidth=0.8)
            ax.plot(result.outliers, peaks, "o", color=colour, markersize=3.5)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(numticks=4))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.text(
                0.995,
                0.97,
                _words(label, result, width, alone),
                transform=ax.transAxes,
                ha="right",
                va="top",
                fontsize=8,
            )
        top = max(float(np.max(ax.lines[0].get_ydata())) for ax in axes)
        axes[0].set_ylim(floor, top * (top / floor) ** (0.12 if alone else 0.35))
        ends = np.concatenate([ax.lines[0].get_xdata() for ax in axes])
        _logarithmic_both_ways(axes[0], float(ends.min()), float(ends.max()), LINEAR * width)
        bands = "; bands: 95 % over probes" if all(len(r.nodes) > 1 for r in results.values()) else ""
        dots = "; dots: eigenvalues found one by one" if any(len(r.outliers) for r in results.values()) else ""
        axes[-1].set_xlabel(
            f"Hessian eigenvalue λ (linear within ±{LINEAR * width:.2g}, logarithmic beyond)\n"
            f"Gaussian kernel of width {width:.2g}{bands}{dots}"
        )
        figure.supylabel("spectral density", fontsize=9)
    return figure


def _logarithmic_both_ways(ax: Axes, low: float, high: float, linear: float) -> None:
    """An axis from ``low`` to ``high`` that is linear around zero, with ticks that have room."""
    room = 1.15
    low, high = (end * room if abs(end) > linear else end for end in (low, high))
    ax.set_xscale("symlog", linthresh=linear, linscale=0.5)
    ax.set_xlim(low, high)
    first = int(np.ceil(np.log10(linear)))
    last = int(np.floor(np.log10(max(abs(low), abs(high), linear))))
    step = 1 + max(0, last - first) // 5
    sides = [sign * 10.0**power for power in range(first, last + 1, step) for sign in (-1, 1)]
    ticks = [tick for tick in (0.0, *sides) if low <= tick <= high]
    if len(ticks) < 2:  # all of it in the linear range, or between two powers of ten
        ticks = list(MaxNLocator(4).tick_values(low, high))
    ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    ax.xaxis.set_minor_locator(NullLocator())


def _words(label: str, result: SpectralDensity, width: float, alone: bool) -> str:
    """What stands in a panel: whose it is, and how much of it lies at zero."""
    mass, error = (100 * part for part in result.mass_at_zero(width))
    digits = min(4, -math.floor(math.log10(error))) if 0 < error < 0.05 else 1  # one of the error at least
    uncertain = f" ± {error:.{digits}f}" if np.isfinite(error) else ""
    share = f"{mass:.{digits}f}{uncertain} % of the eigenvalues within {width:.2g} of zero"
    return share if alone else f"{label}\n{share}"
