"""The kinds of curvature matrices: how their products are computed, and what these must be the limit of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.batches import num_examples, take
from landscape.products import (
    Linear,
    gauss_newton_at,
    gauss_newton_forward,
    gauss_newton_quotient,
    hessian_at,
    hessian_forward,
    hessian_quotient,
)
from landscape.terms import Term


@dataclass(frozen=True)
class Curvature:
    """A kind of curvature matrix of one term of an objective.

    Attributes:
        name: in words.
        at: (term, w) -> products by double backward, through a graph that is built there and then.
        forward: (term, w) -> products by forward-over-reverse.
        quotient: (term, w, s) -> half the difference of first derivatives at w + s and w − s, whose limit they are.
    """

    name: str
    at: Callable[[Term, Tensor], Linear]
    forward: Callable[[Term, Tensor], Linear]
    quotient: Callable[[Term, Tensor, Tensor], Tensor]


HESSIAN = Curvature(
    "Hessian",
    at=lambda term, w: hessian_at(term.loss, w),
    forward=lambda term, w: hessian_forward(term.loss, w),
    quotient=lambda term, w, step: hessian_quotient(term.loss, w, step),
)
GAUSS_NEWTON = Curvature(
    "Gauss-Newton matrix",
    at=lambda term, w: gauss_newton_at(term.outputs, term.loss_of_outputs, w),
    forward=lambda term, w: gauss_newton_forward(term.outputs, term.loss_of_outputs, w),
    quotient=lambda term, w, step: gauss_newton_quotient(term.outputs, term.loss_of_outputs, w, step),
)


class _Examples:
    """The losses of a batch's examples, one by one, as outputs; under half their mean square J'J is the Fisher matrix.

    The example losses ℓᵢ are means over dᵢ each, and the batch's loss is Σ dᵢ ℓᵢ / Σ dᵢ; examples with dᵢ = 0 have no
    loss and are left out.
    """

    def __init__(self, term: Term) -> None:
        self.term = term
        self.counts = torch.zeros(1, device="cpu")  # (examples that count,)

    def losses(self, w: Tensor) -> Tensor:
        """ℓ, one entry for each example that counts.

        Raises:
            ValueError: if the loss of the batch is not their weighted mean.
        """
        self.counts = w.new_zeros(1)
        outputs = self.term.outputs(w)
        targets, whole = self.term.targets, self.term.count
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        for i in range(num_examples(self.term.batch)):
            one, self.term.targets = take(outputs, i, i + 1), take(targets, i, i + 1)
            count = torch.as_tensor(self.term.definition.denominator(one, self.term.targets), device=w.device)
            if bool(count != 0):
                losses.append(self.term.loss_of_outputs(one))
                counts.append(count)
        self.term.targets = targets
        if not losses:
            return self.term.loss_of_outputs(outputs).reshape(1) * 0
        found = torch.stack(losses)
        self.counts = torch.stack(counts).to(found)
        self._require_mean(found.detach(), self.term.loss_of_outputs(outputs).detach(), whole)
        return found

    def half_mean_square(self, losses: Tensor) -> Tensor:
        """Σ dᵢ ℓᵢ² / (2 Σ dᵢ), whose second derivative in ℓ is diag(dᵢ) / Σ d."""
        return (self.counts * losses.square()).sum() / (2 * self.counts.sum())

    def _require_mean(self, losses: Tensor, whole: Tensor, count: Tensor | float) -> None:
        mean = (self.counts * losses).sum() / self.counts.sum()
        tolerance = 1e3 * torch.finfo(whole.dtype).eps * (1 + whole.abs())
        if not bool((mean - whole).abs() <= tolerance) or not bool((self.counts.sum() - count).abs() <= tolerance):
            raise ValueError(
                f"the loss of a batch ({float(whole):.8g}) is not the weighted mean of the losses of its examples "
                f"({float(mean):.8g}), each with its own outputs and targets, so that there is no gradient of one "
                "example. Take HessianOperator or GGNOperator for this loss."
            )


def _fisher_at(term: Term, w: Tensor) -> Linear:
    examples = _Examples(term)
    return gauss_newton_at(examples.losses, examples.half_mean_square, w)


def _fisher_quotient(term: Term, w: Tensor, step: Tensor) -> Tensor:
    examples = _Examples(term)
    return gauss_newton_quotient(examples.losses, examples.half_mean_square, w, step)


def _fisher_forward(term: Term, w: Tensor) -> Linear:
    examples = _Examples(term)
    return gauss_newton_forward(examples.losses, examples.half_mean_square, w)


FISHER = Curvature("empirical Fisher matrix", at=_fisher_at, forward=_fisher_forward, quotient=_fisher_quotient)
