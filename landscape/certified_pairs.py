"""What eigenpairs are held against in a certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.answers import Eigenpairs
from landscape.answers.certificate import FAILED, OPEN, PASSED
from landscape.certificate import signs
from landscape.operators import CurvatureOperator
from landscape.reference import pyhessian_eigenvalues, why_not_pyhessian
from landscape.results import Array
from landscape.soundness import Finding, against_quotients, judged
from landscape.spectrum import top_eigenvalues

ROUNDING = 100  # roundings of products, relative to ‖A‖, as top_eigenvalues allows them
PYHESSIAN = 1e-5  # relative; it divides vectors by their norm + 1e-6


@dataclass
class ChecksOfPairs:
    """The checks of eigenpairs.

    Attributes:
        result: the pairs.
        operator: the matrix that they are said to be of.
        seed: of random vectors.
    """

    result: Eigenpairs
    operator: CurvatureOperator
    seed: int

    def __post_init__(self) -> None:
        asked = self.result.manifest["measurement"]
        self.which = str(asked.get("which", "LA"))
        self.tol = float(asked.get("tol", 1e-3))
        self.eps = float(torch.finfo(self.operator.weights.dtype).eps)
        V = torch.as_tensor(np.array(self.result.eigenvectors), device="cpu")
        self.vectors = V.to(self.operator.weights)  # (dim, k)
        self.values = self.result.eigenvalues

    @cached_property
    def product(self) -> Tensor:
        """A V, one product for each pair, ``(dim, k)`` in double precision on the CPU."""
        return self.operator.apply(self.vectors).cpu().double()

    @cached_property
    def residuals(self) -> Array:
        """‖A v − λ v‖ of each pair, ``(k,)``."""
        V, values = (
            torch.as_tensor(np.array(self.result.eigenvectors), device="cpu").double(),
            torch.tensor(self.values, device="cpu"),
        )
        found: Array = (self.product - V * values).norm(dim=0).numpy()
        return found

    @cached_property
    def scale(self) -> float:
        """A lower bound on ‖A‖, which rounding is relative to: of the pairs, and of two more products."""
        image = self.operator.apply(signs(self.operator.weights, 1, seed=self.seed)[0])
        length = float(image.norm())
        again = float(self.operator.apply(image / length).norm()) if length else 0.0
        return max(float(self.product.norm(dim=0).max()), float(np.abs(self.values).max()), again)

    def looks(self) -> dict[str, Callable[[], Finding]]:
        """Each check by its name."""
        first = self.vectors[:, 0]
        return {
            "residual ‖Av − λv‖ / |λ|": self.relative_residual,
            "residual above the reported one": self.reported_residual,
            "vectors orthonormal": self.orthonormality,
            "same question from another start": self.repetition,
            "PyHessian": self.pyhessian,
            "difference quotients, first eigenvector": lambda: against_quotients(self.operator, first, seed=self.seed),
        }

    def relative_residual(self) -> Finding:
        """The largest residual relative to its eigenvalue; at most the tolerance that was asked for."""
        rounding = ROUNDING * self.eps * self.scale
        lengths = np.abs(self.values) + rounding / self.tol  # what rounds to zero has no relative residual
        ratio = np.divide(self.residuals, lengths, out=0 * lengths, where=lengths > 0)
        late = np.flatnonzero(~self.result.converged) + 1
        which = ", ".join(map(str, late))
        noun = f"pair {which} is" if len(late) == 1 else f"pairs {which} are"
        return judged(float(ratio.max()), self.tol, f"{noun} reported as not converged" if len(late) else "")

    def reported_residual(self) -> Finding:
        """How far a residual is above the one that was reported."""
        beyond = (self.residuals - self.result.residuals).max() / (self.scale or 1.0)
        return judged(max(0.0, float(beyond)), self.eps**0.5, "relative to ‖A‖")

    def orthonormality(self) -> Finding:
        """The largest entry of V'V − 1."""
        V = np.asarray(self.result.eigenvectors, dtype=np.float64)
        return judged(float(np.abs(V.T @ V - np.eye(V.shape[1])).max()), 1000 * self.eps, "largest entry of V'V − 1")

    def repetition(self) -> Finding:
        """The same question from another start: nothing may lie further out."""
        k = len(self.values)
        most = None if self.result.converged.all() else max(k, self.result.num_products)  # it was cut short
        start = int(self.result.manifest["measurement"].get("seed", 0)) + 1 + abs(self.seed)
        which: Any = self.which
        started = time.perf_counter()
        other = top_eigenvalues(self.operator, k, which=which, tol=self.tol, max_products=most, seed=start)
        seconds = time.perf_counter() - started
        value, bound = self._beyond(other.eigenvalues, other.residuals, ROUNDING * self.eps)
        return judged(value, bound, f"{other.num_products} products in {seconds:.3g} s")

    def pyhessian(self) -> Finding:
        """PyHessian's answer to the same question, where it can be asked."""
        operator, sign = self.operator, {"LA": 1, "SA": -1, "LM": 0}.get(self.which)
        if sign is None:
            return Finding(math.nan, math.nan, OPEN, "not asked: it finds one end of the spectrum only")
        reason = why_not_pyhessian(operator)
        if reason:
            return Finding(math.nan, math.nan, OPEN, reason)
        try:
            theirs = pyhessian_eigenvalues(operator.objective, len(self.values), tol=self.tol, seed=self.seed)
        except (RuntimeError, MemoryError) as error:
            return Finding(math.nan, math.nan, OPEN, f"it failed: {str(error).splitlines()[0]}")
        order = np.argsort(-np.abs(theirs.eigenvalues), kind="stable")
        order = order[theirs.eigenvalues[order] * sign >= 0]
        cost = f"{theirs.num_products} products in {theirs.manifest['machine']['seconds']:.3g} s"
        if not len(order):
            return Finding(math.nan, math.nan, OPEN, f"{cost}; it found the other end of the spectrum only")
        other_end = len(self.values) - len(order)
        own, least = _independent(theirs.eigenvectors[:, order])
        repeated, order = len(order) - len(own), order[own]
        found, residuals = theirs.eigenvalues[order], theirs.residuals[order] / least
        beyond, bound = self._beyond(found, residuals, PYHESSIAN)
        short = self._beyond(found, residuals, PYHESSIAN, inward=True)[0]
        said = f"{cost}; λ₁ = {found[0]:.6g} with a residual of {theirs.residuals[order[0]]:.2g}"
        said += f"; {other_end} of its pairs are at the other end" if other_end else ""
        said += f"; {repeated} of its pairs repeat others" if repeated else ""
        if beyond > bound:
            return Finding(beyond, bound, FAILED, f"{said}; it found what was missed here")
        if short > bound:
            return Finding(short, bound, OPEN, f"{said}; it stopped before it got there")
        return Finding(max(beyond, short), bound, PASSED, said)

    def _beyond(self, others: Array, residuals: Array, rounding: float, *, inward: bool = False) -> tuple[float, float]:
        """By how much others lie further out than ours at the most, and what the residuals allow; both over ‖A‖."""
        ours, others = self.values[: len(others)], np.asarray(others)
        out = {
            "LA": others - ours,
            "SA": ours - others,
            "LM": np.abs(others) - np.abs(ours),
            "BE": np.abs(others - ours),
        }[self.which]
        scale = self.scale or 1.0
        bound = float(np.linalg.norm(self.residuals)) + float(np.linalg.norm(residuals))  # Frobenius norms
        return max(0.0, float((-out if inward else out).max()) / scale), bound / scale + rounding


def _independent(vectors: Array) -> tuple[list[int], float]:
    """Which columns are no repetition of those before them, and the smallest singular value of these.

    Power iteration with deflation finds a pair again where it had not converged. The bound on eigenvalues by the
    residuals of vectors that are not orthogonal is that of orthonormal ones over this singular value (Kahan 1967).
    """
    kept: list[int] = []
    basis = np.empty((len(vectors), 0))
    for place, vector in enumerate(vectors.T.astype(np.float64)):
        left = vector - basis @ (basis.T @ vector)
        length = float(np.linalg.norm(left))
        if length > 0.5:
            kept.append(place)
            basis = np.column_stack([basis, left / length])
    if not kept:  # of a matrix of zeros it has no vectors
        return [*range(vectors.shape[1])], 1.0
    return kept, float(np.linalg.svd(vectors[:, kept], compute_uv=False)[-1])
