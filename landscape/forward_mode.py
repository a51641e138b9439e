"""Products with curvature matrices by forward-over-reverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.curvatures import Curvature
from landscape.memory import is_out_of_memory
from landscape.processes import Sharing
from landscape.products import NoSecondDerivativeError
from landscape.terms import Term
from landscape.ways import Bound, Bytes, Products


class ForwardOverReverse(Products):
    """By forward-over-reverse (Pearlmutter 1994), all columns of a block in one pass: nothing is kept.

    Models whose operations have no forward derivative, or that change buffers in place, cannot be taken this way.
    """

    def bind(
        self, curvature: Curvature, w: Tensor, terms: Sequence[Term], *, graph_bytes: Bytes, sharing: Sharing
    ) -> Bound:
        """See :class:`Products`."""
        del terms, graph_bytes, sharing
        return _Forward(curvature, w)


class _Forward(Bound):
    words = "forward-over-reverse"

    def __init__(self, curvature: Curvature, w: Tensor) -> None:
        self.curvature, self.w = curvature, w
        self.counts: dict[Term, Tensor | float] = {}

    def product(self, term: Term, V: Tensor) -> Tensor:
        if term not in self.counts:
            with torch.no_grad():
                term.outputs(self.w)
            self.counts[term] = term.count
        try:
            return self.curvature.forward(term, self.w)(V)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            raise NoSecondDerivativeError(
                f"this model cannot be taken forward-over-reverse ({' '.join(str(error).split())[:200]}). Leave out "
                "products=ForwardOverReverse()."
            ) from None
        finally:
            term.count = self.counts[term]  # and not what the transforms have made of it
