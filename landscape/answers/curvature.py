"""Answers about curvature. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result


@dataclass(frozen=True, kw_only=True)
class Eigenpairs(Result):
    """Eigenvalues of a symmetric operator, each with a bound on its error.

    Attributes:
        eigenvalues: ``(k,)``, in the order asked for.
        eigenvectors: ``(dim, k)``, orthonormal columns.
        residuals: ``(k,)``, ‖H v − λ v‖₂: an exact eigenvalue lies within that distance of λ.
        converged: ``(k,)``, whether each pair met the tolerance.
        num_products: products with the operator that were spent.
    """

    eigenvalues: Array
    eigenvectors: Array = field(repr=False)
    residuals: Array
    converged: Array
    num_products: int

    title: ClassVar[str] = "eigenvalues"

    def summary(self) -> dict[str, Any]:
        """The largest eigenvalue in the order asked for, with its residual, and all others."""
        return {
            "eigenvalues": self.eigenvalues.tolist(),
            "residuals": self.residuals.tolist(),
            "converged": self.converged.tolist(),
            "num_products": self.num_products,
        }

    def lines(self) -> list[Line]:
        """Each eigenvalue with its residual."""
        triples = zip(self.eigenvalues, self.residuals, self.converged, strict=True)
        return [
            Line(f"eigenvalue {i}", float(value), float(residual), "" if converged else "NOT CONVERGED")
            for i, (value, residual, converged) in enumerate(triples, start=1)
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per eigenvalue."""
        columns = {"eigenvalue": self.eigenvalues, "residual": self.residuals, "converged": self.converged}
        return pd.DataFrame(columns).rename_axis("rank").reset_index()


@dataclass(frozen=True, kw_only=True)
class TraceEstimate(Result):
    """A randomised estimate of a trace.

    Attributes:
        estimate: mean over the probes.
        stderr: its standard error.
        samples: ``(num_probes,)``, the value of each probe.
    """

    estimate: float
    stderr: float
    samples: Array = field(repr=False)

    title: ClassVar[str] = "trace"

    def summary(self) -> dict[str, Any]:
        """Estimate and standard error."""
        return {"trace": self.estimate, "stderr": self.stderr, "num_probes": len(self.samples)}

    def lines(self) -> list[Line]:
        """The estimate with its standard error."""
        return [Line("trace", self.estimate, self.stderr, f"standard error over {len(self.samples)} probes")]

    def to_frame(self) -> pd.DataFrame:
        """One row per probe."""
        return pd.DataFrame({"sample": self.samples}).rename_axis("probe").reset_index()


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(Result):
    """Gaussian quadrature of the spectrum: each probe's nodes and weights.

    Attributes:
        nodes: ``(num_probes, num_steps)``, Ritz values.
        weights: ``(num_probes, num_steps)``; each row sums to one. Where a probe ended early its weights are zero.
        dim: dimension of the operator; an average eigenvalue count is ``dim`` times a weight.
    """

    nodes: Array
    weights: Array
    dim: int

    title: ClassVar[str] = "spectral density"

    def density(self, at: Array, *, width: float) -> Array:
        """The density per unit eigenvalue of each probe, smoothed by a Gaussian kernel.

        Args:
            at: eigenvalues at which to evaluate, ``(n,)``.
            width: standard deviation of the kernel, in units of the eigenvalues.

        Returns:
            An array, ``(num_probes, n)``; each row integrates to one.

        Raises:
            ValueError: if the width is not positive.
        """
        if not width > 0:
            raise ValueError(f"width must be positive; got {width}")
        distance = (at[None, :, None] - self.nodes[:, None, :]) / width
        kernel = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
        smoothed: Array = (kernel * self.weights[:, None, :]).sum(axis=2)
        return smoothed

    def summary(self) -> dict[str, Any]:
        """Range of the nodes, and the mean eigenvalue with its standard error over probes."""
        means = (self.nodes * self.weights).sum(axis=1)
        stderr = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
        used = self.nodes[self.weights > 0]
        return {
            "smallest_node": float(used.min()),
            "largest_node": float(used.max()),
            "mean_eigenvalue": float(means.mean()),
            "stderr": float(stderr),
            "num_probes": len(self.nodes),
        }

    def lines(self) -> list[Line]:
        """The mean eigenvalue with its standard error, and the range of the nodes."""
        found = self.summary()
        remark = f"standard error over {found['num_probes']} probes"
        return [
            Line("mean eigenvalue", found["mean_eigenvalue"], found["stderr"], remark),
            Line("smallest node", found["smallest_node"]),
            Line("largest node", found["largest_node"]),
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per node."""
        probes, steps = self.nodes.shape
        return pd.DataFrame(
            {
                "probe": np.repeat(np.arange(probes), steps),
                "node": self.nodes.ravel(),
                "weight": self.weights.ravel(),
            }
        )
