"""Answers about the shape of a spectrum. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


class Band(NamedTuple):
    """A curve with the range that chance in the probes leaves it; NaN for a single probe."""

    at: Array
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(Result):
    """Gaussian quadrature of the spectrum: each probe's nodes and weights, and eigenvalues that are known one by one.

    Attributes:
        nodes: ``(num_probes, num_steps)``, Ritz values.
        weights: ``(num_probes, num_steps)``; each row sums to one less the share of the outliers. Where a probe ended
            early its weights are zero.
        dim: dimension of the operator; an average eigenvalue count is ``dim`` times a weight.
        outliers: ``(k,)``, eigenvalues that were found separately, each with the weight 1/dim.
        width: standard deviation of the smoothing kernel, and the distance from zero that is told from zero, in units
            of the eigenvalues; None in files of older versions, for 0.5 % of the range of the nodes.
        stopped: ``"budget"`` if all probes were run, ``"time"`` if not.
    """

    nodes: Array
    weights: Array
    dim: int
    outliers: Array = field(default_factory=lambda: np.empty(0))
    width: float | None = None
    stopped: str = "budget"

    title: ClassVar[str] = "spectral density"

    @property
    def kernel_width(self) -> float:
        """The width of the kernel where none is given."""
        if self.width is not None:
            return self.width
        used = self.nodes[self.weights > 0]
        spread, largest = float(used.max() - used.min()), float(np.abs([used[0], *self.outliers]).max())
        return 0.005 * (spread if spread > 1e-9 * largest else largest) or 1e-12  # the latter where all are zero

    def density(self, at: Array, *, width: float | None = None) -> Array:
        """The density per unit eigenvalue of each probe, smoothed by a Gaussian kernel.

        Args:
            at: eigenvalues at which to evaluate, ``(n,)``.
            width: standard deviation of the kernel, in units of the eigenvalues; that of the result when left out.

        Returns:
            An array, ``(num_probes, n)``; each row integrates to one.

        Raises:
            ValueError: if the width is not positive.
        """
        width = self._positive(width)
        bulk = np.stack([_kernel(at, row, width) @ w for row, w in zip(self.nodes, self.weights, strict=True)])
        smoothed: Array = bulk + _kernel(at, self.outliers, width).sum(axis=1) / self.dim
        return smoothed

    def cumulative(self, at: Array) -> Array:
        """The share of eigenvalues that are at most ``at``, for each probe: ``(num_probes, n)``, steps from 0 to 1."""
        below = np.stack([(row <= at[:, None]) @ w for row, w in zip(self.nodes, self.weights, strict=True)])
        share: Array = below + (self.outliers <= at[:, None]).sum(axis=1) / self.dim
        return share

    def density_band(self, at: Array, *, width: float | None = None, level: float = 0.95, seed: int = 0) -> Band:
        """The mean density over the probes and its bootstrap band: percentiles over 1,000 resamples of the probes.

        Few probes make it too narrow: with ten of them a band of 95 % covers about nine times in ten.

        Args:
            at: see :meth:`density`.
            width: see :meth:`density`.
            level: of the band, at each point.
            seed: of the resamples.
        """
        return _bootstrap(at, self.density(at, width=width), level, seed)

    def cumulative_band(self, at: Array, *, level: float = 0.95, seed: int = 0) -> Band:
        """The mean of :meth:`cumulative` over the probes and its bootstrap band, as in :meth:`density_band`."""
        return _bootstrap(at, self.cumulative(at), level, seed)

    def grid(self, *, points: int = 1200, width: float | None = None) -> Array:
        """Eigenvalues at which a curve of the density shows all it has: over the nodes, and closely around outliers."""
        width = self._positive(width)
        used = self.nodes[self.weights > 0]
        ends = np.concatenate([used, self.outliers])
        around = (np.linspace(-4, 4, 33) * width + self.outliers[:, None]).ravel()
        over = np.linspace(used.min() - 4 * width, used.max() + 4 * width, points)
        wide = np.linspace(ends.min() - 4 * width, ends.max() + 4 * width, points)
        found: Array = np.unique(np.concatenate([over, wide, around]))
        return found

    def mass_at_zero(self, resolution: float | None = None) -> tuple[float, float]:
        """The share of eigenvalues within ``resolution`` of zero, and its standard error over the probes.

        Args:
            resolution: in units of the eigenvalues; the width of the kernel when left out.
        """
        reach = self._positive(resolution)
        shares = (self.weights * (np.abs(self.nodes) <= reach)).sum(axis=1)
        shares = shares + (np.abs(self.outliers) <= reach).sum() / self.dim
        return float(shares.mean()), _stderr(shares)

    def summary(self) -> dict[str, Any]:
        """Range of the nodes, the mean eigenvalue and the mass at zero with their standard errors over probes."""
        means = (self.nodes * self.weights).sum(axis=1) + self.outliers.sum() / self.dim
        used = np.concatenate([self.nodes[self.weights > 0], self.outliers])
        mass, error = self.mass_at_zero()
        return {
            "smallest_node": float(used.min()),
            "largest_node": float(used.max()),
            "mean_eigenvalue": float(means.mean()),
            "stderr": _stderr(means),
            "mass_at_zero": mass,
            "mass_at_zero_stderr": error,
            "kernel_width": self.kernel_width,
            "num_probes": len(self.nodes),
            "num_outliers": len(self.outliers),
        }

    def lines(self) -> list[Line]:
        """The mean eigenvalue with its standard error, the range of the nodes, and the mass at zero."""
        found = self.summary()
        late = ", out of time" if self.stopped == "time" else ""
        remark = f"standard error over {found['num_probes']} probes{late}"
        return [
            Line("mean eigenvalue", found["mean_eigenvalue"], found["stderr"], remark),
            Line("smallest node", found["smallest_node"]),
            Line("largest node", found["largest_node"]),
            Line(
                "mass at zero", found["mass_at_zero"], found["mass_at_zero_stderr"], f"within {self.kernel_width:.2g}"
            ),
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per node; an outlier is a node of every probe."""
        probes, steps = self.nodes.shape
        known = len(self.outliers)
        nodes = np.hstack([self.nodes, np.tile(self.outliers, (probes, 1))])
        weights = np.hstack([self.weights, np.full((probes, known), 1 / self.dim)])
        return pd.DataFrame(
            {
                "probe": np.repeat(np.arange(probes), steps + known),
                "node": nodes.ravel(),
                "weight": weights.ravel(),
                "outlier": np.tile(np.arange(steps + known) >= steps, probes),
            }
        )

    def _positive(self, width: float | None) -> float:
        width = self.kernel_width if width is None else width
        if not width > 0:
            raise ValueError(f"width must be positive; got {width}")
        return width


def _kernel(at: Array, nodes: Array, width: float) -> Array:
    distance = (at[:, None] - nodes) / width
    kernel: Array = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
    return kernel


def _bootstrap(at: Array, rows: Array, level: float, seed: int) -> Band:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95; got {level}")
    count = len(rows)
    mean = rows.mean(axis=0)
    if count == 1:
        unknown = np.full_like(mean, np.nan)
        return Band(at, mean, unknown, unknown)
    shares = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=1000) / count
    low, high = np.quantile(shares @ rows, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(at, mean, low, high)


def _stderr(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
