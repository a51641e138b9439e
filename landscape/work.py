"""Means over the terms of an objective: chunk after chunk, within memory, shared by processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import Batch, bytes_of_example, num_examples
from landscape.chunks import PASS_BYTES, QUICK_BYTES, GraphSize, bytes_of_pass, bytes_of_products, cut, halves
from landscape.curvatures import HESSIAN, Curvature
from landscape.memory import is_out_of_memory
from landscape.processes import Alone, Sharing
from landscape.terms import Definition, Mean, Term

Values = tuple[Tensor, ...]
T = TypeVar("T")
ALWAYS_QUICK = 32  # examples that are not worth a look at how large their graph is


class Work:
    """The data of an objective in chunks, those of this process, and how means over all of them are taken.

    Losses and gradients go through the data in larger chunks than products with matrices do, whose graphs are larger
    and are gone through again and again.

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
        self._decided: tuple[int, int] | None = None if whole is None else whole._decided
        self._terms: list[Term] | None = None
        self._passes: list[Term] | None = None
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
        other._terms, other._passes, other.halvings = None, None, 0
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
    def pass_graph(self) -> GraphSize:
        """What the graphs of gradients take."""
        return self._measured("", lambda term: bytes_of_pass(term, self._w))

    @property
    def limit(self) -> int | None:
        """The most examples to a chunk that was asked for; None where it is left to the size of graphs."""
        return self._limit

    @property
    def chunk_size(self) -> int:
        """The most examples to a chunk for products."""
        if self._limit is not None:
            return self._limit
        return self.graph.chunk(QUICK_BYTES) if self._decided is None else self._decided[0]

    @property
    def pass_size(self) -> int:
        """The most examples to a chunk for losses and gradients."""
        if self._limit is not None:
            return self._limit
        return self.pass_graph.chunk(PASS_BYTES) if self._decided is None else self._decided[1]

    @property
    def terms(self) -> list[Term]:
        """The chunks of this process for products."""
        if self._terms is None:
            self._terms = self._own(list(self.batches) if self._is_quick else cut(self.batches, self.chunk_size))
        return self._terms

    @property
    def passes(self) -> list[Term]:
        """The chunks of this process for losses and gradients."""
        if self._passes is None:
            self._passes = self._own(self.pieces)
        return self._passes

    @property
    def pieces(self) -> list[Batch]:
        """The chunks of all processes for losses and gradients."""
        return list(self.batches) if self._is_quick else cut(self.batches, self.pass_size)

    @property
    def _is_quick(self) -> bool:
        return self._limit is None and all(num_examples(batch) <= ALWAYS_QUICK for batch in self.batches)

    def _own(self, pieces: Sequence[Batch]) -> list[Term]:
        return [Term(self.definition, pieces[i]) for i in self.sharing.block(len(pieces))]

    def _measured(self, name: str, num_bytes: Callable[[Term], int]) -> GraphSize:
        if self._whole is not None:
            return self._whole._measured(name, num_bytes)
        if name not in self._graphs:
            # of the longest examples, since graphs must not take more than they are said to
            longest = max(self.batches, key=lambda batch: (bytes_of_example(batch), num_examples(batch)))
            self._graphs[name] = GraphSize.measured(self.definition, longest, num_bytes)
        return self._graphs[name]

    def _decided_by_first(self) -> tuple[int, int]:
        """The sizes of chunks for products and for passes that the first process finds."""
        sizes = self._w.new_tensor([self.chunk_size, self.pass_size])
        (found,) = self.sharing.summed([sizes if self.sharing.is_first else torch.zeros_like(sizes)])
        for_products, for_passes = found.tolist()
        return int(for_products), int(for_passes)

    def means(
        self,
        of_term: Callable[[Term], Values],
        like: Values,
        *,
        terms: list[Term] | None = None,
        release: Callable[[], bool] | None = None,
    ) -> tuple[list[Tensor], float | Tensor]:
        """Σ_b d_b · value_b / Σ_b d_b over the terms of all processes, with one exchange, and Σ_b d_b.

        Where memory runs out, ``release`` is called, and when there was nothing to release the chunk is cut in two.

        Args:
            of_term: the values of one term; they set its count.
            like: tensors with the shapes, dtype and device of the values.
            terms: the chunks of this process, as :attr:`terms`; :attr:`passes` when left out.
            release: gives back memory, and says whether there was any.

        Raises:
            MemoryError: if there is no memory for a single example.
            ProcessLostError: if another process has died or failed.
        """
        means = [Mean() for _ in like]
        failure: Exception | None = None
        try:
            self._add(self.passes if terms is None else terms, of_term, means, release)
        except Exception as error:
            if self.sharing.number == 1:
                raise
            failure = error
        if self.sharing.number == 1:
            return [mean.value.to(value.dtype) for mean, value in zip(means, like, strict=True)], means[0].weight
        totals = [mean.total_like(value) for mean, value in zip(means, like, strict=True)]
        weight = torch.as_tensor(means[0].weight, dtype=torch.float64)
        coarse = weight.to(like[-1].dtype)
        facts = torch.stack([coarse.cpu(), (weight.cpu() - coarse.cpu()).to(coarse.dtype)]).to(like[-1].device)
        parts = [*totals[::-1], facts]  # vectors first: their dtype counts
        *sums, both = self.sharing.summed_unless_failed(parts, failure)
        weight = both.double().sum()
        return [(total / weight).to(value) for total, value in zip(sums[::-1], like, strict=True)], float(weight)

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
