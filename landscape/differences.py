"""Products with curvature matrices by differences of first derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from landscape.batches import take
from landscape.certificate import signs
from landscape.curvatures import Curvature
from landscape.processes import Sharing
from landscape.terms import Term
from landscape.ways import Bound, Bytes, Products

EXAMPLES = 32  # that the step is found on
WORST = 0.1  # change of a product with a halving of the step, beyond which it is not to be used


class CentralDifferences(Products):
    """By differences of first derivatives, (∇L(w + h v/‖v‖) − ∇L(w − h v/‖v‖)) ‖v‖ / 2h, for what cannot be
    differentiated twice.

    The products are not exact: the step h is the one, of a row that halves from ‖w‖ on, at which products hardly change
    with it any more, along random signs, the gradient, and the one weight in which that is steepest; or a shorter one,
    as long as they change by no more than the root of the rounding. How far they still do is said in the results. Of a
    network with kinks (ReLU, max-pooling) they are another thing than the Hessian, which is that between the kinks:
    differences see the kinks that a step crosses, which a short one hardly does.

    Raises:
        ValueError: when bound, where products change with the step by more than a tenth at any.
    """

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        del graph_bytes, sharing
        return _Differences(curvature, w, terms)


class _Differences(Bound):
    is_exact, error = False, 0.0

    def __init__(self, curvature: Curvature, w: Tensor, terms: Sequence[Term]) -> None:
        self.curvature, self.w = curvature, w
        self.size = float(w.norm()) or 1.0
        self.step, self.error = self._best_step(terms)
        if self.error > WORST:
            raise ValueError(
                f"differences of first derivatives say nothing here: they change by {self.error:.0%} of their size "
                f"when the best step ({self.step:.1e}) is halved. Kinks (ReLU, max-pooling) and rounding do that: "
                "measure in double precision, or take a smooth activation."
            )

    def product(self, term: Term, V: Tensor) -> Tensor:
        return torch.stack([self._along(term, v, self.step) for v in V.T], dim=1) if V.shape[1] else V.clone()

    @property
    def words(self) -> str:
        return f"central differences of first derivatives, step {self.step:.1e}, off by about {self.error:.0e}"

    def _along(self, term: Term, v: Tensor, step: float) -> Tensor:
        length = torch.linalg.vector_norm(v)
        unit = v / torch.where(length > 0, length, 1)
        image: Tensor = self.curvature.quotient(term, self.w, step * unit) * (length / step)
        return image

    def _best_step(self, terms: Sequence[Term]) -> tuple[float, float]:
        """The step at which a halving changes the product least, along the worst of some directions, or the shortest
        of those after it that is good enough; and that change."""
        if not terms:
            return self.size * torch.finfo(self.w.dtype).eps ** (1 / 3), float("nan")
        term = Term(terms[0].definition, take(terms[0].batch, 0, EXAMPLES))
        with torch.enable_grad():
            leaf = self.w.detach().requires_grad_()
            (slope,) = torch.autograd.grad(term.loss(leaf), leaf)
        steepest = torch.zeros_like(slope).index_fill_(0, slope.abs().argmax(), 1)
        directions = [v / v.norm() for v in (signs(self.w, 1)[0], slope, steepest) if v.any()]
        steps = [self.size * 0.5**power for power in range(1, 26 if self.w.dtype == torch.float64 else 14)]
        images = [[self._along(term, v, step) for v in directions] for step in steps]
        changes = [
            max(float((a - b).norm() / (b.norm() + torch.finfo(b.dtype).tiny)) for a, b in zip(*pair, strict=True))
            for pair in pairwise(images)
        ]
        best = min(range(len(changes)), key=lambda i: changes[i] if changes[i] == changes[i] else float("inf"))
        enough = max(changes[best], torch.finfo(self.w.dtype).eps ** 0.5)
        while best + 1 < len(changes) and changes[best + 1] <= enough:
            best += 1
        return steps[best + 1], changes[best]
