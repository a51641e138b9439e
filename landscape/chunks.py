"""The data of an objective in chunks: pieces that go through the model together, quick and within memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from landscape.batches import Batch, concatenate, num_examples, shape_of_examples, split, take, tensors
from landscape.curvatures import Curvature
from landscape.memory import graph_measured
from landscape.products import NoSecondDerivativeError, second_derivatives
from landscape.terms import Definition, Term

MOST_EXAMPLES = 1024  # beyond, small networks gain nothing either
QUICK_BYTES = 96 * 2**20  # a graph of products that is larger leaves the caches, and takes up to twice the time
GRADIENT_BYTES = 256 * 2**20  # a graph that is gone through once may be larger
LOSS_BYTES = 4 * 2**20  # no graph is kept: what layers pass on stays in the caches of a core
LEAST_FOR_LOSS = 64  # examples, whatever that is
_FEW = (2, 8)  # examples that graphs are measured on


class GraphSize:
    """What the graph of a number of examples takes, in bytes: so much at all, and so much for each."""

    def __init__(self, fixed: float, each: float) -> None:
        self.fixed, self.each = fixed, each

    @classmethod
    def measured(cls, definition: Definition, batch: Batch, num_bytes: Callable[[Term], int]) -> GraphSize:
        """From the graphs of a few examples.

        Where these cannot be evaluated, which others will say, it is a guess.

        Args:
            definition: of the terms.
            batch: has the examples.
            num_bytes: what the graph of a term takes.
        """
        sizes = [min(few, num_examples(batch)) for few in _FEW]
        try:
            heads = [definition.seam.placed(take(batch, 0, size)) for size in sizes]  # which no graph is charged with
            small, large = (num_bytes(Term(definition, head)) for head in heads)
        except Exception:  # whatever the model raises
            return cls(0, QUICK_BYTES / 128)
        each = (large - small) / (sizes[1] - sizes[0]) if sizes[1] > sizes[0] else float(large)
        return cls(max(0.0, small - sizes[0] * each), max(1.0, each))

    def of(self, term: Term) -> int:
        """For the examples of a term, with these themselves where they are brought to the device for it."""
        device = term.definition.seam.device
        brought = sum(part.nbytes for part in tensors(term.batch) if part.device != device)
        return brought + int(self.fixed + self.each * num_examples(term.batch))

    def chunk(self, most_bytes: float) -> int:
        """The number of examples to a chunk: a power of two whose graphs stay below so many bytes."""
        most = min(MOST_EXAMPLES, int(most_bytes / self.each))
        return int(2 ** (most.bit_length() - 1)) if most >= 1 else 1


def cut(batches: Sequence[Batch], size: int) -> list[Batch]:
    """The same examples in the same order, no more than ``size`` of them to a piece, as views.

    >>> [piece.tolist() for piece in cut([torch.arange(3), torch.arange(3, 5)], 2)]
    [[0, 1], [2], [3, 4]]
    """
    found: list[Batch] = []
    for batch in batches:
        total = num_examples(batch)
        found += [take(batch, start, min(start + size, total)) for start in range(0, total, size)]
    return found


def merged(batches: Sequence[Batch]) -> list[Batch]:
    """Neighbours put together where their examples have one shape.

    >>> [batch.tolist() for batch in merged([torch.arange(2), torch.arange(2, 3), torch.zeros(1, 1)])]
    [[0, 1, 2], [[0.0]]]
    """
    return [concatenate(list(alike)) for _, alike in groupby(batches, key=shape_of_examples)]


def halves(term: Term) -> list[Term]:
    """Two terms with half of the examples each.

    Raises:
        MemoryError: if there is one example only, for which there is no memory.
    """
    size = num_examples(term.batch)
    if size < 2:
        raise MemoryError(
            "there is no memory for the graph of a single example; take a device with more, or select fewer weights"
        )
    first, second = split(term.batch, [size // 2, size - size // 2])
    return [Term(term.definition, first, start=term.start), Term(term.definition, second, start=term.start + size // 2)]


def bytes_of_products(term: Term, w: Tensor, kind: Curvature) -> int:
    """What autograd keeps of a term for products, estimated from its loss where that cannot be differentiated twice."""
    there = [w, *tensors(term.batch)]
    with graph_measured(without=there) as graph, second_derivatives():
        requires_grad = _is_differentiable(term, w)
    if not requires_grad:
        return graph.num_bytes
    once = graph.num_bytes
    with graph_measured(without=there) as graph:
        try:
            kind.at(term, w)
        except (RuntimeError, NoSecondDerivativeError, ValueError):
            return 4 * once
    return graph.num_bytes + w.nbytes  # the gradient is kept with its graph


def bytes_of_gradient(term: Term, w: Tensor) -> int:
    """What autograd keeps of a term for its gradient."""
    with graph_measured(without=[w, *tensors(term.batch)]) as graph:
        _is_differentiable(term, w)
    return graph.num_bytes


def _is_differentiable(term: Term, w: Tensor) -> bool:
    """Whether the loss of a term depends on the weights."""
    with torch.enable_grad():
        return term.loss(w.detach().requires_grad_()).requires_grad
