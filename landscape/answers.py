"""The kinds of answers, each with the uncertainty that belongs to it. No torch in here."""

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


@dataclass(frozen=True, kw_only=True)
class Sharpness(Result):
    """The mean rise in loss over shards of the data, each perturbed on its own.

    Attributes:
        value: mean over shards, weighted by what the loss of each is divided by (its examples, for a plain mean).
        stderr: its standard error over shards; NaN for a single shard, which gives no estimate of it.
        per_shard: ``(num_shards,)``, rise in loss of each shard that has anything to count.
        shard_sizes: ``(num_shards,)``, examples in each.
        denominators: ``(num_shards,)``, what the loss of each is divided by, its weight in the mean: examples, tokens,
            or class weights; None in results that were saved before these were.
        microbatch_size: examples per shard asked for.
    """

    value: float
    stderr: float
    per_shard: Array = field(repr=False)
    shard_sizes: Array = field(repr=False)
    denominators: Array | None = field(repr=False, default=None)
    microbatch_size: int

    title: ClassVar[str] = "m-sharpness"

    def summary(self) -> dict[str, Any]:
        """Value and standard error."""
        return {
            "sharpness": self.value,
            "stderr": self.stderr,
            "microbatch_size": self.microbatch_size,
            "num_shards": len(self.per_shard),
            **{key: value for key, value in self.manifest.get("measurement", {}).items() if key in ("rho", "eta")},
        }

    def lines(self) -> list[Line]:
        """The value with its standard error."""
        remark = f"standard error over {len(self.per_shard)} shards of {self.microbatch_size} examples"
        if len(self.per_shard) == 1:
            remark = "a single shard gives no standard error"
        return [Line("m-sharpness", self.value, self.stderr, remark)]

    def to_frame(self) -> pd.DataFrame:
        """One row per shard."""
        columns = {"rise": self.per_shard, "examples": self.shard_sizes}
        if self.denominators is not None:
            columns["denominator"] = self.denominators
        return pd.DataFrame(columns).rename_axis("shard").reset_index()


@dataclass(frozen=True, kw_only=True)
class LineSlice(Result):
    """L(w + t d) along one direction.

    Attributes:
        coordinates: ``(n,)``, the values of t.
        losses: ``(n,)``; not finite where the loss is not.
        length: ‖d‖₂, so that t · length is a distance in weight space.
    """

    coordinates: Array
    losses: Array
    length: float

    title: ClassVar[str] = "line slice"

    def summary(self) -> dict[str, Any]:
        """Lowest and highest loss, and how many points are not finite."""
        return _range(self.losses) | {"num_points": self.losses.size}

    def lines(self) -> list[Line]:
        """Lowest and highest loss."""
        return _range_lines(self.losses)

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        return pd.DataFrame({"coordinate": self.coordinates, "loss": self.losses})


@dataclass(frozen=True, kw_only=True)
class PlaneSlice(Result):
    """L(w + x d₁ + y d₂) on a grid.

    Attributes:
        x: ``(nx,)``, coordinates along the first direction.
        y: ``(ny,)``, coordinates along the second.
        losses: ``(ny, nx)``; not finite where the loss is not.
        lengths: ``(2,)``, the norms of the directions.
        cosine: of the angle between the directions.
    """

    x: Array
    y: Array
    losses: Array
    lengths: Array
    cosine: float

    title: ClassVar[str] = "plane slice"

    def summary(self) -> dict[str, Any]:
        """Lowest and highest loss, the angle of the axes, and how many points are not finite."""
        return _range(self.losses) | {"num_points": self.losses.size, "cosine": self.cosine}

    def lines(self) -> list[Line]:
        """Lowest and highest loss."""
        return [*_range_lines(self.losses), Line("cosine of the directions", self.cosine)]

    def to_frame(self) -> pd.DataFrame:
        """One row per point."""
        grid_x, grid_y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": grid_x.ravel(), "y": grid_y.ravel(), "loss": self.losses.ravel()})


def _range(losses: Array) -> dict[str, Any]:
    finite = losses[np.isfinite(losses)]
    return {
        "lowest_loss": float(finite.min()) if finite.size else float("nan"),
        "highest_loss": float(finite.max()) if finite.size else float("nan"),
        "num_not_finite": int(losses.size - finite.size),
    }


def _range_lines(losses: Array) -> list[Line]:
    found = _range(losses)
    lost = f"{found['num_not_finite']} of {losses.size} points are not finite" if found["num_not_finite"] else ""
    return [Line("lowest loss", found["lowest_loss"]), Line("highest loss", found["highest_loss"], None, lost)]
