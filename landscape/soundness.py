"""Checks of an operator's products: whether they are symmetric, repeatable, and derivatives of the gradient."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from landscape.answers.certificate import FAILED, OPEN, PASSED, Check
from landscape.certificate import SYMMETRIC, apart, signs, sizes_of
from landscape.curvatures import Curvature
from landscape.operators import CurvatureOperator
from landscape.quotients import compare
from landscape.widened import narrows

VECTORS = 4  # that the symmetry is estimated from
REPEATABLE = 100  # roundings, relative to the norm
ACCURATE = {torch.float64: 1e-4}  # relative error of a product against difference quotients in double precision
ACCURATE_IN_SINGLE = 1e-3  # what the default tolerance of eigenvalues needs
ACCURATE_BY_DIFFERENCES = 5e-2  # where products, or the quotients in single precision, are differences themselves


class Finding(NamedTuple):
    """What a check found: see :class:`Check`."""

    value: float
    tolerance: float
    verdict: str
    remark: str = ""


def timed(name: str, look: Callable[[], Finding]) -> Check:
    """A check with the seconds that it takes."""
    started = time.perf_counter()
    value, tolerance, verdict, remark = look()
    return Check(name, value, tolerance, verdict, time.perf_counter() - started, remark)


def judged(value: float, tolerance: float, remark: str = "") -> Finding:
    """Passed when the value is at most the tolerance; a NaN is not."""
    return Finding(value, tolerance, PASSED if value <= tolerance else FAILED, remark)


def symmetry(operator: CurvatureOperator, *, seed: int) -> Finding:
    """‖A − A'‖ / 2‖A‖ in the Frobenius norm, from u'Av − v'Au and ‖Av‖ for random signs u and v.

    At most √ε of the dtype, as of a product that is symmetric up to rounding, and of single precision where the model
    computes in that on the way; 5 % for one by differences.
    """
    V = signs(operator.weights, VECTORS, seed=seed).T  # (dim, vectors)
    product = operator.apply(V).cpu().double()
    projected = V.cpu().double().T @ product
    difference = (projected - projected.T).norm() / (VECTORS * (VECTORS - 1)) ** 0.5
    size = 2 * product.norm() / VECTORS**0.5
    value = float(difference / size) if size else 0.0
    tolerance = torch.finfo(operator.weights.dtype).eps ** 0.5 if operator.is_exact else SYMMETRIC
    some = operator.objective.part(operator.objective.batches[:1])  # by each process alone
    if value > tolerance and narrows(lambda: some.loss_and_gradient(operator.weights)):
        tolerance = max(tolerance, torch.finfo(torch.float32).eps ** 0.5)
    return judged(value, tolerance, f"from {VECTORS} random vectors; products: {operator.words}")


def determinism(operator: CurvatureOperator, *, seed: int) -> Finding:
    """The relative difference of the same product, and of the same loss, computed twice; the larger of the two."""
    v = signs(operator.weights, 1, seed=seed)[0]
    product = apart(operator.apply(v), operator.apply(v))
    losses = [operator.objective.loss(operator.weights).reshape(1) for _ in range(2)]
    worst = max(product, apart(*losses))
    return judged(worst, REPEATABLE * torch.finfo(operator.weights.dtype).eps, "product and loss, each twice")


def against_quotients(operator: CurvatureOperator, v: Tensor | None, *, seed: int) -> Finding:
    """The relative difference of A v from difference quotients of first derivatives, at the best of several steps.

    Args:
        operator: a Hessian, Gauss-Newton or empirical Fisher matrix, or a sum of such; others are not judged.
        v: direction, ``(dim,)``; random signs times the size of each block of weights when left out.
        seed: of the signs.
    """
    kinds = _kinds(operator) if operator.weights.numel() == operator.dim else []
    if not kinds:
        name = type(operator).__name__
        return Finding(float("nan"), float("nan"), OPEN, f"{name} is not the derivative of a function that is known")
    objective, w = operator.objective, operator.weights
    if v is None:
        v = sizes_of(objective.space, w) * signs(w, 1, seed=seed)[0]
    if not (bool(v.any()) and bool(torch.isfinite(v).all())):
        return Finding(float("nan"), float("nan"), FAILED, "the vector is zero, or not finite")
    found = compare(kinds, objective, w, v, operator.apply(v))
    tolerance = ACCURATE.get(w.dtype, ACCURATE_IN_SINGLE)
    if not (found.in_double and operator.is_exact):
        tolerance = ACCURATE_BY_DIFFERENCES
    precision = "double" if found.in_double else "single"
    where = f"at a step of {found.best_step:g} of the weights, the best of {len(found.steps)}, in {precision} precision"
    if found.best <= tolerance:
        return Finding(found.best, tolerance, PASSED, where)
    apart_by = f"quotients at other steps differ by {found.consistent:.2g}"
    if found.has_derivative:
        return Finding(found.best, tolerance, FAILED, f"{where}; {apart_by} only: the product is wrong")
    return Finding(found.best, tolerance, OPEN, f"{where}; {apart_by}: kinks or rounding, which tell nothing")


def _kinds(operator: CurvatureOperator) -> list[tuple[float, Curvature]]:
    """The kinds of curvature whose sum an operator claims to be, each with its factor; empty where unknown."""
    kind, parts = getattr(operator, "kind", None), getattr(operator, "parts", None)
    if isinstance(kind, Curvature):
        return [(1.0, kind)]
    found: list[tuple[float, Curvature]] = []
    for factor, part in parts or []:
        below = _kinds(part)
        if not below:
            return []
        found += [(factor * inner, curvature) for inner, curvature in below]
    return found
