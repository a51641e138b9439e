"""Answers about eigenvalues. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from landscape.results import Array, Line, Result

ZERO = "exactly zero: is the loss flat in the weights, as behind round(), sign() or argmax()?"


@dataclass(frozen=True, kw_only=True)
class Eigenpairs(Result):
    """Eigenvalues of a symmetric operator, each with a bound on its error.

    Attributes:
        eigenvalues: ``(k,)``, in the order asked for.
        eigenvectors: ``(dim, k)``, orthonormal columns.
        residuals: ``(k,)``, ‖H v − λ v‖₂: an exact eigenvalue lies within that distance of λ.
        converged: ``(k,)``, whether each pair met the tolerance. Where the search ended early such a pair is one of the
            operator's, and may not be the one that its place says.
        num_products: products with the operator that were spent.
        num_subset_products: products on a part of the data that were spent on the start.
        stopped: why the search ended: ``"converged"``, ``"out of products"``, ``"out of time"``, ``"no direction is
            left"``; empty where it is not known.
    """

    eigenvalues: Array
    eigenvectors: Array = field(repr=False)
    residuals: Array
    converged: Array
    num_products: int
    num_subset_products: int = 0
    stopped: str = ""

    title: ClassVar[str] = "eigenvalues"

    def ratio(self, i: int, j: int) -> float:
        """λ_i / λ_j, counted from 1 in the order asked for, such as λ_1 / λ_5.

        Raises:
            ValueError: if there are no such eigenvalues, or λ_j is zero.
        """
        for name, place in (("i", i), ("j", j)):
            if not 1 <= place <= len(self.eigenvalues):
                raise ValueError(f"{name} must be between 1 and {len(self.eigenvalues)}, the eigenvalues; got {place}")
        if self.eigenvalues[j - 1] == 0:
            raise ValueError(f"eigenvalue {j} is zero; nothing can be divided by it")
        return float(self.eigenvalues[i - 1] / self.eigenvalues[j - 1])

    @property
    def gap_bounds(self) -> Array:
        """residual² / gap, ``(k,)``: a sharper bound on the error of each eigenvalue, for information.

        It holds if every eigenvalue but one is at least as far from λ as the gap (Parlett 1998, theorem 11.7.1). The
        gap is taken to the nearest other value found, less its residual, so that the last one, whose next neighbour is
        not known, has NaN; so has one whose neighbour is within its residual.
        """
        bounds = np.full(len(self.eigenvalues), np.nan)
        for i, value in enumerate(self.eigenvalues[:-1]):
            others = np.delete(np.arange(len(bounds)), i)
            gap = (np.abs(self.eigenvalues[others] - value) - self.residuals[others]).min()
            if gap > self.residuals[i]:
                bounds[i] = self.residuals[i] ** 2 / gap
        return bounds

    def summary(self) -> dict[str, Any]:
        """The eigenvalues in the order asked for, with their residuals, and what was spent."""
        return {
            "eigenvalues": self.eigenvalues.tolist(),
            "residuals": self.residuals.tolist(),
            "converged": self.converged.tolist(),
            "num_products": self.num_products,
            "num_subset_products": self.num_subset_products,
            "stopped": self.stopped,
        }

    def lines(self) -> list[Line]:
        """Each eigenvalue with its residual, and whether it, or the search for others, came to its end."""
        if not self.eigenvalues.any() and not self.residuals.any():
            return [Line(f"eigenvalue {i}", 0.0, 0.0, ZERO) for i in range(1, 1 + len(self.eigenvalues))]
        triples = zip(self.eigenvalues, self.residuals, self.converged, strict=True)
        why = f" ({self.stopped})" if self.stopped not in ("", "converged") else ""
        sure = f"an eigenvalue, but others before it may be missing{why}" if self.stopped.startswith("out of") else ""
        return [
            Line(f"eigenvalue {i}", float(value), float(residual), sure if converged else f"NOT CONVERGED{why}")
            for i, (value, residual, converged) in enumerate(triples, start=1)
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per eigenvalue."""
        columns = {"eigenvalue": self.eigenvalues, "residual": self.residuals, "converged": self.converged}
        return pd.DataFrame(columns).rename_axis("rank").reset_index()
