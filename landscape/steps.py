"""Steps in the weights that are each example's own, and the derivatives of the loss along them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.batches import Batch, num_examples, take, tensors
from landscape.certificate import sample
from landscape.curvatures import HESSIAN
from landscape.layers import Passes, UnsupportedError
from landscape.layers.directions import Directions, num_signs
from landscape.layers.watched import Watched
from landscape.operators import HessianOperator
from landscape.perturbations import GradientAscent
from landscape.products import loss_and_slope, second_derivatives, slope_of
from landscape.residual import ResidualOperator
from landscape.shards import Shards
from landscape.stacks import Ascent
from landscape.terms import Term

TOGETHER = 64  # examples whose signs are drawn together, whichever chunk and process they are in
AGREES = 1e-3  # relative difference from what the model as it is has

ANY = Ascent(GradientAscent(rho=1.0))  # nothing is perturbed


class Steps:
    """Second derivatives of the loss along steps in the weights that are other ones for each example.

    Args:
        operator: the Hessian, or its residual.

    Raises:
        UnsupportedError: if a layer cannot be taken this way.
    """

    def __init__(self, operator: HessianOperator | ResidualOperator) -> None:
        objective, self._operator = operator.here, operator
        self._work, self._w, self._space = objective.work, objective.weights, objective.space
        self._watched = Watched(objective, frozen=True)
        self._weights = list(self._watched.weights.values())
        self._signs = [num_signs(shape) for shape in self._space.shapes]

    def curvatures(self, seed: int, probe: int) -> Tensor:
        """z_b'(Hz)_b for each block b, a mean over all examples, ``(blocks,)`` in float64 on the CPU.

        Raises:
            ValueError: if it is not finite.
        """
        like = self._w.new_zeros(len(self._space.names))
        (found,), _ = self._work.means(self._work.terms, lambda term: (self._of_term(term, seed, probe),), like=(like,))
        if not torch.isfinite(found).all():
            raise ValueError("a second derivative is not finite: the loss overflows at these weights")
        return found.cpu().double()

    def require_right(self, seed: int) -> None:
        """For the first example that counts they must be what its product says.

        Raises:
            UnsupportedError: if they are not.
        """
        first = sample(self._work.definition, self._w, self._work.batches, 1)
        term = Term(self._work.definition, first)
        found = self._of_term(term, seed, 0)
        whole = self.direction(term, seed, 0)
        images = type(self._operator)(self._operator.here.part([first])).apply(whole)  # certified where it is the first
        parts = self._space.split(whole * images)
        wanted = torch.stack([part.sum() for part in parts])
        size = (whole * images).abs().sum()
        if not bool((found - wanted).abs().max() <= AGREES * size):
            raise UnsupportedError(
                f"the curvature along a step is {float(found.sum()):.6g}, and {float(wanted.sum()):.6g} by a product"
            )

    def require_own(self, terms: Sequence[Term] | None = None) -> None:
        """In each chunk, steps that are all alike must move the outputs as the model's gradient says, in each block.

        So must a step of one example alone those of that example, and no others. What has a weight besides its layer,
        or puts the copies of a weight that is used as it is beside other examples than their own, is found out by this.

        Args:
            terms: the chunks; those for products when left out.

        Raises:
            UnsupportedError: if they do not.
        """
        chunks = self._work.terms if terms is None else list(terms)
        self._work.means(chunks, lambda term: (self._checked(term),), like=(self._w.new_zeros(()),))

    def _checked(self, term: Term) -> Tensor:
        """Zero, where a term is as it must be."""
        number = num_examples(term.batch)
        signs = self._signs_of(term, 0, 0)
        self._require_moves(term, signs[:1].expand(number, -1), slice(0, number))
        for j in {number // 2, number - 1} if number > 1 else ():
            alone = torch.zeros_like(signs)
            alone[j] = signs[j]
            self._require_moves(term, alone, slice(j, j + 1))
        return self._w.new_zeros(())

    def _require_moves(self, term: Term, signs: Tensor, rows: slice) -> None:
        """Steps of the examples in some rows, all with the same signs, and of no others."""
        number, size = num_examples(term.batch), rows.stop - rows.start
        z = self._directions_of(signs.contiguous())
        with torch.enable_grad():
            parts = _numbers(self._outputs(term, z), number)
            astray = torch.zeros_like(z.steps)
            others = _projected([torch.cat([part[: rows.start], part[rows.stop :]]) for part in parts])
            if size < number and others.requires_grad:
                (astray,) = torch.autograd.grad(others, z.steps, retain_graph=True, materialize_grads=True)
            moved = slope_of(_projected([part[rows] for part in parts]), z.steps)
        few = Term(term.definition, take(term.batch, rows.start, rows.stop))

        def plain(w: Tensor) -> Tensor:
            return _projected(_numbers(few.outputs(w), size))

        _, gradient = loss_and_slope(plain, self._w.detach().clone().requires_grad_())
        first = self._directions_of(signs[rows][:1].contiguous())
        along = torch.cat([first.vector(weight)[0].flatten() for weight in self._weights]) * gradient
        wanted = torch.stack([part.sum() for part in self._space.split(along)])
        off = torch.maximum((moved - wanted).abs().max(), astray.abs().max())
        if not bool(off <= AGREES * along.abs().sum()):
            raise UnsupportedError("a weight acts elsewhere than in its layer, or on other examples than its own")

    def direction(self, term: Term, seed: int, probe: int) -> Tensor:
        """z of the first example of a term, ``(dim,)``."""
        z = self._directions(term, seed, probe)
        return torch.cat([z.vector(weight)[0].flatten() for weight in self._weights])

    def _of_term(self, term: Term, seed: int, probe: int) -> Tensor:
        z = self._directions(term, seed, probe)
        with torch.enable_grad(), second_derivatives():
            slope = slope_of(self._loss(term, self._outputs(term, z)), z.steps, create_graph=True)
            if not slope.requires_grad:
                return torch.zeros_like(slope)
            return slope_of(slope.sum(), z.steps).detach()

    def _outputs(self, term: Term, z: Directions) -> Tensor:
        """The outputs after the steps."""
        plan = self._watched.plan
        plan.begin(Passes(Shards(((1, num_examples(term.batch)),)), ANY, plan.anchor, move=z.moved))
        outputs, term.targets = self._watched.forward(term.batch, second=False)
        term.count = self._work.definition.denominator(outputs, term.targets)
        plan.clear()
        found: Tensor = outputs
        return found

    def _loss(self, term: Term, outputs: Tensor) -> Tensor:
        if self._operator.kind is HESSIAN:
            return term.loss_of_outputs(outputs)
        free = outputs.detach().requires_grad_()
        return (slope_of(term.loss_of_outputs(free), free) * outputs).sum()

    def _directions(self, term: Term, seed: int, probe: int) -> Directions:
        return self._directions_of(self._signs_of(term, seed, probe))

    def _directions_of(self, signs: Tensor) -> Directions:
        return Directions(self._weights, torch.split(signs, self._signs, dim=1))

    def _signs_of(self, term: Term, seed: int, probe: int) -> Tensor:
        """Those of the examples of a term, whichever chunk and process they are in, ``(examples, signs)``."""
        first, number = term.start, num_examples(term.batch)
        blocks = range(first // TOGETHER, (first + number - 1) // TOGETHER + 1)
        drawn = torch.cat([self._drawn(seed, probe, block) for block in blocks])
        return drawn[first - blocks[0] * TOGETHER :][:number].to(self._w).mul_(2).sub_(1)

    def _drawn(self, seed: int, probe: int, block: int) -> Tensor:
        """Zeros and ones, ``(TOGETHER, signs)``."""
        number = TOGETHER * sum(self._signs)
        words = np.random.PCG64(np.random.SeedSequence([seed, probe, block])).random_raw(-(-number // 64))
        return torch.from_numpy(np.unpackbits(words.astype("<u8").view(np.uint8), count=number)).view(TOGETHER, -1)


def rows_of(outputs: Tensor, number: int) -> Tensor:
    """``(examples, numbers of each)``.

    Raises:
        UnsupportedError: if there are no rows of each example.
    """
    if outputs.ndim == 0 or len(outputs) % number:
        raise UnsupportedError(f"the outputs, {tuple(outputs.shape)}, have no row for each of {number} examples")
    return outputs.reshape(number, -1)


def _numbers(outputs: Batch, number: int) -> list[Tensor]:
    """The tensors of numbers among the outputs, by examples."""
    return [rows_of(part, number) for part in tensors(outputs) if part.is_floating_point()]


def _projected(parts: Sequence[Tensor]) -> Tensor:
    """A sum of all numbers with weights that are no multiples of one another."""
    if not parts:
        raise UnsupportedError("the outputs are no tensors of numbers")
    found = []
    for part in parts:
        factors = torch.arange(1, part.numel() + 1, device=part.device).to(part.dtype).cos()
        found.append((part * factors.view(part.shape)).sum())
    return torch.stack(found).sum()
