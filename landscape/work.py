"""Means over the terms of an objective: chunk after chunk, within memory, shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from landscape.arguments import integer
from landscape.batches import Batch, bytes_of_example, num_examples
from landscape.chunks import GraphSize, cut, halves
from landscape.curvatures import HESSIAN, Curvature
from landscape.memory import is_out_of_memory
from landscape.processes import Alone, Sharing
from landscape.terms import Definition, Mean, Term

Values = tuple[Tensor, ...]
T = TypeVar("T")
ALWAYS_QUICK = 32  # examples that are not worth a look at how large their graph is


class Work:
    """The data of an objective in chunks, those of this process, and how means over all of them are taken.

    Args:
        definition: of the terms.
        w: the weights that the size of graphs is measured at, ``(dim,)``.
        batches: the data.
        chunk_size: the most examples to a chunk; from the size of graphs when None.
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
        self._chunk_size = None if chunk_size is None else integer(chunk_size, "chunk_size", least=1)
        self.sharing = Alone() if sharing is None else sharing
        self._whole = whole
        self._graphs: dict[str, GraphSize] = {}  # by the kind of matrix
        self._terms: list[Term] | None = None
        self.halvings = 0  # how often a chunk was cut in two because memory ran out
        if self.sharing.number > 1 and chunk_size is None and not self._is_quick:
            # graphs may be measured to take more on another machine, and chunks must be the same for all
            self._chunk_size = int(self.sharing.decided(self.chunk_size, like=w))

    def of(self, batches: Sequence[Batch], *, sharing: Sharing | None = None) -> Work:
        """The same for other batches, carried out by this process alone unless others are named."""
        return Work(self.definition, self._w, batches, chunk_size=self._chunk_size, sharing=sharing, whole=self)

    def by(self, definition: Definition, w: Tensor) -> Work:
        """The same data and processes under another definition of the terms."""
        return Work(definition, w, self.batches, chunk_size=self._chunk_size, sharing=self.sharing)

    @property
    def graph(self) -> GraphSize:
        """What graphs take, measured when it is first of interest."""
        return self.graph_for(HESSIAN)

    def graph_for(self, kind: Curvature) -> GraphSize:
        """What graphs take that products with a kind of matrix keep."""
        if self._whole is not None:
            return self._whole.graph_for(kind)
        if kind.name not in self._graphs:
            # of the longest examples, since graphs must not take more than they are said to
            longest = max(self.batches, key=lambda batch: (bytes_of_example(batch), num_examples(batch)))
            self._graphs[kind.name] = GraphSize.measured(self.definition, self._w, longest, kind)
        return self._graphs[kind.name]

    @property
    def limit(self) -> int | None:
        """The most examples to a chunk that was asked for; None where it is left to the size of graphs."""
        return self._chunk_size

    @property
    def chunk_size(self) -> int:
        """The most examples to a chunk."""
        return self.graph.quick_chunk if self._chunk_size is None else self._chunk_size

    @property
    def terms(self) -> list[Term]:
        """The chunks of this process."""
        if self._terms is None:
            pieces = self.pieces
            self._terms = [Term(self.definition, pieces[i]) for i in self.sharing.block(len(pieces))]
        return self._terms

    @property
    def pieces(self) -> list[Batch]:
        """The chunks of all processes."""
        return list(self.batches) if self._is_quick else cut(self.batches, self.chunk_size)

    @property
    def _is_quick(self) -> bool:
        return self._chunk_size is None and all(num_examples(batch) <= ALWAYS_QUICK for batch in self.batches)

    def means(
        self, of_term: Callable[[Term], Values], like: Values, *, release: Callable[[], bool] | None = None
    ) -> tuple[list[Tensor], float | Tensor]:
        """Σ_b d_b · value_b / Σ_b d_b over the terms of all processes, with one exchange, and Σ_b d_b.

        Where memory runs out, ``release`` is called, and when there was nothing to release the chunk is cut in two.

        Args:
            of_term: the values of one term; they set its count.
            like: tensors with the shapes, dtype and device of the values.
            release: gives back memory, and says whether there was any.

        Raises:
            MemoryError: if there is no memory for a single example.
            ProcessLostError: if another process has died or failed.
        """
        means = [Mean() for _ in like]
        failure: Exception | None = None
        try:
            self._add(of_term, means, release)
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
        self, of_term: Callable[[Term], Values], means: Sequence[Mean], release: Callable[[], bool] | None
    ) -> None:
        number = len(self.terms)
        try:
            for term, values in evaluated(self.terms, of_term, release=release):
                for mean, value in zip(means, values, strict=True):
                    mean.add(value, term.count)
        finally:
            self.halvings += len(self.terms) - number


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
