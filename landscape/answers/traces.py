"""Answers about sums of eigenvalues: trace, diagonal, norm. No torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from landscape.answers.curvature import ZERO
from landscape.results import Array, Line, Result

_STOPPED = {
    "budget": "",
    "precision": ", precise enough",
    "time": ", out of time",
    "exact": ", exact",
}


def _empty() -> Array:
    return np.empty(0)


def reach_of(count: int, level: float) -> float:
    """How many standard errors an interval reaches: a quantile of Student's t for a mean of ``count`` samples.

    A single one was not left to chance, but for rounding.

    Raises:
        ValueError: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95; got {level}")
    return float(stdtrit(count - 1 if count > 1 else math.inf, (1 + level) / 2))


@dataclass(frozen=True, kw_only=True)
class TraceEstimate(Result):
    """A randomised estimate of a trace, and of its parts from the named blocks of weights.

    Attributes:
        estimate: mean of the samples.
        stderr: its standard error.
        samples: ``(k,)``, estimates that are each without bias: one for each probe that the error is judged by. Those
            of ``XTrace`` share their probes.
        estimator: how it was found.
        num_products: products with the operator that were spent; None in files of older versions.
        stopped: why no more were: ``"budget"``, ``"precision"``, ``"time"``, or ``"exact"`` where no chance was left.
        blocks: ``(b,)``, names of the blocks of weights.
        block_estimates: ``(b,)``, the trace of each block on the diagonal; they add up to the estimate.
        block_stderrs: ``(b,)``, their standard errors.
    """

    estimate: float
    stderr: float
    samples: Array = field(repr=False)
    estimator: str = field(repr=False, default="Hutchinson")
    num_products: int | None = field(repr=False, default=None)
    stopped: str = field(repr=False, default="budget")
    blocks: Array = field(repr=False, default_factory=lambda: np.empty(0, dtype=str))
    block_estimates: Array = field(repr=False, default_factory=_empty)
    block_stderrs: Array = field(repr=False, default_factory=_empty)

    title: ClassVar[str] = "trace"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval by Student's t, with one degree of freedom less than there are samples.

        Raises:
            ValueError: if the level is not between 0 and 1.

        >>> TraceEstimate(estimate=3.0, stderr=0.0, samples=np.full(5, 3.0)).interval(0.9)
        (3.0, 3.0)
        """
        reach = reach_of(len(self.samples), level) * self.stderr
        return self.estimate - reach, self.estimate + reach

    @property
    def per_block(self) -> pd.DataFrame:
        """One row per block of weights: its trace with the standard error."""
        return pd.DataFrame({"block": self.blocks, "trace": self.block_estimates, "stderr": self.block_stderrs})

    def summary(self) -> dict[str, Any]:
        """Estimate and standard error, the 95 % interval, what it took, and each block."""
        low, high = self.interval()
        return {
            "trace": self.estimate,
            "stderr": self.stderr,
            "low": low,
            "high": high,
            "num_products": self._products,
            "estimator": self.estimator,
            "stopped": self.stopped,
            "blocks": dict(zip(self.blocks.tolist(), self.block_estimates.tolist(), strict=True)),
            "block_stderrs": dict(zip(self.blocks.tolist(), self.block_stderrs.tolist(), strict=True)),
        }

    def lines(self) -> list[Line]:
        """The estimate with its standard error."""
        how = f"standard error; {self.estimator}, {self._products} products{_STOPPED.get(self.stopped, '')}"
        if self.stopped == "exact" and self.manifest.get("operator", {}).get("products") == "differences":
            how += " but for what differences in place of second derivatives are off"
        flat = f"; {ZERO}" if not self.samples.any() and self.estimate == 0 else ""
        return [Line("trace", self.estimate, self.stderr, how + flat)]

    def to_frame(self) -> pd.DataFrame:
        """One row per sample."""
        return pd.DataFrame({"sample": self.samples}).rename_axis("probe").reset_index()

    @property
    def _products(self) -> int:
        return len(self.samples) if self.num_products is None else self.num_products


@dataclass(frozen=True, kw_only=True)
class DiagonalEstimate(Result):
    """A randomised estimate of a diagonal.

    Attributes:
        estimates: ``(dim,)``.
        stderrs: their standard errors, ``(dim,)``.
        num_products: products with the operator that were spent.
        stopped: as in :class:`TraceEstimate`.
    """

    estimates: Array = field(repr=False)
    stderrs: Array = field(repr=False)
    num_products: int
    stopped: str = "budget"

    title: ClassVar[str] = "diagonal"

    def summary(self) -> dict[str, Any]:
        """The smallest, the mean and the largest entry, and the root mean square of the standard errors."""
        return {
            "smallest": float(self.estimates.min()),
            "mean": float(self.estimates.mean()),
            "largest": float(self.estimates.max()),
            "stderr": float(np.sqrt(np.mean(self.stderrs**2))),
            "num_products": self.num_products,
        }

    def lines(self) -> list[Line]:
        """The smallest and the largest entry with their standard errors, and the mean."""
        ends = {"smallest entry": int(self.estimates.argmin()), "largest entry": int(self.estimates.argmax())}
        remark = f"standard error of one entry; {self.num_products} products"
        found = [Line(name, float(self.estimates[i]), float(self.stderrs[i]), remark) for name, i in ends.items()]
        return [*found, Line("mean of the diagonal", float(self.estimates.mean()))]

    def to_frame(self) -> pd.DataFrame:
        """One row per entry."""
        return pd.DataFrame({"estimate": self.estimates, "stderr": self.stderrs}).rename_axis("weight").reset_index()


@dataclass(frozen=True, kw_only=True)
class NormEstimate(Result):
    """A randomised estimate of a Frobenius norm.

    Attributes:
        estimate: ‖H‖_F.
        stderr: its standard error, by the delta method.
        samples: ``(k,)``, estimates of ‖H‖_F² that are each without bias.
        num_products: products with the operator that were spent.
        stopped: as in :class:`TraceEstimate`.
    """

    estimate: float
    stderr: float
    samples: Array = field(repr=False)
    num_products: int
    stopped: str = "budget"

    title: ClassVar[str] = "Frobenius norm"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval: the roots of that of the square, by Student's t.

        Raises:
            ValueError: if the level is not between 0 and 1.
        """
        reach = reach_of(len(self.samples), level) * 2 * self.estimate * self.stderr
        low, high = (max(0.0, self.estimate**2 + sign * reach) for sign in (-1, 1))
        return math.sqrt(low), math.sqrt(high)

    def stable_rank(self, largest: float) -> tuple[float, float]:
        """‖H‖_F² / λ² for the eigenvalue λ of largest magnitude, with the standard error from that of the norm.

        How many eigenvalues of that size would have the norm of H: between one and the rank.

        Raises:
            ValueError: if the eigenvalue is zero.

        >>> NormEstimate(estimate=5.0, stderr=0.0, samples=np.full(2, 25.0), num_products=2).stable_rank(-5.0)
        (1.0, 0.0)
        """
        if largest == 0:
            raise ValueError("largest must be the eigenvalue of largest magnitude; got 0, which leaves no rank")
        return (self.estimate / largest) ** 2, 2 * self.estimate * self.stderr / largest**2

    def summary(self) -> dict[str, Any]:
        """Estimate and standard error, and what it took."""
        return {"norm": self.estimate, "stderr": self.stderr, "num_products": self.num_products}

    def lines(self) -> list[Line]:
        """The norm with its standard error."""
        return [Line("Frobenius norm", self.estimate, self.stderr, f"standard error; {self.num_products} products")]

    def to_frame(self) -> pd.DataFrame:
        """One row per sample of the square."""
        return pd.DataFrame({"sample": self.samples}).rename_axis("probe").reset_index()
