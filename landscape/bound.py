"""A curvature matrix at fixed weights, as the mean of the matrices of all chunks of the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from landscape.certificate import STEPS, certify, differences_at
from landscape.checks import require_like
from landscape.curvatures import Curvature
from landscape.ways import Products
from landscape.work import Work


class CurvatureAt:
    """Products with one matrix at one place; the graphs that are kept for them live as long as this does.

    Args:
        kind: of the matrix.
        w: where, ``(dim,)``; a copy is taken, so that it may change afterwards.
        work: the data.
        products: how products are computed.
        certified: the kinds of matrices that have been certified for this objective; it is added to.
    """

    def __init__(self, kind: Curvature, w: Tensor, work: Work, products: Products, certified: set[str]) -> None:
        self.kind = kind
        self._w = w.detach().clone()
        self._work = work
        self._certified = certified
        self._bound = products.bind(
            kind, self._w, work.terms, graph_bytes=lambda term: work.graph_for(kind).of(term), sharing=work.sharing
        )

    def is_at(self, w: Tensor) -> bool:
        """Whether w, like the weights of this matrix, holds the same numbers."""
        return torch.equal(self._w, w)

    @property
    def words(self) -> str:
        """How products are computed, and whether memory ran out on the way."""
        cut = self._work.halvings
        return self._bound.words + (f"; chunks halved {cut} times for lack of memory" if cut else "")

    @property
    def is_exact(self) -> bool:
        """Whether products are second derivatives, and not differences of first ones."""
        return self._bound.is_exact

    def product(self, V: Tensor) -> Tensor:
        """The product with one vector ``(dim,)`` or a block ``(dim, k)``, in the shape of ``V``.

        Raises:
            ValueError: if V is not of that shape, or the first product shows that products cannot be trusted.
            ApartError: if another process was given another V.
        """
        require_like(V, self._w, "V", columns=True)
        columns = V.reshape(len(self._w), -1)
        (image,), _ = self._work.means(
            self._work.terms,
            lambda term: (self._bound.product(term, columns),),
            like=(columns,),
            release=self._bound.release,
            same=columns,
        )
        self._require_certified()
        return image.reshape(V.shape)

    def _require_certified(self) -> None:
        key = f"{self.kind.name}, {'exact' if self.is_exact else 'by differences'}"
        if key not in self._certified:
            by_steps = [differences_at(self.kind, step) for step in STEPS]
            at, again = (self.kind.at, None) if self.is_exact else by_steps
            certify(self.kind, self._work.definition, self._w, self._work.batches, at=at, again=again)
            self._certified.add(key)


class Remembered:
    """The matrix that was asked for last, so that its graphs serve again when it is asked for once more."""

    def __init__(self) -> None:
        self._w: Tensor | None = None
        self._matrix: CurvatureAt | None = None

    def at(self, kind: Curvature, w: Tensor, make: Callable[[Curvature, Tensor], CurvatureAt]) -> CurvatureAt:
        """The matrix of this kind at w: the last one when w is the same tensor and holds the same numbers."""
        last = self._matrix  # a version counter misses what numpy or .data writes, and inference tensors have none
        if last is None or self._w is not w or last.kind != kind or not last.is_at(w):
            del last
            self._matrix = None  # its graphs go before others come
            last = self._matrix = make(kind, w)
            self._w = w
        return last
