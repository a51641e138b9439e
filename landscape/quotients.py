"""Curvature along a direction from first derivatives alone: difference quotients over all the data.

They are taken in double precision where the model can be evaluated in it, at several steps. Short steps drown in
rounding, long ones in higher derivatives; where they lie across kinks, as those of a ReLU network, each kink adds its
jump divided by the step, and quotients at different steps do not agree with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from landscape.batches import map_tensors, take
from landscape.certificate import apart
from landscape.curvatures import Curvature
from landscape.objective import Objective
from landscape.precision import doubled, doubled_copy
from landscape.terms import Definition, Term

STEPS: tuple[float, ...] = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)  # ‖step‖ / ‖w‖ in double precision
COARSE_STEPS: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)  # in single
FAR_APART = 90  # quotient of two steps that have to agree, to count as a derivative
CONSISTENT = 1e-5  # relative difference of two such quotients


@dataclass(frozen=True)
class Comparison:
    """How far a product is from difference quotients along the same direction.

    Attributes:
        steps: lengths of the steps, relative to the weights.
        errors: relative difference from the quotient at each step.
        consistent: smallest relative difference of two quotients whose steps are far apart.
        in_double: whether the quotients were taken in double precision.
    """

    steps: tuple[float, ...]
    errors: tuple[float, ...]
    consistent: float
    in_double: bool

    @property
    def best(self) -> float:
        """The smallest of the errors."""
        return min(self.errors)

    @property
    def best_step(self) -> float:
        """The step at which the error is smallest."""
        return self.steps[self.errors.index(self.best)]

    @property
    def has_derivative(self) -> bool:
        """Whether the quotients agree with one another, so that they tell a wrong product from a kink."""
        return self.in_double and self.consistent <= CONSISTENT


def compare(
    parts: Sequence[tuple[float, Curvature]], objective: Objective, w: Tensor, v: Tensor, product: Tensor
) -> Comparison:
    """Hold a product A v at the weights w against [s(w + h v) − s(w − h v)] / 2h at several steps h.

    s is the gradient for the Hessian; see :mod:`landscape.products` for the other kinds. The cost is two gradients over
    all the data for each of six steps, in double precision where that is possible.

    Args:
        parts: A as the sum of multiples of kinds of matrices, each with its factor.
        objective: the function and its data.
        w: weights, ``(dim,)``.
        v: direction, ``(dim,)``, not zero.
        product: A v as it is to be checked, ``(dim,)``.
    """
    scale = (float(doubled(w).norm()) or 1.0) / float(doubled(v).norm())  # ‖scale · v‖ = ‖w‖
    in_double = bool(objective.work.sharing.found(int(_has_double(parts, objective, w, v)), like=w))
    steps, definition = (STEPS, objective.work.definition.doubled()) if in_double else (COARSE_STEPS, None)
    w, v = (doubled(w), scale * doubled(v)) if in_double else (w, scale * v)
    quotients = [_quotient(parts, objective, definition, w, v, step) / scale for step in steps]
    errors = tuple(apart(doubled(quotient), doubled(product)) for quotient in quotients)
    pairs = [(i, j) for i, j in combinations(range(len(steps)), 2) if steps[i] >= FAR_APART * steps[j]]
    consistent = min(apart(quotients[i], quotients[j]) for i, j in pairs)
    return Comparison(steps, errors, consistent, in_double)


def _has_double(parts: Sequence[tuple[float, Curvature]], objective: Objective, w: Tensor, v: Tensor) -> bool:
    """Whether an example can be evaluated in double precision: every process asks, even one without a term."""
    try:
        definition = objective.work.definition.doubled()
        term = Term(definition, map_tensors(doubled_copy, take(objective.work.batches[0], 0, 1)))
        for _, curvature in parts:
            curvature.quotient(term, doubled(w), STEPS[0] * doubled(v))
    except (RuntimeError, TypeError, ValueError):  # a kernel or a table of single precision, or no memory for it
        return False
    return True


def _quotient(
    parts: Sequence[tuple[float, Curvature]],
    objective: Objective,
    definition: Definition | None,
    w: Tensor,
    v: Tensor,
    step: float,
) -> Tensor:
    """The difference quotient of the mean over all the data, in the precision of the weights."""

    def of_term(term: Term) -> tuple[Tensor]:
        chunk = term if definition is None else Term(definition, map_tensors(doubled_copy, term.batch))
        value = torch.zeros_like(w)
        for factor, curvature in parts:
            value += factor * curvature.quotient(chunk, w, step * v) / step
        term.count = chunk.count
        return (value,)

    return objective.work.means(objective.work.terms, of_term, like=(w,))[0][0]
