"""The diagonal of the Gauss-Newton matrix, from the squares of the gradients of single examples, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from landscape.batches import num_examples, take
from landscape.certificate import sample
from landscape.layers import Passes, Site, UnsupportedError
from landscape.layers.watched import Watched
from landscape.objective import Objective
from landscape.operators import GGNOperator, HessianOperator
from landscape.precision import widest
from landscape.products import named_errors, slope_of
from landscape.shards import Shards
from landscape.steps import ANY, Steps, rows_of
from landscape.terms import Term

BUDGET = 64 * 2**20  # bytes that gradients of single examples may take, and the curvature in their outputs
BYTES = 32  # of an entry of that curvature and of its eigenvectors, in both precisions
HELD, COLUMNS = 4, 16  # examples and entries of the diagonal that are held against products
AGREES = 1e-3  # relative difference of the two
ROUNDINGS = 1e3  # of the curvature of the loss, by which one example may move the slope of another

Record = list[tuple[Site, Tensor, Tensor]]


class ExampleSquares:
    """diag G = Σᵢ diag Jᵢ'SᵢJᵢ, with Jᵢ = ∂fᵢ/∂w and Sᵢ = ∂²loss/∂fᵢ² of the outputs fᵢ for example i.

    Sᵢ = Σ_c s_ic r_ic r_ic' with signs s, so that an entry is Σ_ic s_ic (Jᵢ'r_ic)²: for each c one pass up and down the
    network, differentiating Σᵢ r_ic·fᵢ, in which the layers give the squares of what is each example's own. One that
    has no r is not made: the cross-entropy does not change where all its outputs grow alike, and needs one less.

    Args:
        objective: whose G, at its own weights.

    Attributes:
        num_outputs: of an example, the most passes that there may be.

    Raises:
        UnsupportedError: if a layer cannot be taken this way, or outputs are not those of examples.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._work, self._w, self._space = objective.work, objective.weights, objective.space
        self._watched = Watched(objective)
        self._names = {id(weight): name for name, weight in self._watched.weights.items()}
        definition = self._work.definition
        self._few = Term(definition, sample(definition, self._w, self._work.batches, HELD))
        self.num_outputs = rows_of(self._outputs(self._few), num_examples(self._few.batch)).shape[1]

    def diagonal(self) -> tuple[Tensor, int]:
        """diag G, ``(dim,)``, and how many passes over the data it took.

        Raises:
            UnsupportedError: if it cannot be found this way, or is not that of the products with G.
        """
        self._require_right()
        terms = self._terms
        Steps(HessianOperator(self._objective)).require_own(terms)
        like = self._w, self._w.new_zeros(())
        (diagonal, passes), _ = self._work.means(terms, self._of_term, like=like)
        return diagonal, math.ceil(float(passes) - 1e-3)  # chunks may take more or fewer

    @property
    def _terms(self) -> list[Term]:
        """Chunks for gradients, of no more examples than the budget allows matrices of their outputs for."""
        most = max(1, BUDGET // (BYTES * self.num_outputs**2))
        found = []
        for term in self._work.gradient_terms:
            number = num_examples(term.batch)
            for first in range(0, number, most):
                part = take(term.batch, first, min(first + most, number))
                found.append(Term(term.definition, part, start=term.start + first))
        return found

    def _require_right(self) -> None:
        """The largest entries, for a few examples, must be those that products with G give."""
        found, _ = self._of_term(self._few)
        largest = found.abs().topk(min(COLUMNS, len(found))).indices
        units = torch.zeros(len(found), len(largest), dtype=found.dtype, device=found.device)
        units[largest, torch.arange(len(largest), device=found.device)] = 1
        images = GGNOperator(self._objective.part([self._few.batch])).apply(units)  # certified where it is the first
        off, size = float(((images * units).sum(0) - found[largest]).abs().max()), float(found.abs().max())
        if not off <= AGREES * size:
            raise UnsupportedError(f"its diagonal, up to {size:.3g}, is off by {off:.3g} from that of its products")

    def _outputs(self, term: Term) -> Tensor:
        with torch.no_grad():
            outputs = term.outputs(self._w)
        if not isinstance(outputs, Tensor):
            raise UnsupportedError(f"the outputs are {type(outputs).__name__}, and not one tensor")
        return outputs

    def _of_term(self, term: Term) -> tuple[Tensor, Tensor]:
        diagonal, passes = torch.zeros_like(self._w), self._w.new_zeros(())
        into = dict(zip(self._space.names, self._space.split(diagonal), strict=True))  # views
        for signs, root in self._roots(term):
            passes += 1
            for weight, squares in self._squared(self._record(term, root), signs):
                into[self._names[id(weight)]].add_(squares)
        return diagonal, passes

    def _roots(self, term: Term) -> Iterator[tuple[Tensor, Tensor]]:
        """s_c, ``(examples,)``, and r_c in the shape of the outputs, for each c that counts."""
        outputs = self._outputs(term)
        if term.count == 0:  # a mean over nothing
            return
        rows = rows_of(outputs, num_examples(term.batch))
        number, width = rows.shape
        if width != self.num_outputs:
            raise UnsupportedError(f"some examples have {width} outputs, others {self.num_outputs}")
        with torch.enable_grad():
            free = rows.detach().requires_grad_()
            slope = slope_of(term.loss_of_outputs(free.view(outputs.shape)), free, create_graph=True)
        if not slope.requires_grad:  # the loss is linear in the outputs
            return

        def curved(u: Tensor) -> Tensor:
            """∂²loss/∂outputs² u, for all examples together."""
            with named_errors():
                (image,) = torch.autograd.grad(slope, free, u, retain_graph=True, materialize_grads=True)
            return image

        units = torch.eye(width, dtype=rows.dtype, device=rows.device)
        S = torch.stack([curved(unit.expand(number, -1)) for unit in units], dim=2)  # (examples, width, width)
        if not bool(torch.isfinite(S).all()):
            raise UnsupportedError("the curvature of the loss in the outputs is not finite")
        probe = torch.linspace(-1, 1, rows.numel(), dtype=rows.dtype, device=rows.device).view(rows.shape).cos()
        place = torch.arange(number, device=rows.device)
        for bit in range((number - 1).bit_length()):  # any two examples differ in one
            moved = (place >> bit & 1).bool()
            others = curved(moved[:, None] * probe)[~moved]
            if not bool(others.norm() <= ROUNDINGS * torch.finfo(rows.dtype).eps * S.norm()):
                raise UnsupportedError("the loss couples the outputs of different examples")
        values, vectors = torch.linalg.eigh(S.to(widest(S.device)))
        sizes = values.abs().sum(0)
        for c in range(width):
            if bool(sizes[c] > width * torch.finfo(rows.dtype).eps * sizes.sum()):  # of all examples together
                root = values[:, c, None].abs().sqrt() * vectors[:, :, c]
                yield values[:, c].sign(), root.to(rows).view(outputs.shape)

    def _record(self, term: Term, root: Tensor) -> Record:
        """Inputs and output gradients of all layers for Σᵢ r_i·fᵢ."""
        plan, number = self._watched.plan, num_examples(term.batch)
        record: Record = []
        passes = Passes(Shards(((1, number),)), ANY, plan.anchor, hooks=True, record=record)
        plan.begin(passes)
        with torch.enable_grad():
            outputs, _ = self._watched.forward(term.batch, second=False)
            plan.learnt((root * outputs).sum(), passes)
        return record

    def _squared(self, record: Record, signs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight with Σ_i s_i g_i², entry by entry; gradients from several acts of one are summed before."""
        with torch.no_grad():
            for site, inputs, slope in record:
                if site.alone:
                    for here in self._parts(len(signs), site.bytes_of_squared(inputs)):
                        self._begin(here, [site])
                        yield from site.squared(inputs[here], slope[here], signs[here])
            several = [entry for entry in record if not entry[0].alone]
            sites = list({id(site): site for site, _, _ in several}.values())
            for here in self._parts(len(signs), sum(site.num_bytes for site in sites)):
                passes = self._begin(here, sites)
                for site, inputs, slope in several:
                    site.learn(inputs[here], slope[here])
                yield from passes.stacks[0].squared(signs[here])

    def _begin(self, here: slice, sites: list[Site]) -> Passes:
        """Let sites learn of some of the examples next, each a micro-batch."""
        passes = Passes(Shards(((here.stop - here.start, 1),)), ANY, self._watched.plan.anchor)
        for site in sites:
            site.passes = passes
            site.clear()
        return passes

    @staticmethod
    def _parts(number: int, each: int) -> list[slice]:
        size = max(1, BUDGET // max(each, 1))
        return [slice(first, min(first + size, number)) for first in range(0, number, size)]
