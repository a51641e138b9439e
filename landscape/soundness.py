"""Checks of an operator's products: whether they are symmetric, repeatable, and derivatives of the gradient."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from landscape.answers.certificate import FAILED, OPEN, PASSED, Check
from landscape.certificate import GGN, HESSIAN, Curvature, apart, signs, sizes_of
from landscape.operators import CurvatureOperator, GGNOperator, HessianOperator
from landscape.quotients import compare

VECTORS = 4  # that the symmetry is estimated from
REPEATABLE = 100  # roundings, relative to the norm
ACCURATE = {torch.float64: 1e-4}  # relative error of a product against difference quotients in double precision
ACCURATE_IN_SINGLE = 1e-3  # what the default tolerance of eigenvalues needs
ACCURATE_AGAINST_SINGLE = 5e-2  # where the difference quotients themselves are in single precision


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

    At most √ε of the dtype, as of a product that is symmetric up to rounding.
    """
    V = signs(operator.weights, VECTORS, seed=seed).T  # (dim, vectors)
    product = operator.apply(V).cpu().double()
    projected = V.cpu().double().T @ product
    difference = (projected - projected.T).norm() / (VECTORS * (VECTORS - 1)) ** 0.5
    size = 2 * product.norm() / VECTORS**0.5
    value = float(difference / size) if size else 0.0
    return judged(value, torch.finfo(operator.weights.dtype).eps ** 0.5, f"from {VECTORS} random vectors")


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
        operator: a Hessian or a Gauss-Newton matrix; others are no derivative of anything, and are not judged.
        v: direction, ``(dim,)``; random signs times the size of each block of weights when left out.
        seed: of the signs.
    """
    curvature = _derivative(operator)
    if curvature is None:
        name = type(operator).__name__
        return Finding(float("nan"), float("nan"), OPEN, f"{name} is not the derivative of a function that is known")
    objective, w = operator.objective, operator.weights
    if v is None:
        v = sizes_of(objective.space, w) * signs(w, 1, seed=seed)[0]
    if not (bool(v.any()) and bool(torch.isfinite(v).all())):
        return Finding(float("nan"), float("nan"), FAILED, "the vector is zero, or not finite")
    found = compare(curvature, objective, w, v, operator.apply(v))
    tolerance = ACCURATE.get(w.dtype, ACCURATE_IN_SINGLE) if found.in_double else ACCURATE_AGAINST_SINGLE
    precision = "double" if found.in_double else "single"
    where = f"at a step of {found.best_step:g} of the weights, the best of {len(found.steps)}, in {precision} precision"
    if found.best <= tolerance:
        return Finding(found.best, tolerance, PASSED, where)
    apart_by = f"quotients at other steps differ by {found.consistent:.2g}"
    if found.has_derivative:
        return Finding(found.best, tolerance, FAILED, f"{where}; {apart_by} only: the product is wrong")
    return Finding(found.best, tolerance, OPEN, f"{where}; {apart_by}: kinks or rounding, which tell nothing")


def _derivative(operator: CurvatureOperator) -> Curvature | None:
    """What kind of curvature the products claim to be, where difference quotients can tell."""
    if operator.weights.numel() != operator.dim:
        return None
    if isinstance(operator, HessianOperator):
        return HESSIAN
    return GGN if isinstance(operator, GGNOperator) else None
