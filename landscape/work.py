"""Means over the terms of an objective: chunk after chunk, within memory, shared by processes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import Batch, bytes_of_example, num_examples
from landscape.bits import in_two
from landscape.chunks import (
    GRADIENT_BYTES,
    LEAST_FOR_LOSS,
    LOSS_BYTES,
    QUICK_BYTES,
    GraphSize,
    bytes_of_gradient,
    bytes_of_products,
    cut,
    halves,
)
from landscape.curvatures import HESSIAN, Curvature
from landscape.memory import is_out_of_memory
from landscape.precision import doubled
from landscape.processes import Alone, Sharing
from landscape.terms import Definition, Mean, Term

Values = tuple[Tensor, ...]
T = TypeVar("T")
ALWAYS_QUICK = 32  # examples that are not worth a look at how large their graph is


class Work:
    """The data of an objective in chunks, those of this process, and how means over all of them are taken.

    Products with matrices, gradients and losses each go through the data in chunks of their own size: the graph of a
    gradient is smaller than the one that a product keeps, and a loss has none.

    Args:
        definition: of the terms.
        w: the weights that the size of graphs is measured at, ``(dim,)``.
        batches: the data.
        chunk_size: the most examples to any chunk; from the size of graphs when None.
        sharing: the processes that chunks are spread over.
        whole: what this is a part of, whose graphs have been measured.
    """

    def __init__(
        self,
        definition: Definition,
        w: Tensor,
        batches: Sequence[Batch],
        *,
        chunk_size: int | None = None,
        sharing: Sharing | None = None,
        whole: Work | None = None,
    ) -> None:
        self.definition = definition
        self._w = w
        self.batches = batches
        self._limit = None if chunk_size is None else integer(chunk_size, "chunk_size", least=1)
        self.sharing = Alone() if sharing is None else sharing
        self._whole = whole
        self._graphs: dict[str, GraphSize] = {}  # by the kind of matrix; that of a gradient under no name
        self._decided: tuple[int, ...] | None = None if whole is None else whole._decided
        self._chunks: dict[int, list[Term]] = {}  # by the most examples in one
        self.halvings = 0  # how often a chunk was cut in two because memory ran out
        if self.sharing.number > 1 and self._decided is None and self._limit is None and not self._is_quick:
            # graphs may be measured to take more on another machine, and chunks must be the same for all
            self._decided = self._decided_by_first()

    def of(self, batches: Sequence[Batch], *, sharing: Sharing | None = None) -> Work:
        """The same for other batches, carried out by this process alone unless others are named."""
        return Work(self.definition, self._w, batches, chunk_size=self._limit, sharing=sharing, whole=self)

    def by(self, definition: Definition, w: Tensor) -> Work:
        """The same data and processes under another definition of the terms."""
        other = copy.copy(self)
        other.definition, other._w = definition, w
        other._chunks, other.halvings = {}, 0
        if definition.space != self.definition.space:  # graphs hang on shapes only
            other._graphs, other._whole = {}, None
        return other

    @property
    def graph(self) -> GraphSize:
        """What graphs take that products with the Hessian keep, measured when it is first of interest."""
        return self.graph_for(HESSIAN)

    def graph_for(self, kind: Curvature) -> GraphSize:
        """What graphs take that products with a kind of matrix keep."""
        return self._measured(kind.name, lambda term: bytes_of_products(term, self._w, kind))

    @property
    def gradient_graph(self) -> GraphSize:
        """What the graphs of gradients take."""
        return self._measured("", lambda term: bytes_of_gradient(term, self._w))

    @property
    def limit(self) -> int | None:
        """The most examples to a chunk that was asked for; None where it is left to the size of graphs."""
        return self._limit

    @property
    def chunk_size(self) -> int:
        """The most examples to a chunk for products."""
        return self._sizes(0, lambda: self.graph.chunk(QUICK_BYTES))

    @property
    def gradient_size(self) -> int:
        """The most examples to a chunk for gradients."""
        return self._sizes(1, lambda: self.gradient_graph.chunk(GRADIENT_BYTES))

    @property
    def loss_size(self) -> int:
        """The most examples to a chunk for losses."""

        def quick() -> int:
            if self._w.device.type != "cpu":
                return self.gradient_size
            return min(self.gradient_size, max(LEAST_FOR_LOSS, self.gradient_graph.chunk(LOSS_BYTES)))

        return self._sizes(2, quick)

    @property
    def terms(self) -> list[Term]:
        """The chunks of this process for products."""
        return self._of_size(ALWAYS_QUICK if self._is_quick else self.chunk_size)

    @property
    def largest_gradient(self) -> int:
        """The most examples that gradients take together: where all batches are small, they need not be measured."""
        return ALWAYS_QUICK if self._is_quick else self.gradient_size

    @property
    def gradient_terms(self) -> list[Term]:
        """The chunks of this process for gradients."""
        return self._of_size(self.largest_gradient)

    @property
    def loss_terms(self) -> list[Term]:
        """The chunks of this process for losses."""
        return self._of_size(ALWAYS_QUICK if self._is_quick else self.loss_size)

    @property
    def pieces(self) -> list[Batch]:
        """All the data, in chunks for losses."""
        return cut(self.batches, ALWAYS_QUICK if self._is_quick else self.loss_size)

    @property
    def _is_quick(self) -> bool:
        return self._limit is None and all(num_examples(batch) <= ALWAYS_QUICK for batch in self.batches)

    def _sizes(self, place: int, measured: Callable[[], int]) -> int:
        if self._limit is not None:
            return self._limit
        return measured() if self._decided is None else self._decided[place]

    def _of_size(self, size: int) -> list[Term]:
        if size not in self._chunks:
            pieces = self._cut(size)
            starts = [0, *itertools.accumulate(map(num_examples, pieces))]
            mine = self.sharing.block(len(pieces))
            self._chunks[size] = [Term(self.definition, pieces[i], start=starts[i]) for i in mine]
        return self._chunks[size]

    def _cut(self, size: int) -> list[Batch]:
        """Chunks of at most so many examples, and where processes share them as many for each as for any other."""
        pieces, number = cut(self.batches, size), self.sharing.number
        if number > 1 and self._limit is None:
            each = -(-len(pieces) // number)
            pieces = cut(self.batches, -(-sum(map(num_examples, self.batches)) // (each * number)))
        return pieces

    def _measured(self, name: str, num_bytes: Callable[[Term], int]) -> GraphSize:
        if self._whole is not None:
            return self._whole._measured(name, num_bytes)
        if name not in self._graphs:
            # of the longest examples, since graphs must not take more than they are said to
            longest = max(self.batches, key=lambda batch: (bytes_of_example(batch), num_examples(batch)))
            self._graphs[name] = GraphSize.measured(self.definition, longest, num_bytes)
        return self._graphs[name]

    def _decided_by_first(self) -> tuple[int, ...]:
        """The sizes of chunks for products, gradients and losses that the first process finds."""
        sizes = self._w.new_tensor([self.chunk_size, self.gradient_size, self.loss_size])
        (found,) = self.sharing.summed([sizes if self.sharing.is_first else torch.zeros_like(sizes)])
        return tuple(int(size) for size in found.tolist())

    def means(
        self,
        terms: list[Term],
        of_term: Callable[[Term], Values],
        *,
        like: Values,
        release: Callable[[], bool] | None = None,
        same: Tensor | None = None,
    ) -> tuple[list[Tensor], float | Tensor]:
        """Σ_b d_b · value_b / Σ_b d_b over the terms of all processes, with one exchange, and Σ_b d_b.

        Where memory runs out, ``release`` is called, and when there was nothing to release the chunk is cut in two.

        Args:
            terms: the chunks of this process, those for products, gradients or losses.
            of_term: the values of one term; they set its count.
            like: tensors with the shapes, dtype and device of the values.
            release: gives back memory, and says whether there was any.
            same: what every process must have found to the last bit, as it goes on from there.

        Raises:
            MemoryError: if there is no memory for a single example.
            ProcessLostError: if another process has died or failed.
            ApartError: if the processes have not found the same.
        """
        means = [Mean() for _ in like]
        failure: Exception | None = None
        try:
            self._add(terms, of_term, means, release)
        except Exception as error:
            if self.sharing.number == 1:
                raise
            failure = error
        if self.sharing.number == 1:
            return [mean.value.to(value.dtype) for mean, value in zip(means, like, strict=True)], means[0].weight
        totals = [mean.total_like(value) for mean, value in zip(means, like, strict=True)]
        parts = [*totals[::-1], in_two(float(means[0].weight), like=like[-1])]  # vectors first: their dtype counts
        *sums, both = self.sharing.summed_unless_failed(parts, failure, same=same)
        weight = doubled(both).sum()
        return [(total / weight.to(total)).to(value) for total, value in zip(sums[::-1], like, strict=True)], float(
            weight
        )

    def require_end(self, found: Tensor) -> None:
        """Products have come to an end on all processes, with the same to the last bit; an exchange as of a product.

        Where processes are known not to compute alike, the first one has led the others to the end.

        Args:
            found: what this process ends with.

        Raises:
            ProcessLostError: if another process has died or failed.
            ApartError: if another one has found something else, or goes on with a product.
        """
        if self.sharing.number > 1 and self.sharing.alike:
            self.means([], lambda _: (), like=(self._w[:, None],), same=found)

    def _add(
        self,
        terms: list[Term],
        of_term: Callable[[Term], Values],
        means: Sequence[Mean],
        release: Callable[[], bool] | None,
    ) -> None:
        number = len(terms)
        try:
            for term, values in evaluated(terms, of_term, release=release):
                for mean, value in zip(means, values, strict=True):
                    mean.add(value, term.count)
        finally:
            self.halvings += len(terms) - number


def evaluated(
    terms: list[Term], of_term: Callable[[Term], T], *, release: Callable[[], bool] | None = None
) -> Iterator[tuple[Term, T]]:
    """Each term with what is made of it; one for which memory runs out is cut in two, in the list itself.

    Args:
        terms: the list.
        of_term: what is made of a term.
        release: gives back memory, and says whether there was any; then nothing is cut.
    """
    index = 0
    while index < len(terms):
        term = terms[index]
        try:
            value = of_term(term)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if release is None or not release():
                terms[index : index + 1] = halves(term)
            continue
        yield term, value
        index += 1
