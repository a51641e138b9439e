"""Ways of computing products with a curvature matrix at fixed weights.

An objective takes the products of its matrices by one of them. Those that differentiate twice give the same numbers
within rounding, and differ in time and memory, in gradients (g) of the same data: a graph of the gradient that is kept
costs 2 to 2.8 g a product, one that is rebuilt 3.8 g, forward-over-reverse 4 to 5 g, central differences 2 g.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from landscape.arguments import integer
from landscape.curvatures import Curvature
from landscape.memory import available_bytes, in_words
from landscape.processes import Sharing
from landscape.products import Linear
from landscape.terms import Term

SHARE_OF_MEMORY = 4  # kept graphs take one part in so many of what is available
Bytes = Callable[[Term], int]


class Bound(ABC):
    """Products with one curvature matrix at one place, term by term; a term's ``count`` is known after its product."""

    @abstractmethod
    def product(self, term: Term, V: Tensor) -> Tensor:
        """The term's part in the product with a block, ``(dim, k)``; not yet weighted."""

    @property
    @abstractmethod
    def words(self) -> str:
        """How the products are computed."""

    @property
    def is_exact(self) -> bool:
        """Whether the products are derivatives, and not differences."""
        return True

    @property
    def error(self) -> float:
        """How far the products are off about, relative to their size, but for rounding."""
        return 0.0

    def release(self) -> bool:
        """Give back memory that can be done without; whether there was any."""
        return False


class Products(ABC):
    """A way of computing products with curvature matrices."""

    @abstractmethod
    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """The products with one matrix at w, ``(dim,)``.

        Args:
            curvature: the kind of matrix.
            w: where; it must not change any more.
            terms: those that the products will be asked for, to try things on.
            graph_bytes: what the graph of a term's gradient takes.
            sharing: the processes that each take some of the terms, and must all take the same way.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class RebuiltGraphs(Products):
    """By double backward, with the graph of the gradient built anew for each block: nothing is kept in between."""

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        del terms, graph_bytes, sharing
        return _Rebuilt(curvature, w)


class KeptGraphs(Products):
    """By double backward, with the graphs of the gradient kept for as many terms as a budget of memory allows.

    Args:
        memory: the most bytes that kept graphs may take together; a quarter of what is available when left out. Terms
            that do not fit are rebuilt for each block. When memory runs out all the same, all of them are.

    Raises:
        ValueError: if it is negative.
    """

    def __init__(self, *, memory: int | None = None) -> None:
        if memory is not None and integer(memory, "memory") < 0:
            raise ValueError(f"memory must be a number of bytes, zero or more; got {memory}")
        self.memory = memory

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        del terms, sharing
        memory = available_bytes(w.device) // SHARE_OF_MEMORY if self.memory is None else self.memory
        return _Kept(curvature, w, memory, graph_bytes)

    def __repr__(self) -> str:
        return f"KeptGraphs(memory={self.memory})"


class _Rebuilt(Bound):
    words = "graphs rebuilt"

    def __init__(self, curvature: Curvature, w: Tensor) -> None:
        self.curvature, self.w = curvature, w

    def product(self, term: Term, V: Tensor) -> Tensor:
        return self.curvature.at(term, self.w)(V)


class _Kept(_Rebuilt):
    def __init__(self, curvature: Curvature, w: Tensor, memory: int, graph_bytes: Bytes) -> None:
        super().__init__(curvature, w)
        self.memory, self.graph_bytes = memory, graph_bytes
        self.graphs: dict[Term, Linear] = {}
        self.used = 0
        self.rebuilt: set[Term] = set()

    def product(self, term: Term, V: Tensor) -> Tensor:
        graph = self.graphs.get(term)
        if graph is not None:
            return graph(V)
        needed = self.graph_bytes(term)
        if self.used + needed > self.memory:
            self.rebuilt.add(term)
            return super().product(term, V)
        graph = self.curvature.at(term, self.w)
        image = graph(V)
        self.graphs[term] = graph
        self.used += needed
        return image

    @property
    def words(self) -> str:  # type: ignore[override]
        if not self.rebuilt:
            return "graphs kept"
        if not self.graphs:
            return "graphs rebuilt"
        number = len(self.graphs) + len(self.rebuilt)
        return f"graphs of {len(self.graphs)} of {number} chunks kept, in {in_words(self.memory)}"

    def release(self) -> bool:
        """Keep no graph from now on."""
        held = bool(self.graphs)
        self.rebuilt |= set(self.graphs)
        self.graphs.clear()
        self.memory = self.used = 0
        return held
